"""Steps of an installation: each describes itself before it runs, and whether it is needed."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.system.files import replace_file


class Incomplete(Exception):
    """A step succeeded in part; the message says what is left and why. The following steps are still performed."""


@dataclass(frozen=True, slots=True)
class Step:
    """`what` is an imperative for users. A step that is not needed was done before, or manually."""

    what: str
    needed: bool
    do: Callable[[], object]


class StepResult(StrEnum):
    """What became of a step."""

    DONE = "done"
    UNCHANGED = "unchanged"
    LEFT = "left"  # in part
    WOULD = "would"  # nothing is to be changed


@dataclass(frozen=True, slots=True)
class Done:
    """A step, and what became of it."""

    result: StepResult
    what: str


def carry_out(steps: Iterable[Step], dry_run: bool) -> Iterator[Done]:
    """Each step is requested after the one before it was performed, so that it sees the changes. Raises Retryable."""
    for step in steps:
        if not step.needed:
            yield Done(StepResult.UNCHANGED, step.what)
        elif dry_run:
            yield Done(StepResult.WOULD, step.what)
        else:
            yield _do(step)


def _do(step: Step) -> Done:
    try:
        step.do()
    except Incomplete as left:
        return Done(StepResult.LEFT, f"{step.what}: {left}")
    except OSError as error:
        raise Retryable(f"cannot {step.what}: {error.strerror or error}; run this again once it is fixed") from None
    return Done(StepResult.DONE, step.what)


def make_folder(path: Path, mode: int) -> Step:
    """It may have been restricted further: its mode is left alone then."""

    def make() -> None:
        path.mkdir(parents=True)
        path.chmod(mode)

    return Step(f"make the folder {path} with mode {mode:04o}", not path.is_dir(), make)


def write_file(path: Path, data: bytes, mode: int, keep: bool = False) -> Step:
    """With `keep`, a file that is there stays as it is."""

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data, mode)
        path.chmod(mode)

    there = path.is_file()
    needed = not there if keep else not there or path.read_bytes() != data
    return Step(f"write {path} with mode {mode:04o}", needed, write)


def close_file(path: Path, user: str) -> Step:
    """Only this user may read it; an empty name keeps the owner."""
    owner = pwd.getpwnam(user).pw_uid if user else None

    def close() -> None:
        path.chmod(0o600)
        if owner is not None:
            os.chown(path, owner, -1)

    there = path.stat() if path.is_file() else None
    needed = there is not None and (bool(there.st_mode & 0o077) or owner not in (None, there.st_uid))
    return Step(f"close {path} to all but {user or 'its owner'}", needed, close)


def delete_file(path: Path) -> Step:
    return Step(f"delete {path}", path.exists(), path.unlink)
