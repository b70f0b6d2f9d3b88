"""Standard streams that no terminal, closed descriptor or departed reader can make a command fail by."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import Any, Final

_READABLE: Final = "reconciler.readable"
# Replacements for signs that a terminal cannot show.
_SIMPLER: Final = {
    "…": "...",
    "→": "->",
    "←": "<-",
    "·": "|",
    "─": "-",
    "├": "|",
    "└": "`",
    "\u00d7": "x",
    "\u2013": "-",
    "\u2014": "-",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
}


class OutputLost(Exception):
    """The output cannot be written any more. `reason` is empty when its reader has closed it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _GuardedStdout(io.FileIO):
    """stdout. No OSError: click and rich handle a closed pipe with exit code 1, which means "not converged" here."""

    def write(self, data: Any, /) -> int:
        while True:
            try:
                done: int | None = super().write(data)
            except OSError as error:
                closed = isinstance(error, BrokenPipeError)
                raise OutputLost("" if closed else error.strerror or str(error)) from None
            if done is not None:
                return done
            # Another program has made the terminal non-blocking.
            select.select((), (self,), ())


class _GuardedStderr(io.FileIO):
    """stderr, which may have no reader: the command continues, with the same result."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(memoryview(data).cast("B"))


def guard_streams() -> None:
    """Make stdin, stdout and stderr safe. A closed one becomes /dev/null, so that no other file takes its number."""
    for number in (0, 1, 2):
        _fill(number)
    codecs.register_error(_READABLE, _simplify)
    sys.stdout = _guarded(sys.stdout, _GuardedStdout)
    sys.stderr = _guarded(sys.stderr, _GuardedStderr)


def end_output() -> None:
    """Write what is left, if it is still read. Python flushes once more at exit, and would complain."""
    try:
        sys.stdout.flush()
    except OutputLost:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fill(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def _guarded(stream: Any, raw: type[io.FileIO]) -> io.TextIOWrapper:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    stream.flush()
    buffer = io.BufferedWriter(raw(stream.fileno(), "wb", closefd=False))
    lines = stream.line_buffering or stream is sys.stderr
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors=_READABLE, line_buffering=lines)


def _simplify(error: UnicodeError) -> tuple[str, int]:
    """Replace what a terminal cannot show by characters that all of them can."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escaped = (_SIMPLER.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in missing)
    return "".join(escaped), error.end
