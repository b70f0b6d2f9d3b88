"""What is remembered of applied objects, in one file. It is a cache: without it each object is applied once more."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import TypeAdapter

from reconciler.cluster.objects.compare import Applied
from reconciler.cluster.observed import Remembered
from reconciler.cluster.rollout.additions import Additions
from reconciler.model import ObjectId
from reconciler.system.files import write_atomically

_ADDITIONS = TypeAdapter(Additions)
_VERSION = 1
_MOST_BYTES = 64 << 20


class Memory:
    """For any number of threads. `key` is for hashes of what must not be guessed from them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._known: dict[ObjectId, Remembered]
        self.key, self._known = _read(path)
        self._seen: Mapping[ObjectId, Remembered] | None = None
        self._is_new = False

    def now(self) -> Mapping[ObjectId, Remembered]:
        """All of it; the same object while nothing changed."""
        with self._lock:
            if self._seen is None:
                self._seen = dict(self._known)
            return self._seen

    def note(self, one: ObjectId, found: Remembered) -> None:
        """An object was applied."""
        with self._lock:
            self._known[one] = found
            self._seen, self._is_new = None, True

    def confirm(self, found: Mapping[ObjectId, Applied]) -> None:
        """What was compared is quicker compared the next time. Not worth a write."""
        with self._lock:
            for one, applied in found.items():
                known = self._known.get(one)
                if known is not None and known.applied is not applied:
                    self._known[one] = replace(known, applied=applied)
                    self._seen = None

    def keep(self, members: frozenset[ObjectId]) -> None:
        """Forget what is not ours any more."""
        with self._lock:
            gone = self._known.keys() - members
            for one in gone:
                del self._known[one]
            if gone:
                self._seen, self._is_new = None, True

    def save(self) -> None:
        """Write it, if anything was applied since. A disk that does not take it costs only time later."""
        with self._lock:
            if not self._is_new:
                return
            self._is_new = False
            entries = [_entry(*each) for each in self._known.items()]
            text = json.dumps({"version": _VERSION, "key": self.key.hex(), "objects": entries})
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, text.encode())


def _entry(one: ObjectId, known: Remembered) -> list[Any]:
    applied = known.applied
    name = [one.group, one.kind, one.namespace, one.name]
    said = [applied.body, applied.uid, applied.projection, applied.resource_version]
    return [name, said, _ADDITIONS.dump_python(known.additions, mode="json"), known.at]


def _read(path: Path) -> tuple[bytes, dict[ObjectId, Remembered]]:
    """Its key and what it remembers; a new key and nothing where it cannot be read."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return _new_key(), {}
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            return _new_key(), {}
        return bytes.fromhex(document["key"]), {
            ObjectId(*name): Remembered(Applied(*said), _ADDITIONS.validate_python(added), float(at))
            for name, said, added, at in document["objects"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return _new_key(), {}


def _new_key() -> bytes:
    return secrets.token_bytes(16)
