"""Limits of what is started: sizes and characters of arguments, and flags that an installed vLLM does not know.

A folder holds one small file for each engine that does not know a flag. It is written with a verdict of that engine,
and read whenever a replica is started, for then there may be no verdict at hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from reconciler.engines.launch import DISPENSABLE
from reconciler.system.files import write_atomically

# The kernel's limit for one string, with its last byte (MAX_ARG_STRLEN: 32 pages of 4 KiB).
LONGEST_STRING = 131_072
# Of vLLM 0.32: a ring of ten pieces, each so many MiB unless configured otherwise.
_PIECES, _PIECE_MIB = 10, "16"
# The kernel stores a pointer to each string in addition.
_POINTER = 8
# Engines were asked about these from the first release on, so a file does not name those of them that are known.
_ALWAYS_ASKED = frozenset({"--shutdown-timeout", "--uds"})
_KNOWN = "known "


def unfit_argument(text: str) -> str:
    """Why an argument cannot be handed over; empty when it can."""
    fault = _fault(text, text)
    return fault and f"the argument {_start_of(text)} {fault}"


def unfit_variables(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that cannot be handed over, and why. No message holds a value."""
    for name, value in env.items():
        if not name or "=" in name:
            yield name, f"{name!a} cannot be the name of a variable"
        elif fault := _fault(f"{name}={value}", value):
            yield name, f"variable {name} {fault}"


def too_large(argv: Iterable[str], env: Mapping[str, str], most: int) -> str:
    """Why arguments and variables together cannot be handed over; empty when they can."""
    strings = (*argv, *(f"{name}={value}" for name, value in env.items()))
    size = sum(len(_encoded(each) or b"") + 1 + _POINTER for each in strings)
    return f"its arguments and variables have {size:,} bytes, and {most:,} are possible" if size > most else ""


def ring_bytes(env: Mapping[str, str]) -> int:
    """The shared memory that vLLM insists on before it starts workers in processes of their own."""
    piece = env.get("VLLM_MQ_MAX_CHUNK_BYTES_MB", _PIECE_MIB)
    return _PIECES * (int(piece) << 20) if piece.isdecimal() and len(piece) < 7 else 0


def _fault(string: str, shown: str) -> str:
    if "\0" in string:
        return "holds a NUL character, which ends every string of a process; remove it"
    encoded = _encoded(string)
    if encoded is None:
        at = next(index for index, each in enumerate(shown) if "\ud800" <= each <= "\udfff")
        return f"holds half a character (U+{ord(shown[at]):04X}, at position {at + 1}); remove it"
    if len(encoded) >= LONGEST_STRING:
        return (
            f"has {len(encoded):,} bytes, and no process takes more than {LONGEST_STRING - 1:,} in one; "
            "put it into a file (a mounted Secret or the model's folder) and name that"
        )
    return ""


def _encoded(string: str) -> bytes | None:
    try:
        return string.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def _start_of(token: str) -> str:
    shown = token.partition("=")[0] if token.startswith("-") else token
    return ascii(shown) if len(shown) <= 60 else f"{shown[:60]!a}…"


_SUFFIX = ".lacks.json"


class Lacks:
    """What is known of engines, each named by its interpreter and its version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[str, str], frozenset[str]] = {}

    def of(self, engine: tuple[str, str]) -> frozenset[str]:
        """The flags that may not be given to it."""
        if engine not in self._known:
            self._known[engine] = self._read(engine)
        return self._known[engine]

    def note(self, engine: tuple[str, str], flags: frozenset[str]) -> None:
        """The flags unknown to this engine now. What cannot be kept is determined again by a later daemon."""
        flags &= DISPENSABLE
        if flags == self.of(engine):
            return
        self._known[engine] = flags
        known = (f"{_KNOWN}{flag}" for flag in DISPENSABLE - flags - _ALWAYS_ASKED)
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(engine), json.dumps(sorted([*flags, *known])).encode())

    def keep(self, engines: Collection[tuple[str, str]]) -> None:
        """Delete all others. What cannot be deleted is deleted another time."""
        self._known = {engine: flags for engine, flags in self._known.items() if engine in engines}
        kept = {self._path(engine) for engine in engines}
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _read(self, engine: tuple[str, str]) -> frozenset[str]:
        """A flag that the engine was not asked about, because an older daemon did not add it, may be unknown to it."""
        entries: set[str] = set()
        with contextlib.suppress(OSError, ValueError, TypeError):
            entries = set(json.loads(self._path(engine).read_bytes()))
        unasked = {flag for flag in DISPENSABLE - _ALWAYS_ASKED if f"{_KNOWN}{flag}" not in entries}
        return frozenset(entries & DISPENSABLE | unasked)

    def _path(self, engine: tuple[str, str]) -> Path:
        return self._folder / f"{hashlib.sha256(json.dumps(engine).encode()).hexdigest()[:32]}{_SUFFIX}"


def is_file_of_lacks(name: str) -> bool:
    """Is this the name of such a file?"""
    return name.endswith(_SUFFIX)
