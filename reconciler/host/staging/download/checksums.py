"""Checksums as sources offer them, computed while a file is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol


class Checksum(Protocol):
    """Fed with a file from its beginning to its end."""

    def update(self, data: bytes) -> None: ...

    def matches(self) -> bool: ...


class WholeFile:
    """One hash of everything."""

    def __init__(self, algorithm: str, expected: bytes) -> None:
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._expected = expected

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def matches(self) -> bool:
        return self._hash.digest() == self._expected


@dataclass
class PartByPart:
    """The ETag of an S3 object that was uploaded in parts: the md5 of the parts' md5s, and their number."""

    part_size: int
    expected: str
    _parts: list[bytes] = field(default_factory=list)
    _open: Any = None
    _length: int = 0

    def update(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            if self._open is None:
                self._open, self._length = hashlib.md5(usedforsecurity=False), 0
            piece = rest[: self.part_size - self._length]
            self._open.update(piece)
            self._length += len(piece)
            rest = rest[len(piece) :]
            if self._length == self.part_size:
                self._close()

    def matches(self) -> bool:
        if self._open is not None:
            self._close()
        whole = hashlib.md5(b"".join(self._parts), usedforsecurity=False).hexdigest()
        return f"{whole}-{len(self._parts)}" == self.expected

    def _close(self) -> None:
        self._parts.append(self._open.digest())
        self._open = None


class Nothing:
    """The source offers no checksum: the size is all there is to compare."""

    def update(self, data: bytes) -> None:
        pass

    def matches(self) -> bool:
        return True
