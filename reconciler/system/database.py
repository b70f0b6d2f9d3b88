"""One sqlite file behind one connection and one lock: its opening, its versions, its writes, and what if it is damaged.

What is kept so can be lost: a file that sqlite cannot use is moved aside and replaced by a new one, with a warning.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from reconciler.errors import Retryable

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DatabaseSchema:
    """What a file holds. Each of `migrations` takes it from `user_version` = its index to the next: never edit one that
    was released. `recreated`: the log event when it had to begin anew; `lost`: what people lose by that."""

    migrations: Sequence[str]
    recreated: str
    lost: str


class Database:
    """For any number of threads. Raises Retryable where the disk does not take something."""

    def __init__(self, path: Path, layout: DatabaseSchema) -> None:
        """Raises Retryable when the folder cannot be written."""
        self._path, self._layout = path, layout
        self._lock = threading.Lock()
        self.connection = self._open_or_recreate()
        self._closed = False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self.connection.close()

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """All of it or nothing."""

        def transaction(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
            return result

        return self.read(transaction)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._closed:
                # To sqlite a closed file is an error like a damaged one, and that would be moved aside.
                raise Retryable(f"cannot use {self._path}: it is closed, the daemon is ending")
            try:
                return work(self.connection)
            except sqlite3.OperationalError as error:
                raise Retryable(f"cannot use {self._path}: {error}; is the disk full or read-only?") from error
            except sqlite3.DatabaseError as error:
                self.connection.close()
                self._move_aside(str(error))
                self.connection = self._open_or_recreate()
                return work(self.connection)

    def _open_or_recreate(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.OperationalError as error:
            raise Retryable(
                f"cannot open {self._path}: {error}; check that its folder exists and belongs to the daemon's user"
            ) from error
        except sqlite3.DatabaseError as error:
            self._move_aside(str(error))
            return self._open()

    def _open(self) -> sqlite3.Connection:
        # Made by us before sqlite sees it: sqlite would use the umask, and gives -wal and -shm the mode of the file.
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError as error:
            raise Retryable(
                f"cannot open {self._path}: {error.strerror}; check that its folder exists and belongs to the "
                "daemon's user"
            ) from error
        db = sqlite3.connect(self._path, isolation_level=None, timeout=5, check_same_thread=False)
        try:
            self._path.chmod(0o600)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(verdict)
            _migrate(db, self._layout.migrations)
        except BaseException:
            db.close()
            raise
        return db

    def _move_aside(self, why: str) -> None:
        aside = self._path.with_name(f"{self._path.name}.unusable-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
        try:
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise Retryable(f"cannot use {self._path}: {why}; nor move it aside: {error.strerror}") from None
        log.warning(self._layout.recreated, reason=why, moved_to=str(aside), lost=self._layout.lost)


def _migrate(db: sqlite3.Connection, migrations: Sequence[str]) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise sqlite3.DatabaseError(
            f"written by a newer reconciler (version {version}, this one reads up to {len(migrations)})"
        )
    for number, script in enumerate(migrations[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


def storable(text: str) -> str:
    """Half a surrogate pair, as JSON and odd file names may hold, is no text to sqlite."""
    return text.encode("utf-8", "backslashreplace").decode()
