"""The steps of each way, in their order. What an earlier step ended is not started by a later one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from reconciler.host.capacity import Ledger
from reconciler.host.health import ReplicaPhase
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.fallback import wanted_back
from reconciler.host.rollout.goal import NO_REPLICAS, Generation, Goal, GoalKind, last_good
from reconciler.host.rollout.reservations import parsed_of
from reconciler.host.rollout.staging import begin_staging, missing_files
from reconciler.host.rollout.start import fill, members, watch
from reconciler.host.rollout.steps import SOON, Steps
from reconciler.host.rollout.strategy import Transition, Way, choose, is_busy, old_replicas
from reconciler.model import Drain, Forget, Promote, Promoted, ReasonCode, Replica, Routed, Stop, Undrain


def move(s: ServiceContext, goal: Goal, ledger: Ledger, steps: Steps) -> None:
    """The steps that the goal asks for, as far as floor, ceiling, backoff and room allow."""
    found = choose(s, goal, ledger)
    steps.strategy = found.text
    steps.lack(found.lacking)
    one = Move(s, goal, ledger, steps, found)
    for step in STEPS[found.way]:
        step(one)


@dataclass(frozen=True)
class Move:
    """What the steps of one service are worked out from, and `steps`, which collects them."""

    s: ServiceContext
    goal: Goal
    ledger: Ledger
    steps: Steps
    found: Transition

    @property
    def main(self) -> Generation:
        """What the service itself is heading for; the others are canaries."""
        return self.goal.generations[0]

    @cached_property
    def wanted(self) -> set[str]:
        return {generation.digest for generation in self.goal.generations}

    @cached_property
    def kept_good(self) -> Generation | None:
        """The last good digest while replicas of it serve or start: they go when their successor is there."""
        s, main = self.s, self.main
        if s.promoted is None or s.is_proven(main.digest) or sum(map(s.is_available, members(s, main))) >= main.count:
            return None
        good = last_good(s.promoted)
        is_there = any(r.digest == good.digest for r in s.of(ReplicaPhase.STARTING, ReplicaPhase.READY))
        return replace(good, count=min(good.count, main.count)) if is_there else None

    @cached_property
    def lacks_files(self) -> bool:
        """Files can vanish in the middle of a rollout: then no old replica makes room for one that could not start."""
        is_short = len(members(self.s, self.main)) < self.main.count
        return is_short and bool(old_replicas(self.s, self.goal)) and bool(missing_files(self.s, self.main.spec))

    def of_digest(self, digest: str) -> list[Replica]:
        return [r for r in self.s.replicas if r.digest == digest]

    def stop(self, replica: Replica, why: str) -> None:
        self.steps.act(Stop(replica.id, why))
        self.steps.look(self.s.now + SOON)

    def drain(self, replica: Replica, why: str) -> None:
        self.steps.record(Drain(replica.id, why))
        self.steps.say(f"draining {replica.id.serial}: {why}")
        self.steps.look(self.s.now + SOON)


# ---------------------------------------------------------------- end


def _why_empty(goal: Goal) -> str:
    """Short: it is in every line about this service."""
    known = {
        ReasonCode.DRAINED: "the host is drained",
        ReasonCode.NOT_FOR_THIS_HOST: "not for this host any more",
        ReasonCode.TARGET_REMOVED: "its target was removed from the config",
    }
    return known.get(goal.why.code, goal.why.message) if goal.why else ""


def _stop_unready(m: Move, why: str, wanted: set[str]) -> None:
    for replica in m.s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING):
        if replica.digest not in wanted:
            m.stop(replica, why)


def _stop_unstarted(m: Move, wanted: set[str]) -> None:
    for replica in m.s.of(ReplicaPhase.PLANNED):
        if replica.digest not in wanted:
            m.stop(replica, "recorded but not started, and no longer needed")


def end_all(m: Move) -> None:
    _stop_unready(m, _why_empty(m.goal), set())
    for replica in m.s.of(ReplicaPhase.READY):
        m.drain(replica, _why_empty(m.goal))


def forget(m: Move) -> None:
    if not m.s.replicas and m.s.owned:
        m.steps.act(Forget(m.s.id, f"{_why_empty(m.goal)}, and nothing of it is left"))


def note_no_replicas(m: Move) -> None:
    """Keep the last good spec, but with no replicas: nothing should start it again until git asks for it."""
    s = m.s
    if m.goal.why == NO_REPLICAS and s.promoted and s.promoted.replicas and s.desired:
        none = replace(s.promoted, replicas=0, origin=s.desired.origin, revision=s.revision, at=s.now)
        m.steps.record(Promote(s.id, none, "git asks for 0 replicas"))
        m.steps.look(s.now)


def stop_rejected(m: Move) -> None:
    _stop_unready(m, "its digest was rejected", set())


def stop_unstarted(m: Move) -> None:
    """What was never started need not be, while it is open where to go."""
    _stop_unstarted(m, m.wanted)


def stop_superseded(m: Move) -> None:
    good = m.found.fallback.first if m.found.fallback else m.kept_good
    _stop_unready(m, f"superseded by {m.main.digest[:8]}", m.wanted | ({good.digest} if good else set()))


# ---------------------------------------------------------------- keep


def start_kept(m: Move) -> None:
    # A hung one may stay next to its successor.
    occupied = [r for r in m.s.replicas if m.s.phases[r.id.serial] is not ReplicaPhase.HUNG]
    for generation in m.goal.generations:
        fill(m.s, generation, m.ledger, m.steps, occupied, generation.count)


def keep_last_good(m: Move) -> None:
    """While there is no room for a successor, what serves stays at its number."""
    if good := m.kept_good:
        has_to_last = bool(m.found.lacking) and not members(m.s, m.main)
        fill(m.s, good, m.ledger, m.steps, m.of_digest(good.digest), good.count if has_to_last else 0)


def scale_down(m: Move) -> None:
    """Those that never served go first, then the youngest."""
    for generation in m.goal.generations:
        there = members(m.s, generation)
        there.sort(key=lambda r: (r.ready_at is None, r.created_at, r.id), reverse=True)
        for replica in there[: max(0, len(there) - generation.count)]:
            why = f"scaled down to {generation.count}"
            if replica.ready_at is None:
                m.steps.act(Stop(replica.id, why))
            else:
                m.steps.record(Drain(replica.id, why))
            m.steps.look(m.s.now + SOON)


# ---------------------------------------------------------------- roll


def wait_for_room(m: Move) -> None:
    m.steps.say(m.found.text)
    m.steps.look(m.s.now + SOON)


def start_canaries(m: Move) -> None:
    """After a reboot they must not take the room of those next to them."""
    is_complete = len(members(m.s, m.main)) >= m.main.count
    for canary in m.goal.generations[1:]:
        fill(m.s, canary, m.ledger, m.steps, m.of_digest(canary.digest), canary.count if is_complete else 0)


def watch_new(m: Move) -> None:
    watch(m.s, m.main, m.steps)


def start_new(m: Move) -> None:
    if m.lacks_files:
        begin_staging(m.s, missing_files(m.s, m.main.spec), m.steps)
        watch_new(m)
        return
    others = m.wanted - {m.main.digest}
    occupied = [r for r in m.s.replicas if r.digest not in others]
    is_clear = not m.found.bounds.recreate or len(occupied) == len(members(m.s, m.main))
    ceiling = m.main.count + m.found.bounds.max_surge if is_clear else 0
    fill(m.s, m.main, m.ledger, m.steps, occupied, ceiling)


def promote(m: Move) -> None:
    s, main, there = m.s, m.main, members(m.s, m.main)
    if m.lacks_files or m.goal.kind is not GoalKind.ROLL or len(m.goal.generations) > 1:
        return
    if len(there) != main.count or not all(s.is_available(replica) for replica in there):
        return
    drain = s.desired.drain_timeout if s.desired else None
    parsed = parsed_of(s, main.digest)
    promoted = Promoted(main.digest, main.spec, main.count, main.origin, s.revision, s.now, drain, parsed)
    if s.promoted and _is_same(s.promoted, promoted):
        return
    m.steps.record(Promote(s.id, promoted, f"promoted: {main.count}/{main.count} replicas available"))
    m.steps.look(s.now)


def _is_same(a: Promoted, b: Promoted) -> bool:
    """Equal apart from when it was written and by which revision."""
    return a == replace(b, revision=a.revision, at=a.at, spec=a.spec, parsed=a.parsed, translation=a.translation)


def drain_old(m: Move) -> None:
    """Drain as many old replicas as the floor allows: never promoted ones first."""
    s, there, old = m.s, members(m.s, m.main), old_replicas(m.s, m.goal)
    if m.lacks_files or (m.found.way is Way.STOP_FIRST and (_is_waiting(m) or len(there) >= m.main.count)):
        return
    serving = [replica for replica in old if s.is_serving(replica)]
    able = sum(s.is_available(replica) for replica in there) + len(serving)
    spare = able - (m.main.count - m.found.bounds.max_unavailable)
    if m.found.way is Way.STOP_FIRST:
        # Where git wants more replicas than there were, the first of them must make room all the same.
        spare = max(spare, 1)
    # Not routed yet means not available: ending it costs nothing.
    unrouted = [r for r in old if r.routed is Routed.ABSENT and not s.is_proven(r.digest)]
    for replica in (*unrouted, *serving)[: max(0, spare)]:
        m.drain(replica, f"superseded by {m.main.digest[:8]}")


def _is_waiting(m: Move) -> bool:
    """What starts of the old will serve soon, or leave its room."""
    unready = m.s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING)
    return is_busy(m.s, m.main) or any(r.digest not in m.wanted for r in unready)


# ---------------------------------------------------------------- fall back


def fall_back(m: Move) -> None:
    """The last good digest starts; a new one goes on if it is starting already, or if it may be the cure."""
    if m.found.fallback is None:
        return
    s, first, surge = m.s, m.found.fallback.first, m.found.bounds.max_surge
    back = wanted_back(s, first)
    for replica in back:
        m.steps.record(Undrain(replica.id, "serving again: no other replica is available"))
    if m.found.fallback.alone:
        _stop_unstarted(m, {first.digest})
        for other in m.goal.generations:
            if other.digest != first.digest:
                watch(s, other, m.steps)
    else:
        # One is enough to see whether it is.
        fill(s, replace(m.main, count=1), m.ledger, m.steps, s.replicas, m.main.count + surge)
    is_clear = not m.found.bounds.recreate or all(r.digest == first.digest for r in s.replicas)
    ceiling = max(first.count, m.main.count) + surge - len(back) - len(m.steps.started())
    occupied = [r for r in s.replicas if r not in back]
    rest = replace(first, count=first.count - len(back))
    fill(s, rest, m.ledger, m.steps, occupied, ceiling if is_clear else 0)
    _await_leaving(m, first, back)


def _await_leaving(m: Move, first: Generation, back: list[Replica]) -> None:
    leaving = m.s.of(ReplicaPhase.BROKEN, ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.GONE)
    if back or (leaving and not (members(m.s, first) or m.steps.started())):
        m.steps.say("waiting for stopping replicas")
        m.steps.look(m.s.now + SOON)


# ---------------------------------------------------------------- in which order

_ROLLOUT = (stop_superseded, keep_last_good, scale_down, start_canaries, start_new, promote, drain_old)
STEPS: Mapping[Way, tuple[Callable[[Move], None], ...]] = {
    Way.FORGET: (end_all, forget),
    Way.EMPTY: (end_all, note_no_replicas),
    Way.KEEP: (stop_unstarted, start_kept),
    Way.GIVE_UP: (stop_rejected,),
    Way.FALL_BACK: (stop_superseded, fall_back),
    Way.START: _ROLLOUT,
    Way.SURGE: _ROLLOUT,
    Way.STOP_FIRST: _ROLLOUT,
    Way.OBEY: _ROLLOUT,
    Way.OBEY_UPWARDS: _ROLLOUT,
    Way.WAIT: (stop_superseded, wait_for_room, keep_last_good, scale_down, start_canaries, watch_new),
    Way.BLOCKED: (stop_superseded, keep_last_good, scale_down, start_canaries, watch_new),
}
