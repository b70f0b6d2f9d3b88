"""Runs the program that downloads a model: the port, and its implementation by child processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from reconciler.errors import Retryable
from reconciler.host.process.children import ChildProcesses
from reconciler.host.process.logs import open_log
from reconciler.host.staging import state as states
from reconciler.system import procfs
from reconciler.system.procfs import Identity

USER = "reconciler-fetch"
"""Who fetches where replicas are units."""

PACKAGE = Path(states.__file__).parents[2]
START = Path("host", "staging", "download", "start.py")
PATH = "/usr/local/bin:/usr/bin:/bin"
NOT_YET_KNOWN = Identity(0, 0, "")
"""It runs, but does not tell yet who it is."""


class Fetcher(Protocol):
    """Runs a program for each model's folder, which keeps running when the daemon ends. Raises OSError or Retryable."""

    def prepare(self, folder: Path) -> None:
        """Make the folder, the program's own; nothing runs for it."""

    def start(self, folder: Path, order: bytes) -> Identity:
        """Run the program. No other user sees the request: there are credentials in it."""

    def find(self, folder: Path) -> Identity | None:
        """The process that downloads into this folder; None if there is none."""

    def kill(self, folder: Path) -> None:
        """Begin to end it."""

    def reap(self, who: Identity) -> None:
        """It has ended."""

    def close(self) -> None:
        """Running programs keep running."""


class FetchProcess:
    """A child process, known by the lock that it holds: so no process id has to be trusted."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._children = ChildProcesses()

    def prepare(self, folder: Path) -> None:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)

    def start(self, folder: Path, order: bytes) -> Identity:
        """The lock goes over to the program: it is held as long as that runs, whatever becomes of us."""
        log = open_log(folder / states.LOG)
        try:
            os.ftruncate(log, 0)
            with _opened(folder, create=True) as lock, in_memory(order) as told:
                # A reader holds it for a moment only.
                fcntl.flock(lock, fcntl.LOCK_EX)
                env = {"PATH": PATH, "HOME": str(folder / states.HOME), "LANG": "C.UTF-8"}
                argv = (str(self._python), "-I", str(PACKAGE / START))
                try:
                    who = self._children.spawn(argv, env, str(folder), log, told, (lock,))
                except OSError as error:
                    raise cannot_start(self._python, error.strerror or str(error)) from None
                os.ftruncate(lock, 0)
                os.pwrite(lock, json.dumps([who.pid, who.started, who.boot]).encode(), 0)
                return who
        finally:
            os.close(log)

    def find(self, folder: Path) -> Identity | None:
        try:
            with _opened(folder) as lock:
                return None if _is_free(lock) else _holder(lock)
        except FileNotFoundError:
            return None

    def kill(self, folder: Path) -> None:
        who = self.find(folder)
        if who is not None and who != NOT_YET_KNOWN:
            # It may be killed at any moment, and needs no graceful end.
            procfs.send_signal(who, signal.SIGKILL)

    def reap(self, who: Identity) -> None:
        self._children.is_running(who)

    def close(self) -> None:
        pass


def cannot_start(python: Path, why: str) -> Retryable:
    return Retryable(f"cannot start {python}: {why}; check targets[].storage.python")


@contextlib.contextmanager
def in_memory(data: bytes) -> Iterator[int]:
    """A descriptor to read it from, which no disk is behind."""
    told = os.memfd_create("order")
    try:
        os.write(told, data)
        os.lseek(told, 0, os.SEEK_SET)
        yield told
    finally:
        os.close(told)


@contextlib.contextmanager
def _opened(folder: Path, create: bool = False) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    descriptor = os.open(folder / states.LOCK, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> Identity:
    """Who wrote its name into the lock; not yet known in the moment after a start."""
    try:
        pid, started, boot = json.loads(os.pread(lock, 256, 0))
        return Identity(int(pid), int(started), str(boot))
    except (ValueError, TypeError):
        return NOT_YET_KNOWN
