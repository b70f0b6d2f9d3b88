"""History and quarantined digests, in sqlite. Losing this file affects no replica.

The loop writes, the web thread reads. A pass that changes nothing writes nothing.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from reconciler.config.values import parse_duration
from reconciler.errors import Retryable
from reconciler.model import NO_ORIGIN, FailedAction, Origin, Quarantine, Reason, ReasonCode, ServiceId
from reconciler.report.redact import scrub_text
from reconciler.system.database import Database, DatabaseSchema, storable

log = structlog.get_logger()
_FAILURES: TypeAdapter[tuple[FailedAction, ...]] = TypeAdapter(tuple[FailedAction, ...])

MAX_EVENTS = 10_000
MAX_QUARANTINES_PER_SERVICE = 50
FETCHED = "revision_fetched"
"""The event of a target whose pass looks at a revision for the first time, as the desired one."""

MIGRATIONS = (
    """
    CREATE TABLE event (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, target TEXT NOT NULL, revision TEXT NOT NULL,
        service TEXT NOT NULL, event TEXT NOT NULL, message TEXT NOT NULL
    ) STRICT;
    CREATE INDEX event_by_service ON event (service, id);
    CREATE TABLE quarantine (
        target TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
        code TEXT NOT NULL, message TEXT NOT NULL, file TEXT, line INTEGER,
        revision TEXT NOT NULL, at REAL NOT NULL, last_words TEXT NOT NULL,
        PRIMARY KEY (target, namespace, name, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE applied (target TEXT PRIMARY KEY, revision TEXT NOT NULL) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE said (
        target TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (target, subject)
    ) STRICT, WITHOUT ROWID;
    """,
    "CREATE TABLE failures (target TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT, WITHOUT ROWID;",
)


@dataclass(frozen=True, slots=True)
class RevisionOnRecord:
    """A revision that the history tells of, from when to when: RFC 3339. `place` orders them by when they came."""

    revision: str
    place: int
    first_at: str
    last_at: str


class History:
    """History, quarantine and the revision last applied, kept over restarts."""

    def __init__(self, path: Path) -> None:
        """Raises Retryable when the folder cannot be written."""
        lost = "history and quarantine; nothing that serves"
        self._db = Database(path, DatabaseSchema(MIGRATIONS, "history_recreated", lost))

    def close(self) -> None:
        self._db.close()

    # ------------------------------------------------------------ quarantine

    def quarantines(self, target: str) -> Mapping[tuple[ServiceId, str], Quarantine]:
        """Everything that failed on a target, by service and digest."""
        rows = self._db.read(lambda db: db.execute("SELECT * FROM quarantine WHERE target = ?", (target,)).fetchall())
        found = [_quarantine(row) for row in rows]
        return {(one.service, one.digest): one for one in found}

    def reject(self, target: str, quarantine: Quarantine) -> None:
        """Remember a digest that failed."""
        where = (target, quarantine.service.namespace, quarantine.service.name)

        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO quarantine VALUES (?,?,?,?,?,?,?,?,?,?,?)", _row(target, quarantine))
            db.execute(
                "DELETE FROM quarantine WHERE target = ? AND namespace = ? AND name = ? AND digest NOT IN ("
                "SELECT digest FROM quarantine WHERE target = ? AND namespace = ? AND name = ?"
                " ORDER BY at DESC LIMIT ?)",
                (*where, *where, MAX_QUARANTINES_PER_SERVICE),
            )

        self._db.write(write)

    def lift(self, target: str, service: ServiceId, digest: str | None = None) -> int:
        """Release one digest of a service from quarantine, or all. Returns how many."""
        query = "DELETE FROM quarantine WHERE target = ? AND namespace = ? AND name = ?"
        values = [target, service.namespace, service.name]
        if digest is not None:
            query, values = query + " AND digest = ?", [*values, digest]
        return self._db.write(lambda db: db.execute(query, values).rowcount)

    def rename(self, old: str, new: str) -> None:
        """Move everything recorded for one target to another name."""

        def write(db: sqlite3.Connection) -> None:
            for table in ("event", "quarantine", "applied", "said", "failures"):
                db.execute(f"UPDATE OR REPLACE {table} SET target = ? WHERE target = ?", (new, old))  # noqa: S608

        self._db.write(write)

    # ------------------------------------------------------------ failed actions

    def failures(self, target: str) -> tuple[FailedAction, ...]:
        """The actions that failed on a target and have not succeeded since."""
        row = self._db.read(
            lambda db: db.execute("SELECT content FROM failures WHERE target = ?", (target,)).fetchone()
        )
        try:
            return _FAILURES.validate_json(row["content"]) if row else ()
        except ValidationError as error:
            log.warning("failures_unreadable", target=target, reason=str(error))
            return ()

    def keep_failures(self, target: str, failures: tuple[FailedAction, ...]) -> None:
        """Raises Retryable when the disk does not take it."""
        text = _FAILURES.dump_json(
            tuple(replace(one, error=storable(scrub_text(one.error)[:4000])) for one in failures)
        ).decode()
        self._db.write(lambda db: db.execute("INSERT OR REPLACE INTO failures VALUES (?,?)", (target, text)))

    # ------------------------------------------------------------ events

    def note(
        self,
        target: str,
        revision: str,
        service: str,
        event: str,
        message: str,
        at: float,
        reported: tuple[str, str] | None = None,
    ) -> None:
        """Write one entry. A full disk loses the entry, never the pass.

        `reported`: a subject and its text, for recorders that report only changes; see `remember`.
        """
        row = (at, target, revision, service, event, storable(scrub_text(message)[:4000]))

        def write(db: sqlite3.Connection) -> None:
            cursor = db.execute(
                "INSERT INTO event (at, target, revision, service, event, message) VALUES (?,?,?,?,?,?)", row
            )
            db.execute("DELETE FROM event WHERE id <= ?", ((cursor.lastrowid or 0) - MAX_EVENTS,))
            if reported is not None:
                _remember(db, target, *reported)

        try:
            self._db.write(write)
        except Retryable as error:
            log.warning("history_entry_lost", reason=str(error), lost_event=event, service=service)

    def reported(self, target: str) -> dict[str, str]:
        """What was reported last, by subject: kept over restarts, so that nothing is reported twice."""
        query = "SELECT subject, text FROM said WHERE target = ?"
        return {
            row["subject"]: row["text"] for row in self._db.read(lambda db: db.execute(query, (target,)).fetchall())
        }

    def remember(self, target: str, subject: str, text: str) -> None:
        """Keep what is reported of a subject without an entry; empty: delete it."""
        try:
            self._db.write(lambda db: _remember(db, target, subject, text))
        except Retryable as error:
            log.warning("history_entry_lost", reason=str(error), lost_event=subject)

    def entries(
        self, limit: int, service: str | None = None, since: float | None = None, revision: str | None = None
    ) -> list[dict[str, str]]:
        """The latest entries, oldest first: of one service (`namespace/name`), from a time on, of one revision.

        A revision may be given by its first digits.
        """
        wanted = [("service = ?", service), ("at >= ?", since), ("substr(revision, 1, length(?)) = ?", revision)]
        where = " AND ".join(clause for clause, value in wanted if value is not None) or "TRUE"
        values = [value for clause, value in wanted if value is not None for _ in range(clause.count("?"))]
        columns = "at, target, revision, service, event, message"
        query = f"SELECT {columns} FROM event WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608
        rows = self._db.read(lambda db: db.execute(query, [*values, max(0, limit)]).fetchall())
        return [_entry(row) for row in reversed(rows)]

    # ------------------------------------------------------------ revisions

    def revisions(self, limit: int, before: int | None = None) -> list[RevisionOnRecord]:
        """The latest that came first; `before`: only those that came before that place."""
        query = (
            "SELECT revision, min(id) AS place, min(at) AS first, max(at) AS last FROM event WHERE revision != '' "
            "GROUP BY revision HAVING ? IS NULL OR min(id) < ? ORDER BY place DESC LIMIT ?"
        )
        rows = self._db.read(lambda db: db.execute(query, (before, before, limit)).fetchall())
        return [RevisionOnRecord(row["revision"], row["place"], _at(row["first"]), _at(row["last"])) for row in rows]

    def begin_with(self, digits: str, limit: int) -> list[str]:
        """The revisions on record that begin like this."""
        query = "SELECT DISTINCT revision FROM event WHERE substr(revision, 1, ?) = ? ORDER BY revision LIMIT ?"
        rows = self._db.read(lambda db: db.execute(query, (len(digits), digits, limit)).fetchall())
        return [str(row["revision"]) for row in rows]

    def events(self, revisions: Collection[str], events: Collection[str]) -> list[dict[str, str]]:
        """All entries of these kinds about these revisions, oldest first."""
        where = f"revision IN ({_marks(revisions)}) AND event IN ({_marks(events)})"
        columns = "at, target, revision, service, event, message"
        query = f"SELECT {columns} FROM event WHERE {where} ORDER BY id"  # noqa: S608
        rows = self._db.read(lambda db: db.execute(query, [*revisions, *events]).fetchall())
        return [_entry(row) for row in rows]

    def successor(self, revision: str) -> str:
        """The revision that became the desired one after this; empty where none is on record."""
        query = (
            "SELECT revision FROM event WHERE event = ? AND revision != ? AND id > "
            "(SELECT max(id) FROM event WHERE event = ? AND revision = ?) ORDER BY id LIMIT 1"
        )
        values = (FETCHED, revision, FETCHED, revision)
        row = self._db.read(lambda db: db.execute(query, values).fetchone())
        return str(row["revision"]) if row else ""

    # ------------------------------------------------------------ applied revision

    def applied(self, target: str) -> str:
        """The revision that this target last reached completely; empty when none."""
        row = self._db.read(
            lambda db: db.execute("SELECT revision FROM applied WHERE target = ?", (target,)).fetchone()
        )
        return str(row["revision"]) if row else ""

    def set_applied(self, target: str, revision: str) -> None:
        if self.applied(target) != revision:
            self._db.write(lambda db: db.execute("INSERT OR REPLACE INTO applied VALUES (?,?)", (target, revision)))


def parse_since(text: str, now: float) -> float:
    """`2h` ago, or a time or date of ISO 8601, local where it names no zone. Raises ValueError."""
    with suppress(ValueError):
        return now - parse_duration(text)
    try:
        return datetime.fromisoformat(text.strip()).astimezone().timestamp()
    except (ValueError, OverflowError):
        example = "2h, 2026-11-29 or 2026-11-29T08:00Z"
        raise ValueError(f'"{text[:80]}" is not a time; write for example {example}') from None


def parse_revision(text: str) -> str:
    """The first 4 to 40 digits of a commit, in small letters. Raises ValueError."""
    if not re.fullmatch(r"[0-9a-fA-F]{4,40}", text):
        raise ValueError(f'"{text[:80]}" is not a revision; give 4 to 40 digits of a commit')
    return text.lower()


def _remember(db: sqlite3.Connection, target: str, subject: str, text: str) -> None:
    if text:
        db.execute("INSERT OR REPLACE INTO said VALUES (?,?,?)", (target, subject, storable(text)))
    else:
        db.execute("DELETE FROM said WHERE target = ? AND subject = ?", (target, subject))


def _row(target: str, quarantine: Quarantine) -> tuple[str | int | float | None, ...]:
    origin = quarantine.reason.origin
    return (
        target,
        quarantine.service.namespace,
        quarantine.service.name,
        quarantine.digest,
        quarantine.reason.code,
        storable(quarantine.reason.message),
        origin.file if origin else None,
        origin.line if origin else None,
        quarantine.revision,
        quarantine.at,
        json.dumps(quarantine.last_words),
    )


def _quarantine(row: sqlite3.Row) -> Quarantine:
    # As it was written down: of a host's fault without a line.
    origin = Origin(row["file"], row["line"]) if row["file"] is not None else NO_ORIGIN
    return Quarantine(
        service=ServiceId(row["namespace"], row["name"]),
        digest=row["digest"],
        reason=Reason(ReasonCode.read(row["code"]), row["message"], origin),
        revision=row["revision"],
        at=row["at"],
        last_words=tuple(json.loads(row["last_words"])),
    )


def _marks(values: Collection[str]) -> str:
    return ",".join("?" * len(values))


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _entry(row: sqlite3.Row) -> dict[str, str]:
    return {"at": _at(row["at"])} | {key: row[key] for key in ("target", "revision", "service", "event", "message")}
