"""Model downloads as separate units: each as a user without other rights, in a sandbox with one folder.

What a source sends is read by large libraries. An attacker who takes one of them over holds the credentials of this one
model and the folder that its files go to; the files of others, the processes of others and the host stay out of reach.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.host.process.logs import open_log, tail_journal
from reconciler.host.staging import state as states
from reconciler.host.staging.fetcher import (
    NOT_YET_KNOWN,
    PACKAGE,
    PATH,
    START,
    USER,
    FetchProcess,
    cannot_start,
    in_memory,
)
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.host.systemd.unit import BEHIND, HARDENING
from reconciler.host.systemd.unit_files import quote_given
from reconciler.system.procfs import Identity, identify
from reconciler.system.programs import NoAnswer, run_program

# That user may not be able to enter the folder in which we are installed.
_INSIDE = "/tmp/reconciler"  # noqa: S108 - a /tmp of its own
_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
_AT_FAULT, _LINES = "Failed at step", 20
_START_SECONDS = 30.0
_KILL_SECONDS = 5.0


class FetchUnit:
    """Runs `python`, which has what it takes, for one target."""

    def __init__(self, target: str, python: Path, systemd: Systemd) -> None:
        self._target = target
        self._python = python
        self._systemd = systemd

    def name(self, folder: Path) -> str:
        return f"reconciler-fetch-{self._target}.{folder.name}.service"

    def prepare(self, folder: Path) -> None:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        user = _user()
        if folder.stat().st_uid != user.pw_uid:
            # Made just now, or by a daemon of before, whose program was a child of it and root.
            _end_child(FetchProcess(self._python), folder)
            _give(folder, user)

    def start(self, folder: Path, order: bytes) -> Identity:
        begun, log = time.time(), _new_log(folder / states.LOG)
        try:
            with in_memory(order) as told:
                argv = command(self.name(folder), self._python, folder, told, log)
                self._run(argv, self.name(folder), begun)
        finally:
            os.close(log)
        return self.find(folder) or NOT_YET_KNOWN

    def find(self, folder: Path) -> Identity | None:
        name = self.name(folder)
        unit = self._systemd.units(name.removesuffix(".service")).get(name)
        if unit is None or unit.active in ("inactive", "failed"):
            return None
        return identify(self._systemd.runs([unit])[name].pid) or NOT_YET_KNOWN

    def kill(self, folder: Path) -> None:
        self._systemd.kill(self.name(folder))

    def reap(self, who: Identity) -> None:
        """systemd does."""

    def close(self) -> None:
        self._systemd.close()

    def _run(self, argv: list[str], name: str, begun: float) -> None:
        try:
            done = run_program(argv, _START_SECONDS, PATH)
        except NoAnswer as error:
            # Else it is started later, with whatever files have the numbers of our descriptors by then.
            with contextlib.suppress(Retryable):
                self._systemd.stop(name)
            raise Retryable(f"{name}: systemd does not start it: {error}") from None
        if done.returncode:
            log_lines = (
                *tail_journal(name, _LINES, begun),
                *done.stderr.decode(errors="replace").splitlines(),
                "systemd gives no reason",
            )
            why = next((line for line in log_lines if _AT_FAULT in line), log_lines[-2:][0])
            raise cannot_start(self._python, f"{why} (as {USER})")


def command(name: str, python: Path, folder: Path, told: int, log: int) -> list[str]:
    """The command that starts the unit and ends once the program runs. It gets both descriptors from us only."""
    run = ["systemd-run", "--quiet", "--collect", f"--unit={name}", "--description=Fetches a model"]
    ours = f"/proc/{os.getpid()}/fd"
    properties = (f"StandardInput=file:{ours}/{told}", f"StandardOutput=append:{ours}/{log}", *_properties(folder))
    run += [f"--property={line}" for line in properties]
    run += [f"--setenv=PATH={PATH}", f"--setenv=HOME={folder / states.HOME}", "--setenv=LANG=C.UTF-8"]
    # systemd expands variables in arguments.
    return [*run, "--", *(argument.replace("$", "$$") for argument in (str(python), "-I", f"{_INSIDE}/{START}"))]


def _properties(folder: Path) -> Iterator[str]:
    yield "Type=exec"
    yield f"User={USER}"
    yield "StandardError=inherit"
    # Folders above it may be closed, and those of other models are nothing to look at.
    yield f"TemporaryFileSystem={quote_given(str(_cover(folder.parent)))}:ro,mode=755"
    yield f"BindPaths={quote_given(str(folder))}"
    yield f"BindReadOnlyPaths={quote_given(str(PACKAGE))}:{_INSIDE}"
    # It may be killed at any moment, and needs no graceful end.
    yield "KillSignal=SIGKILL"
    yield from BEHIND
    # What a source sends may unpack to anything. Files that it writes count as well, and are let go of first.
    yield "MemoryHigh=4G"
    yield "MemoryMax=8G"
    # Credentials are in its memory.
    yield "LimitCORE=0"
    if _has_user_namespaces():
        # Until it closes its memory, others of this user could open all that it has open. Now none can.
        yield "PrivateUsers=yes"
    yield "PrivateDevices=yes"
    yield from HARDENING.splitlines()


def _has_user_namespaces() -> bool:
    """Some hosts forbid them; there a unit that asks for one does not start."""
    try:
        return int(_NAMESPACES.read_text()) > 0
    except (OSError, ValueError):
        return False


def _cover(folder: Path) -> Path:
    """The outermost folder on the way that others may not enter, or else this one."""
    closed = (each for each in reversed(folder.parents) if not each.stat().st_mode & stat.S_IXOTH)
    return next(closed, folder)


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        raise Retryable(f"no user {USER} to download models; reconciler host install creates it") from None


def _end_child(child: FetchProcess, folder: Path) -> None:
    deadline = time.monotonic() + _KILL_SECONDS
    while child.find(folder) is not None:
        child.kill(folder)
        if time.monotonic() > deadline:
            raise Retryable(f"{folder}: the program that fetches it does not end")
        time.sleep(0.02)


def _give(folder: Path, user: pwd.struct_passwd) -> None:
    """The outermost last: whatever happens on the way, it is done again."""
    for here, folders, files in os.walk(folder, topdown=False):
        for each in (*folders, *files):
            os.chown(os.path.join(here, each), user.pw_uid, user.pw_gid, follow_symlinks=False)
    os.chown(folder, user.pw_uid, user.pw_gid)


def _new_log(path: Path) -> int:
    """The folder is the program's: nothing that it may have put there is written to."""
    path.unlink(missing_ok=True)
    return open_log(path)
