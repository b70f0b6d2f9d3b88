"""Other programs: run one with a limit, or exchange a request and its answer with one that may run untrusted code."""

from __future__ import annotations

import os
import pwd
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any, cast

from reconciler.errors import Retryable

# Far more than any engine says about arguments; what is read out of so much takes some fifty times as much memory.
LONGEST = 2 << 20
_PIECE = 1 << 16
_LOOK = 0.25


class NoAnswer(Retryable):
    """A program cannot be run, or did not end in time; `why` without the program's name."""

    def __init__(self, text: str, why: str, timed_out: bool = False) -> None:
        super().__init__(text)
        self.why = why
        self.timed_out = timed_out


def run_program(
    argv: Sequence[str], seconds: float, path: str, user: pwd.struct_passwd | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end: without input, and with nothing of our environment. Raises NoAnswer.

    `path` is where programs are found; `user` is another one to run it as, with all groups.
    """
    who: dict[str, Any] = {}
    if user is not None:
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": os.getgrouplist(user.pw_name, user.pw_gid)}
    env = {"PATH": path, "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, env=env, cwd="/", timeout=seconds, check=False, **who
        )
    except subprocess.TimeoutExpired:
        limit = f"within {seconds:g} s"
        raise NoAnswer(f"{argv[0]} did not end {limit}", f"no answer {limit}", timed_out=True) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise NoAnswer(f"{argv[0]} cannot be run: {why}; install it on this host", why) from None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group of its own, with all that it started there."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class TooMuchError(Exception):
    """Its output is larger than the limit."""


def exchange(
    process: subprocess.Popen[bytes],
    request: bytes,
    seconds: float,
    most: int = LONGEST,
    in_all: float = 0.0,
    watch: Callable[[], None] | None = None,
) -> tuple[bytes, bytes]:
    """All of its output and errors, once it ended. All three streams are pipes. It is not ended here.

    It has `seconds`; with `in_all`, so many for each sign of progress, and that many altogether. `watch` is called some
    times a second. Raises what that raises, subprocess.TimeoutExpired, and TooMuchError after `most` bytes of both
    together.
    """
    begun = time.monotonic()
    ends, look_at = begun + seconds, begun
    if not (process.stdin and process.stdout and process.stderr):
        raise ValueError("all three streams have to be pipes")
    output = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as open_ones:
        os.set_blocking(process.stdin.fileno(), False)
        open_ones.register(process.stdin, selectors.EVENT_WRITE)
        for stream in output:
            open_ones.register(stream, selectors.EVENT_READ)
        while open_ones.get_map():
            left = _left(process, ends, seconds)
            for key, _ in open_ones.select(min(left, _LOOK) if watch else left):
                stream = cast("IO[bytes]", key.fileobj)
                if stream is process.stdin:
                    request = _tell(open_ones, stream, request)
                elif piece := os.read(key.fd, _PIECE):
                    output[stream] += piece
                else:
                    open_ones.unregister(stream)
                if in_all:
                    ends = min(time.monotonic() + seconds, begun + in_all)
            if sum(map(len, output.values())) > most:
                raise TooMuchError
            if watch and time.monotonic() >= look_at:
                watch()
                look_at = time.monotonic() + _LOOK
    process.wait(_left(process, ends, seconds))
    return bytes(output[process.stdout]), bytes(output[process.stderr])


def _left(process: subprocess.Popen[bytes], ends: float, seconds: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise subprocess.TimeoutExpired(process.args, seconds)
    return left


def _tell(open_ones: selectors.BaseSelector, stream: IO[bytes], request: bytes) -> bytes:
    """What is left to send; the process may have closed its stdin."""
    try:
        request = request[os.write(stream.fileno(), request) :]
    except BrokenPipeError:
        request = b""
    if not request:
        open_ones.unregister(stream)
        stream.close()
    return request
