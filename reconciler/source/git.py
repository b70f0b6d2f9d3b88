"""One door to git: a fixed argument list in, bytes out, under the mirror's lock, ended with the daemon or at a limit.

Programs of a daemon that died are waited for, because what they fetched is useful, and ended when they hang.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable, Stopping, Terminal
from reconciler.system import procfs
from reconciler.system.programs import NoAnswer, TooMuchError, exchange, run_program


class Ending:
    """Checked several times a second by everything that may wait for long."""

    def __init__(self) -> None:
        self._begun = threading.Event()

    def begin(self) -> None:
        self._begun.set()

    def check(self) -> None:
        """Raises Stopping once it has begun."""
        if self._begun.is_set():
            raise Stopping("git was not read: the daemon is ending")


_SECONDS_TO_DIE = 5.0
Orphans = dict[procfs.Identity, float]


def await_lock(descriptor: int, lock: Path, mark: str, timeout: float, ending: Ending) -> None:
    """Take it. Raises Retryable. `mark` is in the environment of git's processes, and of no others."""
    began = time.monotonic()
    looked_at, deadline, orphans = began + min(1.0, timeout / 2), began + timeout, None
    while True:
        ending.check()
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
        if orphans is None and now >= looked_at:
            orphans = _find_orphans(lock, mark)
        if now >= deadline:
            if not orphans or _find_orphans(lock, mark) != orphans:
                raise Retryable(f"{lock.parent} is in use by another git call; trying again later")
            for who in orphans:
                procfs.send_signal(who, signal.SIGKILL)
            deadline, orphans = now + _SECONDS_TO_DIE, {}
        time.sleep(0.02)


def _find_orphans(lock: Path, mark: str) -> Orphans:
    """git's processes that hold it and whose daemon died, and what each of them has computed so far."""
    there = procfs.openers({os.path.realpath(lock)})
    gits = {pid for pid in there if mark.encode() in procfs.read_environment(pid)}
    parents = {stat.parent for pid in gits if (stat := procfs.read_stat(pid))}
    if parents & (there - gits):
        return {}
    return {who: procfs.cpu_seconds(who.pid) for pid in gits if (who := procfs.identify(pid))}


# A listing of half a million files; what can be asked for more says so itself.
LONGEST_ANSWER = 64 << 20
_FOREVER = 86_400.0
# A history of ten million objects fits. A few kilobytes of deltas may unfold to one object that fills any memory.
MOST_MEMORY = 2 << 30
_SECONDS_TO_END = 2.0
# Of whether git runs at all; the daemon cannot cut this short when it ends.
_LONGEST_CHECK = 20.0


class GitFailed(Exception):
    """git failed. `said` is its output; others wrote parts of it, so it must be scrubbed before it is shown."""

    def __init__(self, status: int, output: str) -> None:
        super().__init__(output)
        self.status = status
        self.output = output


class GitTimedOut(GitFailed):
    """git did not answer in time and was killed."""

    def __init__(self, output: str) -> None:
        super().__init__(-1, output)


class GitSaidTooMuch(GitFailed):
    """git was killed because its answer has no end, or none that anything here could hold."""

    def __init__(self, most: int) -> None:
        super().__init__(-1, f"its output has more than {most:,} bytes")


def run_git(
    *arguments: str,
    env: Mapping[str, str],
    timeout: float,
    stdin: bytes = b"",
    keep_open: tuple[int, ...] = (),
    most: int = LONGEST_ANSWER,
    in_all: float = 0.0,
    largest_file: int = 0,
    watch: Callable[[], None] | None = None,
    with_errors: bool = False,
) -> bytes:
    """The standard output of git, and its errors after it if asked for. Raises GitFailed, or Terminal without git.

    `arguments` must be constants, checked names, or stand after `--`: GitPython's own checks do not cover this call.
    `keep_open` are descriptors that git and its children hold until they end. git may print `most` bytes. `timeout` is
    the longest silence where `in_all`, the longest time, is given as well; 0 is no limit. No file that git writes may
    have more than `largest_file` bytes. What `watch` raises, while git works, ends it.
    """
    # GitPython's own timeout finds the children to kill with pgrep or ps, which small images do not have, and then
    # waits forever on the pipe that they hold. So it only starts git here, in a session of its own that can be killed
    # whole.
    started = _gitpython(min(timeout or _LONGEST_CHECK, _LONGEST_CHECK))(os.sep).execute(
        [*_forget_inherited(env), "git", *arguments],
        as_process=True,
        istream=subprocess.PIPE,
        env=env,
        start_new_session=True,
        pass_fds=keep_open,
    )
    process: subprocess.Popen[bytes] = started.proc
    _limit(process.pid, largest_file)
    begun = time.monotonic()
    try:
        out, output = exchange(process, stdin, timeout or _FOREVER, most, in_all, watch)
    except subprocess.TimeoutExpired:
        _end(process)
        raise GitTimedOut(_too_slow(timeout, in_all, time.monotonic() - begun)) from None
    except TooMuchError:
        _end(process)
        raise GitSaidTooMuch(most) from None
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        raise GitFailed(process.returncode, output.decode("utf-8", "replace"))
    return out + output if with_errors else out


def _limit(pid: int, largest_file: int) -> None:
    """What git starts inherits it. From outside: code between fork and exec is not safe where threads run."""
    limits = {resource.RLIMIT_DATA: MOST_MEMORY} | ({resource.RLIMIT_FSIZE: largest_file} if largest_file else {})
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, (allowed, allowed))


def _too_slow(timeout: float, in_all: float, spent: float) -> str:
    if in_all and spent >= in_all:
        return f"not done within {in_all:g} s, 60 times source.timeout; raise that if the repository is so large"
    return f"no response within {timeout:g} s, which is source.timeout"


def _gitpython(timeout: float) -> Any:
    # Imported here because it costs 160 ms and fails where there is no git.
    if "git" not in sys.modules:
        _check_answers(timeout)
    try:
        from git import Git
    except ImportError as error:
        raise Terminal("git cannot be run: no git was found on PATH; install git 2.32 or newer") from error
    return Git


def _check_answers(timeout: float) -> None:
    """GitPython asks git for its version when it is imported, and would wait for that forever."""
    try:
        run_program(["git", "version"], timeout, os.environ.get("PATH", os.defpath))
    except NoAnswer as error:
        if error.timed_out:
            raise GitTimedOut(f"`git version` gave no response within {timeout:g} s") from None
        # The import says what is wrong.
        return


def _forget_inherited(env: Mapping[str, str]) -> list[str]:
    """GitPython adds our variables to the daemon's own, so one like GIT_SSL_NO_VERIFY has to be taken out again."""
    inherited = sorted(name for name in os.environ if name.startswith("GIT_") or name == "SSH_ASKPASS")
    unwanted = [f"-u{name}" for name in inherited if name not in env]
    return ["env", *unwanted] if unwanted else []


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it started."""
    # SIGTERM first: git then removes its own half-written files and locks.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if _is_gone(process, time.monotonic() + _SECONDS_TO_END):
            break
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _is_gone(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Is nothing left of its group? What git started may outlive git itself by a moment."""
    while time.monotonic() < deadline:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False
