"""Sessions of browsers: who logged in, kept in `sessions.db` so that a restart of the daemon ends none.

The random id is known to the browser alone: the file holds its SHA-256, and who reads the file cannot log in with it.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reconciler.system.database import Database, DatabaseSchema, storable
from reconciler.web.visitors import Role

SESSIONS = "sessions.db"
MOST = 10_000
MOST_OF_ONE = 100
"""Sessions of one person: who begins more ends their own, and nobody else's."""
# A clock that is set back by so much ends no session.
_CLOCK_SECONDS = 60.0
_ID_BYTES = 32
ID_LENGTH = 43

_SCHEMA = DatabaseSchema(
    migrations=(
        """
        CREATE TABLE sessions (
            id_sha256 BLOB PRIMARY KEY,
            name TEXT NOT NULL, role TEXT NOT NULL, source TEXT NOT NULL, begun REAL NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX sessions_by_name ON sessions (name, begun);
        CREATE INDEX sessions_by_begun ON sessions (begun)
        """,
    ),
    recreated="sessions_recreated",
    lost="all logins",
)


@dataclass(frozen=True, slots=True)
class Grant:
    """Why somebody may what they may. `source` names what of the config says so, as it stands there: a session ends
    when the config says something else."""

    name: str
    role: Role
    source: str


@dataclass(frozen=True, slots=True)
class Session:
    """A login that holds. `ends`: seconds since 1970."""

    name: str
    role: Role
    ends: float


class Sessions:
    """For any number of threads. Every method raises Retryable where the disk does not take or give something."""

    def __init__(self, folder: Path, seconds: float, sources: Iterable[str]) -> None:
        """`sources`: those of all grants that the config makes. The file is opened by the first question: a full disk
        must not keep the daemon from starting."""
        self._path = folder / SESSIONS
        self._seconds = seconds
        self._sources = tuple(sources)
        self._opening = threading.Lock()
        self._opened: Database | None = None

    def begin(self, grant: Grant) -> str:
        """Its id: what the browser must show from now on."""
        id_, now = secrets.token_urlsafe(_ID_BYTES), time.time()
        row = (hash_of(id_), storable(grant.name), grant.role.value, grant.source, now)

        def insert(db: sqlite3.Connection) -> None:
            _forget_over(db, now - self._seconds, now + _CLOCK_SECONDS)
            _make_room(db, storable(grant.name))
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row)

        self._database().write(insert)
        return id_

    def find(self, id_: str) -> Session | None:
        """The session with this id, while it holds."""
        if len(id_) != ID_LENGTH:
            return None
        query = "SELECT name, role, begun FROM sessions WHERE id_sha256 = ?"
        row = self._database().read(lambda db: db.execute(query, (hash_of(id_),)).fetchone())
        if row is None or not -_CLOCK_SECONDS <= time.time() - row["begun"] < self._seconds:
            return None
        return Session(row["name"], Role(row["role"]), row["begun"] + self._seconds)

    def end(self, id_: str) -> None:
        """Also one that does not exist."""
        self._database().write(lambda db: db.execute("DELETE FROM sessions WHERE id_sha256 = ?", (hash_of(id_),)))

    def close(self) -> None:
        with self._opening:
            if self._opened is not None:
                self._opened.close()

    def _database(self) -> Database:
        with self._opening:
            if self._opened is None:
                database = Database(self._path, _SCHEMA)
                database.write(self._forget_withdrawn)
                self._opened = database
            return self._opened

    def _forget_withdrawn(self, db: sqlite3.Connection) -> None:
        """What the config no longer grants."""
        marks = ", ".join("?" * len(self._sources))
        db.execute(f"DELETE FROM sessions WHERE source NOT IN ({marks})", self._sources)  # noqa: S608


def _forget_over(db: sqlite3.Connection, before: float, after: float) -> None:
    """Those from the future, when the clock was wrong, would be the last to make room."""
    db.execute("DELETE FROM sessions WHERE begun < ? OR begun > ?", (before, after))


def _make_room(db: sqlite3.Connection, name: str) -> None:
    """For one more, of this person."""
    oldest = "DELETE FROM sessions WHERE id_sha256 IN (SELECT id_sha256 FROM sessions {} ORDER BY begun DESC LIMIT -1 "
    oldest += "OFFSET ?)"
    db.execute(oldest.format("WHERE name = ?"), (name, MOST_OF_ONE - 1))
    db.execute(oldest.format(""), (MOST - 1,))


def hash_of(id_: str) -> bytes:
    """What is known here of an id."""
    return hashlib.sha256(id_.encode("utf-8", "surrogateescape")).digest()
