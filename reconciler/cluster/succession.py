"""Which processes led for this state folder before: what they held can be taken over at once, as they are dead."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

_MOST_NAMES = 16
_MOST_BYTES = 16 << 10


class Succession:
    """The processes of one folder, one after another. Where two run at once, the second inherits nothing."""

    def __init__(self, path: Path) -> None:
        """`path` lists them; it is locked until `close`, or until this process ends, however it ends."""
        self._path = path
        self._file: int | None = None

    def follow(self, identity: str) -> frozenset[str]:
        """This process takes part as `identity` from now on. The identities of those before it, all of them dead.

        A disk that does not take it costs only time."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            before = os.pread(self._file, _MOST_BYTES, 0).decode(errors="replace").split()
        except OSError:
            return frozenset()
        text = "".join(f"{one}\n" for one in [*before, identity][-_MOST_NAMES:])
        with suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)
        return frozenset(before)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
