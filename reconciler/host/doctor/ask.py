"""Running another program: constant arguments, a time limit, and its output."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from reconciler.config.settings import HostSettings
from reconciler.host.staging.fetcher import USER
from reconciler.system.programs import NoAnswer, run_program

_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class ProgramOutput:
    """What a program printed, and whether it ended well. A program that cannot be started answers why."""

    succeeded: bool
    text: str

    @property
    def last_line(self) -> str:
        return next((line.strip() for line in reversed(self.text.splitlines()) if line.strip()), "no output")


def ask(argv: Sequence[str], user: pwd.struct_passwd | None = None) -> ProgramOutput:
    """Run a program as another user if one is named, and with nothing of our environment but PATH."""
    try:
        done = run_program(argv, _SECONDS, os.environ.get("PATH", os.defpath), user)
    except NoAnswer as error:
        return ProgramOutput(False, error.why)
    # What was asked for, or else what went wrong, is the last that it says.
    succeeded = done.returncode == 0
    output = (done.stderr, done.stdout) if succeeded else (done.stdout, done.stderr)
    return ProgramOutput(succeeded, b"\n".join(output).decode("utf-8", "replace").strip())


def user_of(target: HostSettings) -> pwd.struct_passwd | None:
    """The user that runs the target's replicas, if that is another user than ours and we may act as it."""
    if target.replica_user is None or os.geteuid() != 0:
        return None
    return _look_up(target.replica_user)


def fetcher_of(target: HostSettings) -> pwd.struct_passwd | None:
    """The user that downloads the target's models, if that is another user than the daemon's, and exists."""
    name = fetch_user(target)
    return None if name is None else _look_up(name)


def fetch_user(target: HostSettings) -> str | None:
    """The user that downloads the target's models; None: the daemon's own."""
    match target.kind:
        case "process":
            return None
        case "systemd":
            return USER
        case _:
            assert_never(target.kind)


def _look_up(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
