"""Deleting folders as far as possible: a mount, or a file that cannot be deleted, does not protect others."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reconciler.host.install.steps import Incomplete, Step

_SHOWN = 5


def delete_folder(folder: Path) -> Step:
    """Delete it with all that is in it, also in what is mounted there."""
    return Step(f"delete the folder {folder}", folder.exists(), lambda: _delete(folder))


def _delete(folder: Path) -> None:
    """Raises Incomplete."""
    left: dict[Path, OSError] = {}
    whole = folder.resolve()
    _remove_tree(whole, lambda _, path, problem: left.setdefault(Path(path), _error(problem)))
    if folder.is_symlink() and not left:
        folder.unlink()
    # What is left in a folder is also why the folder is left.
    reasons = [path for path, problem in left.items() if problem.errno != errno.ENOTEMPTY]
    if left:
        raise Incomplete(_reasons_text([_why(path, left[path]) for path in reasons or left]))


def _remove_tree(folder: Path, note: Callable[[Any, str, Any], object]) -> None:
    options: dict[str, Any] = {"onexc" if sys.version_info >= (3, 12) else "onerror": note}
    shutil.rmtree(folder, **options)


def _error(problem: Any) -> OSError:
    """The error itself; before Python 3.12 it comes with its class and its traceback."""
    error = problem[1] if isinstance(problem, tuple) else problem
    return error if isinstance(error, OSError) else OSError(str(error))


def _why(path: Path, problem: OSError) -> str:
    if problem.errno == errno.EBUSY:
        what = "is emptied, but a file system is mounted there" if path.is_dir() else "is mounted there by itself"
        return f"{path} {what}: umount {path}, then delete it"
    return f"{path}: {problem.strerror or problem}"


def _reasons_text(reasons: list[str]) -> str:
    more = [f"and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
    return "; ".join([*reasons[:_SHOWN], *more])


def holds_files(folder: Path) -> bool:
    """Is there anything but folders, such as an earlier deletion leaves where something is mounted? Raises OSError."""
    return any(_files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for each in folder.iterdir():
        if each.is_symlink() or not each.is_dir():
            yield each
        else:
            yield from _files(each)
