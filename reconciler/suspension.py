"""Which services a person has suspended: one small file, so that it outlives the daemon."""

from __future__ import annotations

import json
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.files import make_folder, write_atomically

EVERYTHING = "*"


class Suspension:
    """Names (`namespace/name`, or `*` for all) of what is looked at and left alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> frozenset[str]:
        """Raises Retryable when the file cannot be read: unknown is not missing."""
        try:
            return frozenset(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError) as error:
            raise Retryable(f"{self._path}: cannot be read: {error}; remove it to suspend nothing") from None

    def add(self, service: str | None) -> None:
        """Suspend one service, or everything."""
        self._write(self.names() | {service or EVERYTHING})

    def lift(self, service: str | None) -> None:
        """Let one service go on, or everything."""
        if service is None:
            self._write(frozenset())
        elif EVERYTHING in self.names():
            raise Retryable("the whole target is suspended; `reconciler resume` without a service lifts that")
        else:
            self._write(self.names() - {service})

    def _write(self, names: frozenset[str]) -> None:
        try:
            make_folder(self._path.parent)
            write_atomically(self._path, json.dumps(sorted(names)).encode())
        except OSError as error:
            raise Retryable(f"{self._path}: cannot be written: {error.strerror}") from None
