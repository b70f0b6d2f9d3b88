"""What another user can read of a folder that we show to them, wherever it lies."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from pathlib import Path

from reconciler.errors import Retryable

_SECONDS = 10.0
# Access lists may open what modes close: so whoever is to read is asked. What cannot be listed stands for itself.
_TRY = 'ls -- "$1" >/dev/null || { echo "$1"; exit; }; for f; do test -r "$f" || { echo "$f"; exit; }; done'
# What engines read; whatever else lies there is nobody's concern.
_READ = frozenset({".json", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".model", ".txt", ".py", ".jinja"})


def find_unreadable(folder: Path, model: str | None, reader: str) -> Path | None:
    """The first of a model's files in `folder / model` that this user cannot read; None if all of them can be.

    Without a model, the folder itself. Folders above `folder` do not count: a unit is shown this one alone. Raises
    OSError, Retryable.
    """
    here = Path(model or ".")
    files = _files(folder / here) if model else []
    if _is_open(folder) and _is_open(folder / here) and all(each.stat().st_mode & stat.S_IROTH for each in files):
        return None
    said = _ask(folder, [str(here), *(str(here / each.name) for each in files)], reader)
    return folder / said if said else None


def can_read(path: str, reader: str) -> bool:
    """Can this user read a file, through all folders above it? Raises Retryable; OSError."""
    return not _ask(Path("/"), [path], reader)


def stamp_of(folder: Path) -> tuple[int, ...]:
    """Changes when one of a model's files, or its folder, is closed or opened: the folder's own stamp does not.

    Empty where this cannot be told.
    """
    try:
        return (folder.stat().st_ctime_ns, *sorted(each.stat().st_ctime_ns for each in _files(folder)))
    except OSError:
        return ()


def _files(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [each for each in entries if Path(each.name).suffix in _READ and each.is_file()]


def _ask(folder: Path, paths: list[str], reader: str) -> str:
    try:
        user = pwd.getpwnam(reader)
    except KeyError:
        # Nobody to ask; the start says so.
        return ""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", _TRY, "sh", *paths],
            # Entered while we are still ourselves.
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=os.getgrouplist(reader, user.pw_gid),
            env={"PATH": "/usr/bin:/bin"},
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Retryable(f"{folder}: cannot be read within {_SECONDS:g} s; see to its disk") from None
    return os.fsdecode(done.stdout).strip("\n")


def _is_open(folder: Path) -> bool:
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IROTH and mode & stat.S_IXOTH)
