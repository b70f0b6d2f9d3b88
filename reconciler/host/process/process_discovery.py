"""Which processes belong to which replica: one scan of /proc, and the evidence in it.

A process belongs to a replica when it runs as we do and carries the replica's marker in its environment or writes to
its log, or was written down as its member, or shares the session of its main process while that is certain to be the
one we started. A session's number alone is no evidence: the number may have been given away again.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from reconciler.host.inventory import ReplicaRecord
from reconciler.model import ReplicaId
from reconciler.system import procfs
from reconciler.system.procfs import Identity

MARKER = "RECONCILER_REPLICA"
_PREFIX = f"{MARKER}=".encode()


@dataclass(frozen=True, slots=True)
class FoundProcess:
    """One living process and what it shows of its origin."""

    who: Identity
    parent: int
    session: int
    marker: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """What the processes of one replica can be known by."""

    record: ReplicaRecord
    marker: str
    log: str


class ProcessDiscovery:
    """All processes at one moment."""

    def __init__(self) -> None:
        self._boot = procfs.boot_id()
        self._stats = {stat.pid: stat for stat in procfs.all_stats() if stat.pid != os.getpid()}
        self._seen = [_look(stat, self._boot) for stat in self._stats.values() if not stat.is_dead]

    def members(self, trace: Trace) -> tuple[FoundProcess, ...]:
        """The living processes that belong to a replica."""
        if trace.record.boot != self._boot:
            return ()
        certain = self._has_main(trace.record)
        return tuple(seen for seen in self._seen if self._belongs(seen, trace, certain))

    def orphan(self, trace: Trace) -> Identity | None:
        """The main process of a replica whose record names none:

        the daemon that started it was killed before recording it.
        """
        leaders = [m.who for m in self.members(trace) if m.marker == trace.marker and m.session == m.who.pid]
        return min(leaders, key=lambda who: who.started, default=None)

    def _belongs(self, seen: FoundProcess, trace: Trace, certain: bool) -> bool:
        record = trace.record
        return (
            seen.marker == trace.marker
            # In a mount namespace of its own any user may have a file of any path.
            or (trace.log in seen.outputs and _runs_as_we_do(seen.who.pid))
            or seen.who == record.process
            or seen.who in record.members
            or (certain and record.process is not None and seen.session == record.process.pid)
        )

    def _has_main(self, record: ReplicaRecord) -> bool:
        """The main process is there, be it as a zombie: so its session's number is still its own."""
        if record.process is None:
            return False
        stat = self._stats.get(record.process.pid)
        return stat is not None and stat.started == record.process.started


def marker_of(folder: Path, replica: ReplicaId) -> str:
    """What a replica's processes carry. Two daemons with different folders never claim each other's."""
    return f"{_folder_mark(folder)}:{replica}"


def carries_marker(folder: Path, pid: int) -> bool:
    """Is it a process of a replica of this folder's daemon, judging by its environment alone?"""
    own = _PREFIX + _folder_mark(folder).encode() + b":"
    return any(entry.startswith(own) for entry in _entries(pid))


def _entries(pid: int) -> list[bytes]:
    """Its environment. What another user's process carries says nothing."""
    entries = procfs.read_environment(pid)
    # Few carry our marks, and only those are examined more closely.
    is_marked = any(entry.startswith(_PREFIX) for entry in entries)
    return entries if is_marked and _runs_as_we_do(pid) else []


def _runs_as_we_do(pid: int) -> bool:
    """As our child processes do."""
    return procfs.runs_as(pid, (os.geteuid(),))


def _folder_mark(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]


def _look(stat: procfs.Stat, boot: str) -> FoundProcess:
    entries = (entry for entry in _entries(stat.pid) if entry.startswith(_PREFIX))
    marker = next(entries, b"").removeprefix(_PREFIX).decode(errors="replace")
    who = Identity(stat.pid, stat.started, boot)
    return FoundProcess(who, stat.parent, stat.session, marker, procfs.read_outputs(stat.pid))
