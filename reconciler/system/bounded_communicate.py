"""Send a request to a process and read its output, within a time and size limit: it may run untrusted code."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable
from typing import IO, cast

# Far more than any engine says about arguments; what is read out of so much takes some fifty times as much memory.
LONGEST = 2 << 20
_PIECE = 1 << 16
_LOOK = 0.25


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
    said = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as open_ones:
        os.set_blocking(process.stdin.fileno(), False)
        open_ones.register(process.stdin, selectors.EVENT_WRITE)
        for stream in said:
            open_ones.register(stream, selectors.EVENT_READ)
        while open_ones.get_map():
            left = _left(process, ends, seconds)
            for key, _ in open_ones.select(min(left, _LOOK) if watch else left):
                stream = cast("IO[bytes]", key.fileobj)
                if stream is process.stdin:
                    request = _tell(open_ones, stream, request)
                elif piece := os.read(key.fd, _PIECE):
                    said[stream] += piece
                else:
                    open_ones.unregister(stream)
                if in_all:
                    ends = min(time.monotonic() + seconds, begun + in_all)
            if sum(map(len, said.values())) > most:
                raise TooMuchError
            if watch and time.monotonic() >= look_at:
                watch()
                look_at = time.monotonic() + _LOOK
    process.wait(_left(process, ends, seconds))
    return bytes(said[process.stdout]), bytes(said[process.stderr])


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
