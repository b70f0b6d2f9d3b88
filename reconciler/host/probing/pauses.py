"""From when on a replica's startup time counts: not while it cannot run, nor while no daemon watches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from reconciler.host.inventory import ReplicaRecord
from reconciler.model import ReplicaId
from reconciler.system import procfs

_CGROUPS = Path("/sys/fs/cgroup")
_STOPPED = frozenset("Tt")
PAUSED = "its process is paused (SIGSTOP, or a frozen cgroup)"


class Pauses:
    """Replicas that start, as one daemon sees them: what was before it started, was not watched."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._paused: dict[ReplicaId, float] = {}

    def look(self, records: Iterable[ReplicaRecord], now: float) -> frozenset[ReplicaId]:
        """Which of those that are not ready yet cannot run now?"""
        waiting = [one for one in records if one.ready_at is None and one.stopping_at is None and one.process]
        found = frozenset(one.id for one in waiting if one.process and is_paused(one.process.pid))
        known = {one.id for one in waiting}
        self._paused = {key: at for key, at in self._paused.items() if key in known} | dict.fromkeys(found, now)
        return found

    def watched_since(self, replica: ReplicaId) -> float:
        return max(self._began, self._paused.get(replica, 0.0))


def is_paused(pid: int) -> bool:
    """Is it stopped by a signal, or frozen with its cgroup?"""
    stat = procfs.read_stat(pid)
    if stat is None or stat.state in _STOPPED:
        return stat is not None
    return any(_is_frozen(path) for path in procfs.read_cgroups(pid))


def _is_frozen(path: str) -> bool:
    try:
        return "frozen 1" in (_CGROUPS / path.lstrip("/") / "cgroup.events").read_text()
    except OSError:
        return False
