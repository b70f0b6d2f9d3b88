"""Raw facts about replicas → what they mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from reconciler.model import ReasonCode, Replica, Routed, Silence
from reconciler.model.backoff import backoff
from reconciler.model.crash_signs import BEFORE_READY, WHILE_SERVING, blames_host

CRASH_WINDOW = 600.0
CRASHES_THAT_DEGRADE = 3
CONFLICTS_EXCUSED = 3
_FIRST_BACKOFF, _LONGEST_BACKOFF = 10.0, 300.0
# With these statuses systemd ends a process that it could not even set up: its user, folders, limits, program.
_NOT_SET_UP = range(200, 246)
_TOO_LONG = "argument list too long"


class ReplicaPhase(StrEnum):
    """The phase of a replica."""

    PLANNED = "Planned"  # written down, but no process was ever seen: the daemon died in between
    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    HUNG = "Hung"  # alive, and does nothing any more
    BROKEN = "Broken"
    STOPPING = "Stopping"
    GONE = "Gone"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is long enough, in seconds."""

    min_ready: float
    ready_timeout: float
    drain_timeout: float
    stop_grace: float


def phase_of(replica: Replica, now: float, patience: Patience) -> ReplicaPhase:
    """The current phase of a replica."""
    left = replica.alive or replica.leftovers or replica.releasing
    if not left and (replica.stopping_at is not None or replica.rebooted):
        return ReplicaPhase.GONE
    if replica.stopping_at is not None:
        return ReplicaPhase.STOPPING
    if not replica.spawned:
        return ReplicaPhase.PLANNED
    if replica.silence is Silence.HUNG:
        return ReplicaPhase.HUNG if replica.alive else ReplicaPhase.BROKEN
    if failure(replica, now, patience):
        return ReplicaPhase.BROKEN
    if replica.draining_at is not None:
        return ReplicaPhase.DRAINING
    return ReplicaPhase.STARTING if replica.ready_at is None else ReplicaPhase.READY


def failure(replica: Replica, now: float, patience: Patience) -> tuple[ReasonCode, str] | None:
    """A code and a message when a replica has failed, else None."""
    when = BEFORE_READY if replica.ready_at is None else WHILE_SERVING
    if is_stopped_by_hand(replica):
        return (ReasonCode.STOPPED_MANUALLY, replica.drift)
    if not replica.alive:
        status = "" if replica.exit_code is None else f" with status {replica.exit_code}"
        killed = "; the kernel sends SIGKILL when it is out of memory" if replica.exit_code == -9 else ""
        return (ReasonCode.CRASHED, f"the engine ended{status} {when}{killed}")
    if replica.healthy is False and replica.stranger:
        return (ReasonCode.PORT_TAKEN, f"{replica.stranger}; nothing is sent there")
    if replica.healthy is False:
        return (ReasonCode.ENGINE_DEAD, f"the engine's core died {when}; /health answers 503")
    if replica.silence is Silence.HUNG:
        return (ReasonCode.HUNG, f"the engine is hung: {replica.silent_why}")
    # One that answers is ready, though a full disk may keep us from writing that down.
    waited = now - max(replica.created_at, replica.watched_since)
    if replica.ready_at is None and not replica.ready_now and waited > patience.ready_timeout:
        return (ReasonCode.PROGRESS_DEADLINE_EXCEEDED, f"not ready within {patience.ready_timeout:g} s of its start")
    return None


def is_stopped_by_hand(replica: Replica) -> bool:
    """Was it stopped manually, not by us or the engine? Then neither a commit nor the engine is to blame."""
    return not replica.alive and bool(replica.drift)


def is_hosts_fault(replica: Replica) -> bool:
    """Did the host fail it, so that another commit would have failed too?"""
    if replica.exit_code in _NOT_SET_UP:
        return not any(_TOO_LONG in line.lower() for line in replica.last_words)
    return blames_host(replica.last_words)


def is_excused(conflicts: Iterable[float], now: float) -> bool:
    """May another such death be bad luck? After some in a row the arguments probably need what can never be free."""
    return sum(_is_recent(at, now) for at in conflicts) < CONFLICTS_EXCUSED


def is_drained(replica: Replica) -> bool:
    """Nothing runs any more and nothing new can come: both proxy and engine reported that twice."""
    return replica.routed in (Routed.DRAINING, Routed.ABSENT) and replica.quiet_samples >= 2


def restart_at(crashes: Iterable[float], now: float) -> float:
    """When the next start is due: immediately after the first crash, then after 10 s, 20 s, 40 s … up to 5 minutes."""
    recent = sorted(at for at in crashes if _is_recent(at, now))
    if len(recent) < 2:
        return now
    return recent[-1] + backoff(len(recent) - 1, _FIRST_BACKOFF, _LONGEST_BACKOFF)


def has_crashed(crashes: Iterable[float], now: float) -> bool:
    """Has it crashed lately?"""
    return any(_is_recent(at, now) for at in crashes)


def is_crash_looping(crashes: Iterable[float], now: float) -> bool:
    """Has it crashed so often lately that a person should investigate?"""
    return sum(_is_recent(at, now) for at in crashes) >= CRASHES_THAT_DEGRADE


def _is_recent(at: float, now: float) -> bool:
    """It was recorded before the clock was set back: its age is unknown."""
    return 0 <= now - at < CRASH_WINDOW
