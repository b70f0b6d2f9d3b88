"""The main processes that are children of this daemon: only it may reap them, and only it learns how they ended.

And why one could not be started, and who is to blame for that: what git asks for, or this host.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence

from reconciler.engines.limits import too_large, unfit_argument, unfit_variables
from reconciler.errors import ReconcileError, Retryable, Terminal, Unstartable
from reconciler.system import procfs
from reconciler.system.procfs import Identity


class ChildProcesses:
    """Main processes by their identity. Those that were reattached are listed too; they just have no exit code."""

    def __init__(self) -> None:
        self._started: dict[Identity, subprocess.Popen[bytes]] = {}
        self._codes: dict[Identity, int] = {}
        self._reaping = threading.Lock()

    def spawn(
        self,
        argv: Sequence[str],
        env: dict[str, str],
        folder: str,
        log: int,
        stdin: int = subprocess.DEVNULL,
        kept: Sequence[int] = (),
    ) -> Identity:
        """Start the leader of a session of its own. Nothing is open in it but its log and `kept`. Raises OSError."""
        child = subprocess.Popen(
            argv, env=env, cwd=folder, stdin=stdin, stdout=log, stderr=log, start_new_session=True, pass_fds=kept
        )
        # No other process can reap it, so even if it ended at once its start time can be read.
        stat = procfs.read_stat(child.pid)
        who = Identity(child.pid, stat.started if stat else 0, procfs.boot_id())
        self._started[who] = child
        return who

    def is_running(self, who: Identity) -> bool:
        """Does it live? Looking also reaps it."""
        if procfs.is_running(who):
            return True
        with self._reaping:
            self._reap(who)
        return False

    def exit_code(self, who: Identity) -> int | None:
        """Negative for a signal; None while it lives, and for what was never our child."""
        return self._codes.get(who)

    def forget(self, who: Identity) -> None:
        self._codes.pop(who, None)

    def _reap(self, who: Identity) -> None:
        child = self._started.pop(who, None)
        if child is not None:
            self._codes[who] = child.wait()
            return
        # After a config reload the new daemon object has the children of the old one, in the same process.
        stat = procfs.read_stat(who.pid)
        if stat is not None and stat.started == who.started and stat.parent == os.getpid():
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(who.pid, os.WNOHANG)
                if pid:
                    self._codes[who] = os.waitstatus_to_exitcode(status)


_SPECS = (errno.E2BIG, errno.EINVAL)
_PROGRAMS = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP)


def refusal(who: str, argv: Sequence[str], env: Mapping[str, str], error: OSError | ValueError) -> ReconcileError:
    """The error to raise. It names variables, but never shows a value: that may be secret."""
    text = f"{who}: cannot start {argv[0]}: {_reason(error)}"
    if isinstance(error, ValueError) or error.errno in _SPECS:
        return Unstartable("; ".join((text, *_misfits(argv, env))))
    if error.errno in _PROGRAMS:
        return Terminal(f"{text}; the program, or the interpreter that it needs, is not there: check engines[].python")
    if error.errno == errno.ENOSPC:
        return Retryable(f"{text}; free some space" + (f" for {error.filename}" if error.filename else ""))
    return Retryable(text)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "its arguments or variables cannot be given to a process"


def _misfits(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    found = [*filter(None, map(unfit_argument, argv)), *(message for _, message in unfit_variables(env))]
    return found or list(filter(None, [too_large(argv, env, os.sysconf("SC_ARG_MAX"))]))
