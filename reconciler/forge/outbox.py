"""What is to be told others, kept on disk until it is delivered: `outbox.db`.

A message replaces one of the same key that still waits; one that says what was said last is none. What was said last is
kept after its delivery, so that only changes are told, also after a restart. A crash between the delivery and its mark
tells a thing twice, and never loses it.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable
from reconciler.forge.baseline import Baseline
from reconciler.forge.messages import CommentSection, CommitState, CommitStatus, Deployment, Message, Notification
from reconciler.formats.json_values import known_part
from reconciler.model.backoff import backoff
from reconciler.report.redact import scrub_text
from reconciler.system.database import Database, DatabaseSchema, storable

OUTBOX = "outbox.db"
FORGE = "forge"
"""The destination of everything but notifications: those go to `notification/NAME`."""

MOST_WAITING = 20_000
MOST_SAID = 20_000
MOST_DEAD = 200
_MOST_BYTES = 256 << 10
_MOST_ERROR = 300
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 600.0
# GitHub takes 1,000 statuses of one commit and context, and nobody reads the second hundred within an hour.
_MOST_AT_ONCE, _MOST_AT_ALL, _SELDOM = 100, 800, 3600.0
_LONGEST_WAIT = _SELDOM + 60.0
_KEEP_SAID, _KEEP_DEAD = 180 * 86_400.0, 30 * 86_400.0

_KINDS: Mapping[str, type[Message]] = {
    "status": CommitStatus,
    "deployment": Deployment,
    "section": CommentSection,
    "notification": Notification,
}
_MIGRATIONS = (
    """
    CREATE TABLE waiting (
        id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL,
        payload TEXT NOT NULL, is_final INTEGER NOT NULL, created REAL NOT NULL, attempts INTEGER NOT NULL,
        next_at REAL NOT NULL, error TEXT NOT NULL, UNIQUE (destination, key)
    ) STRICT;
    CREATE INDEX waiting_by_time ON waiting (destination, next_at);
    CREATE TABLE said (
        destination TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, payload TEXT NOT NULL,
        at REAL NOT NULL, times INTEGER NOT NULL, PRIMARY KEY (destination, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX said_by_state ON said (kind, state);
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY, destination TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL,
        created REAL NOT NULL, at REAL NOT NULL, attempts INTEGER NOT NULL, error TEXT NOT NULL
    ) STRICT;
    CREATE TABLE destination (name TEXT PRIMARY KEY, address TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE baseline (target TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT, WITHOUT ROWID;
    """,
)


@dataclass(frozen=True, slots=True)
class PendingMessage:
    """One message that waits. `error`: why the last try failed."""

    id: int
    key: str
    message: Message
    created: float
    attempts: int
    next_at: float
    error: str


@dataclass(frozen=True, slots=True)
class Dead:
    """A message that nobody will get. `created`, `at`: seconds since 1970."""

    destination: str
    key: str
    kind: str
    created: float
    at: float
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one destination: how many, since when, and why the oldest was not taken."""

    destination: str
    count: int
    since: float
    error: str


def receiver_destination(name: str) -> str:
    """`name`: the receiver's in the config."""
    return f"notification/{name}"


def destination_of(message: Message) -> str:
    return receiver_destination(message.receiver) if isinstance(message, Notification) else FORGE


def key_of(message: Message) -> str:
    """What a later message of the same key replaces."""
    match message:
        case CommitStatus():
            return f"status {message.revision} {message.context}"
        case Deployment():
            return f"deployment {message.revision} {message.environment}"
        case CommentSection():
            return f"section {message.pull_request} {message.target}"
        case Notification():
            return f"notification {message.about}"


class Outbox:
    """For any number of threads. Every call raises Retryable where the disk does not take or give it."""

    def __init__(self, path: Path) -> None:
        lost = "what was not delivered yet; it is said anew where it still holds"
        self._db = Database(path, DatabaseSchema(_MIGRATIONS, "outbox_recreated", lost))

    def close(self) -> None:
        self._db.close()

    # ------------------------------------------------------------ in

    def put(self, messages: Iterable[Message], now: float) -> int:
        """All of these or none. Returns how many say something new; with none nothing is written."""
        known = [(destination_of(one), key_of(one), _kind(one), _payload(one), one) for one in messages]
        if not self._db.read(lambda db: any(_is_new(db, *row[:2], row[3]) for row in known)):
            return 0

        def write(db: sqlite3.Connection) -> int:
            count = sum(_put(db, *row, now) for row in known)
            _trim(db, now)
            return count

        return self._db.write(write)

    def last(self, message: Message) -> Message | None:
        """What was said last with the same key, delivered or not."""
        found = self._said("destination = ? AND key = ?", destination_of(message), key_of(message))
        return found[0] if found else None

    def pending(self) -> list[CommitStatus | Deployment]:
        """What was said last to be pending."""
        found = self._said("kind IN ('status', 'deployment') AND state = ?", CommitState.PENDING.value)
        return [one for one in found if isinstance(one, CommitStatus | Deployment)]

    def statuses(self, revision: str) -> list[CommitStatus]:
        """What was said last on a revision, by context."""
        # The character after the blank ends what begins so.
        among = (FORGE, f"status {revision} ", f"status {revision}!")
        found = self._said("destination = ? AND key > ? AND key < ?", *among)
        return [one for one in found if isinstance(one, CommitStatus)]

    def sections(self) -> list[CommentSection]:
        """The last ones, by pull request and target."""
        return [one for one in self._said("kind = 'section'") if isinstance(one, CommentSection)]

    def notifications(self) -> list[Notification]:
        """The last ones of each receiver, by what they are about."""
        return [one for one in self._said("kind = 'notification'") if isinstance(one, Notification)]

    def _said(self, where: str, *values: str) -> list[Message]:
        """What was said last, as far as this version can read it."""
        query = f"SELECT kind, payload FROM said WHERE {where}"  # noqa: S608
        rows = self._db.read(lambda db: db.execute(query, values).fetchall())
        return [one for row in rows if (one := _message(row))]

    def baselines(self) -> dict[str, Baseline]:
        """By target."""
        rows = self._db.read(lambda db: db.execute("SELECT target, content FROM baseline").fetchall())
        found = ((row["target"], _baseline(row["content"])) for row in rows)
        return {target: baseline for target, baseline in found if baseline}

    def keep_baseline(self, target: str, baseline: Baseline) -> None:
        row = (target, storable(json.dumps(asdict(baseline))))
        self._db.write(lambda db: db.execute("INSERT OR REPLACE INTO baseline VALUES (?,?)", row))

    # ------------------------------------------------------------ out

    def due(self, destination: str, now: float, limit: int = 50) -> list[PendingMessage]:
        """What is to be delivered now: what is final first, then what was tried least, then the newest statuses.

        After hours without a forge nobody looks at the oldest commits. All else is told in the order it came.
        """
        order = "is_final DESC, attempts, CASE kind WHEN 'status' THEN -id ELSE id END"
        # Nothing is put off for longer: the clock was ahead.
        is_due = "(next_at <= ? OR next_at > ?)"
        query = f"SELECT * FROM waiting WHERE destination = ? AND {is_due} ORDER BY {order} LIMIT ?"  # noqa: S608
        values = (destination, now, now + _LONGEST_WAIT, limit)
        rows = self._db.read(lambda db: db.execute(query, values).fetchall())
        found: list[PendingMessage] = []
        for row in rows:
            if message := _message(row):
                rest = (row[key] for key in ("created", "attempts", "next_at", "error"))
                found.append(PendingMessage(row["id"], row["key"], message, *rest))
            else:
                self._drop_unreadable(row, now)
        return found

    def next_at(self, destination: str) -> float | None:
        """When the next one is due, in seconds since 1970."""
        query = "SELECT min(next_at) AS at FROM waiting WHERE destination = ?"
        row = self._db.read(lambda db: db.execute(query, (destination,)).fetchone())
        return None if row["at"] is None else float(row["at"])

    def delivered(self, row: PendingMessage) -> None:
        """One that replaced it meanwhile goes on waiting. What was given up about the same is made good."""

        def write(db: sqlite3.Connection) -> None:
            same = "(destination, key) IN (SELECT destination, key FROM waiting WHERE id = ?)"
            db.execute(f"DELETE FROM dead WHERE {same}", (row.id,))  # noqa: S608
            db.execute("DELETE FROM waiting WHERE id = ?", (row.id,))

        self._db.write(write)

    def postpone(self, row: PendingMessage, error: str, now: float, pause: float | None = None) -> None:
        """Keep it for another try. `pause`: seconds; None: the longer the more tries there were."""
        wait = backoff(row.attempts + 1, _FIRST_PAUSE, _LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311
        values = (now + (wait if pause is None else pause), _short(error), row.id)
        query = "UPDATE waiting SET attempts = attempts + 1, next_at = ?, error = ? WHERE id = ?"
        self._db.write(lambda db: db.execute(query, values))

    def drop(self, row: PendingMessage, error: str, now: float) -> None:
        """The other side would never take it."""
        self._db.write(lambda db: _bury(db, "id = ?", (row.id,), _short(error), now))

    def give_up(self, destination: str, before: float, now: float) -> int:
        """Drop what has waited since before that; what still holds may be said anew. Returns how many."""
        where, values = "destination = ? AND created < ?", (destination, before)
        found = f"SELECT 1 FROM waiting WHERE {where}"  # noqa: S608
        if not self._db.read(lambda db: db.execute(found, values).fetchone()):
            return 0
        return self._db.write(lambda db: _give_up(db, where, values, "", now))

    def forget(self, destinations: Mapping[str, str], now: float) -> None:
        """What waits for others than these, which the config names no more; and what was said long ago.

        By the name of each, the address that it stands for: what is on record of another one is not told this one.
        """

        def write(db: sqlite3.Connection) -> None:
            known = {row["name"]: row["address"] for row in db.execute("SELECT * FROM destination")}
            kept = [name for name, address in destinations.items() if known.get(name, address) == address]
            marks = ",".join("?" * len(kept))
            for table in ("waiting", "said", "dead"):
                db.execute(f"DELETE FROM {table} WHERE destination NOT IN ({marks})", kept)  # noqa: S608
            db.execute("DELETE FROM destination")
            db.executemany("INSERT INTO destination VALUES (?,?)", destinations.items())
            db.execute("DELETE FROM said WHERE at < ?", (now - _KEEP_SAID,))
            db.execute("DELETE FROM dead WHERE at < ?", (now - _KEEP_DEAD,))

        self._db.write(write)

    # ------------------------------------------------------------ what people see

    def waiting(self) -> list[Waiting]:
        query = (
            "SELECT destination, count(*) AS count, min(created) AS since FROM waiting GROUP BY destination "
            "ORDER BY destination"
        )
        why = "SELECT error FROM waiting WHERE destination = ? AND error != '' ORDER BY created LIMIT 1"

        def read(db: sqlite3.Connection) -> list[Waiting]:
            found = db.execute(query).fetchall()
            errors = [db.execute(why, (row["destination"],)).fetchone() for row in found]
            return [
                Waiting(row["destination"], row["count"], row["since"], error["error"] if error else "")
                for row, error in zip(found, errors, strict=True)
            ]

        return self._db.read(read)

    def dead(self) -> list[Dead]:
        """The latest first."""
        columns = ", ".join(each.name for each in fields(Dead))
        query = f"SELECT {columns} FROM dead ORDER BY id DESC"  # noqa: S608
        return [Dead(*row) for row in self._db.read(lambda db: db.execute(query).fetchall())]

    def _drop_unreadable(self, row: sqlite3.Row, now: float) -> None:
        text = "another version wrote it, and this one cannot read it"
        self._db.write(lambda db: _bury(db, "id = ?", (row["id"],), text, now))


def _put(
    db: sqlite3.Connection, destination: str, key: str, kind: str, payload: str, message: Message, now: float
) -> bool:
    if not _is_new(db, destination, key, payload):
        return False
    if len(payload) > _MOST_BYTES:
        raise Retryable(f"outbox: a message of {len(payload)} bytes for {destination} is too long: {key}")
    last = db.execute("SELECT at, times FROM said WHERE destination = ? AND key = ?", (destination, key)).fetchone()
    times = last["times"] + 1 if last else 1
    if times > _MOST_AT_ALL and isinstance(message, CommitStatus):
        return False
    # What notifications are about has no end: each push adds to it.
    is_often = times > _MOST_AT_ONCE and not isinstance(message, Notification)
    at = max(now, last["at"] + _SELDOM) if last and is_often else now
    # A new row, so that the mark of one that is being delivered does not mean this one.
    old = db.execute("SELECT * FROM waiting WHERE destination = ? AND key = ?", (destination, key)).fetchone()
    if old:
        at, times = max(at, old["next_at"]), times - (not old["attempts"])
        db.execute("DELETE FROM waiting WHERE id = ?", (old["id"],))
    tries, error = (old["attempts"], old["error"]) if old else (0, "")
    row = (destination, key, kind, payload, _is_final(message), now, tries, at, error)
    columns = "destination, key, kind, payload, is_final, created, attempts, next_at, error"
    db.execute(f"INSERT INTO waiting ({columns}) VALUES (?,?,?,?,?,?,?,?,?)", row)  # noqa: S608
    state = "" if isinstance(message, CommentSection) else str(message.state)
    db.execute(
        "INSERT OR REPLACE INTO said VALUES (?,?,?,?,?,?,?)", (destination, key, kind, state, payload, now, times)
    )
    if isinstance(message, Deployment) and message.state is not CommitState.SUPERSEDED:
        _forget_others(db, destination, key, message)
    return True


def _forget_others(db: sqlite3.Connection, destination: str, key: str, message: Deployment) -> None:
    """An environment has one revision: one that is back is said once more."""
    end = f" {message.environment}"
    where = "destination = ? AND kind = 'deployment' AND state = ? AND key != ? AND substr(key, -?) = ?"
    values = (destination, CommitState.SUCCESS.value, key, len(end), end)
    db.execute(f"DELETE FROM said WHERE {where}", values)  # noqa: S608


def _is_new(db: sqlite3.Connection, destination: str, key: str, payload: str) -> bool:
    query = "SELECT payload FROM said WHERE destination = ? AND key = ?"
    row = db.execute(query, (destination, key)).fetchone()
    return row is None or row["payload"] != payload


def _trim(db: sqlite3.Connection, now: float) -> None:
    """The newest rows count. What is said to be pending must be closed one day, and goes last."""
    db.execute("DELETE FROM dead WHERE at < ?", (now - _KEEP_DEAD,))
    if _count(db, "waiting") > MOST_WAITING:
        where = "id <= (SELECT id FROM waiting ORDER BY id DESC LIMIT 1 OFFSET ?)"
        _give_up(db, where, (MOST_WAITING,), "the outbox is full", now)
    if _count(db, "said") > MOST_SAID:
        query = (
            "DELETE FROM said WHERE (destination, key) IN (SELECT destination, key FROM said "
            "ORDER BY state = 'pending' DESC, at DESC LIMIT -1 OFFSET ?)"
        )
        db.execute(query, (MOST_SAID,))


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def _give_up(db: sqlite3.Connection, where: str, values: tuple[object, ...], error: str, now: float) -> int:
    """They are not said: what still holds is said anew."""
    keys = f"SELECT destination, key FROM waiting WHERE {where}"  # noqa: S608
    db.execute(f"DELETE FROM said WHERE (destination, key) IN ({keys})", values)  # noqa: S608
    return _bury(db, where, values, error, now)


def _bury(db: sqlite3.Connection, where: str, values: tuple[object, ...], error: str, now: float) -> int:
    """`error`: empty for that of the last try."""
    columns = "destination, key, kind, created, at, attempts, error"
    found = "destination, key, kind, created, ?, attempts, CASE WHEN ? = '' THEN error ELSE ? END"
    query = f"INSERT INTO dead ({columns}) SELECT {found} FROM waiting WHERE {where}"  # noqa: S608
    count = db.execute(query, (now, error, error, *values)).rowcount
    db.execute(f"DELETE FROM waiting WHERE {where}", values)  # noqa: S608
    db.execute("DELETE FROM dead WHERE id NOT IN (SELECT id FROM dead ORDER BY id DESC LIMIT ?)", (MOST_DEAD,))
    return count


def _is_final(message: Message) -> bool:
    return not (isinstance(message, CommitStatus | Deployment) and message.state == CommitState.PENDING)


def _kind(message: Message) -> str:
    return next(name for name, each in _KINDS.items() if isinstance(message, each))


def _payload(message: Message) -> str:
    return storable(json.dumps(asdict(message), ensure_ascii=False, sort_keys=True))


def _message(row: Any) -> Message | None:
    """None: another version wrote something that this one does not know."""
    try:
        kind, values = _KINDS[row["kind"]], json.loads(row["payload"])
        if "state" in values and kind in (CommitStatus, Deployment):
            values["state"] = CommitState(values["state"])
        return kind(**values)
    except (KeyError, TypeError, ValueError):
        return None


def _baseline(content: str) -> Baseline | None:
    """None: another version wrote something that this one does not know; the next revision is a first one then."""
    try:
        return Baseline(**known_part(Baseline, json.loads(content)))
    except (TypeError, ValueError):
        return None


def _short(error: str) -> str:
    return storable(scrub_text(error))[:_MOST_ERROR]
