"""Flags added by the reconciler that an installed vLLM does not know: older ones are started without them.

A folder holds one small file for each engine that does not know one. It is written with a verdict of that engine, and
read whenever a replica is started, for then there may be no verdict at hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from reconciler.engines.launch import DISPENSABLE
from reconciler.system.files import write_atomically

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
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(engine), json.dumps(sorted(flags)).encode())

    def keep(self, engines: Collection[tuple[str, str]]) -> None:
        """Delete all others. What cannot be deleted is deleted another time."""
        self._known = {engine: flags for engine, flags in self._known.items() if engine in engines}
        kept = {self._path(engine) for engine in engines}
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _read(self, engine: tuple[str, str]) -> frozenset[str]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return frozenset(json.loads(self._path(engine).read_bytes())) & DISPENSABLE
        return frozenset()

    def _path(self, engine: tuple[str, str]) -> Path:
        return self._folder / f"{hashlib.sha256(json.dumps(engine).encode()).hexdigest()[:32]}{_SUFFIX}"


def is_file_of_lacks(name: str) -> bool:
    """Is this the name of such a file?"""
    return name.endswith(_SUFFIX)
