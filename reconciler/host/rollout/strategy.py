"""Towards the goal: start what is missing, drain what is superseded, promote what proved itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from reconciler.host.capacity import Ledger
from reconciler.host.health import ReplicaPhase, restart_at
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.failures import why
from reconciler.host.rollout.fallback import Fallback, find_return, wanted_back
from reconciler.host.rollout.goal import NO_REPLICAS, Generation, Goal, GoalKind, last_good
from reconciler.host.rollout.needs import need_of, parsed_of
from reconciler.host.rollout.staging import begin_staging, missing_files
from reconciler.host.rollout.steps import SOON, Steps
from reconciler.model import (
    Drain,
    Forget,
    Lease,
    Promote,
    Promoted,
    Reason,
    ReasonCode,
    Replica,
    ReplicaId,
    Routed,
    Start,
    Stop,
    Strategy,
    TakeOwnership,
    Undrain,
)

# Seconds between two looks at one that is silent; a change is told by itself.
_SILENT_LOOK = 5.0
SURGE = Strategy(max_surge=1, max_unavailable=0, explicit=False)
STOP_FIRST = Strategy(max_surge=0, max_unavailable=1, explicit=False)


def move(s: ServiceContext, goal: Goal, ledger: Ledger, steps: Steps) -> None:
    """The steps that the goal asks for, as far as floor, ceiling, backoff and room allow."""
    match goal.kind:
        case GoalKind.LEAVE:
            why = _why_empty(goal)
            _empty(s, steps, why)
            if not s.replicas and s.owned:
                steps.processes.append(Forget(s.id, f"{why}, and nothing of it is left"))
        case GoalKind.SUSPEND:
            _empty(s, steps, _why_empty(goal))
            if goal.why == NO_REPLICAS:
                _note_none(s, steps)
        case GoalKind.HOLD:
            _end_planned(s, {generation.digest for generation in goal.generations}, steps)
            # One that hangs may stay beside its successor.
            occupied = [r for r in s.replicas if s.phases[r.id.serial] is not ReplicaPhase.HUNG]
            for generation in goal.generations:
                _fill(s, generation, ledger, steps, occupied, generation.count)
        case GoalKind.ROLL | GoalKind.RESTORE:
            if goal.generations:
                _roll(s, goal, ledger, steps)
            else:
                _end_unready(s, steps, "its digest was rejected", set())


def _why_empty(goal: Goal) -> str:
    """In few words: it stands in every line about this service."""
    known = {
        ReasonCode.CORDONED: "the host is cordoned",
        ReasonCode.DRAINED: "the host is drained",
        ReasonCode.NOT_FOR_THIS_HOST: "not for this host any more",
        ReasonCode.TARGET_REMOVED: "its target was taken out of the config",
    }
    return known.get(goal.why.code, goal.why.message) if goal.why else ""


def _empty(s: ServiceContext, steps: Steps, why: str) -> None:
    _end_unready(s, steps, why, set())
    for replica in s.of(ReplicaPhase.READY):
        steps.records.append(Drain(replica.id, why))
        steps.say(f"draining {replica.id.serial}: {why}")
        steps.look(s.now + SOON)


def _end_unready(s: ServiceContext, steps: Steps, why: str, wanted: set[str]) -> None:
    for replica in s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING):
        if replica.digest not in wanted:
            steps.processes.append(Stop(replica.id, why))
            steps.look(s.now + SOON)


def _end_planned(s: ServiceContext, wanted: set[str], steps: Steps) -> None:
    """What was never started need not be, while it is open where to go."""
    for replica in s.of(ReplicaPhase.PLANNED):
        if replica.digest not in wanted:
            steps.processes.append(Stop(replica.id, "written down but not started, and not wanted any more"))
            steps.look(s.now + SOON)


def _note_none(s: ServiceContext, steps: Steps) -> None:
    """Keep the last good spec, but not its number: nobody should start it again until git says so."""
    if s.promoted and s.promoted.replicas and s.desired:
        none = replace(s.promoted, replicas=0, origin=s.desired.origin, revision=s.revision, at=s.now)
        steps.records.append(Promote(s.id, none, "git asks for 0 replicas"))
        steps.look(s.now)


def _roll(s: ServiceContext, goal: Goal, ledger: Ledger, steps: Steps) -> None:
    main, *canaries = goal.generations
    wanted = {generation.digest for generation in goal.generations}
    if goal.kind is GoalKind.ROLL and (found := find_return(s, goal, ledger)):
        _come_back(s, found, goal, ledger, steps)
        return
    good = _good_beside(s, main)
    _end_unready(s, steps, f"superseded by {main.digest[:8]}", wanted | {one.digest for one in good})
    strategy = _choose(s, main, wanted, ledger, steps)
    for one in good:
        own = [r for r in s.replicas if r.digest == one.digest]
        # While there is no room for a successor, what serves stays at its number.
        _fill(s, one, ledger, steps, own, one.count if steps.lacking and not _members(s, main) else 0)
    for generation in goal.generations:
        _trim(s, generation, steps)
    for canary in canaries:
        own = [r for r in s.replicas if r.digest == canary.digest]
        # After a reboot it must not take the room of what it stands beside.
        is_complete = len(_members(s, main)) >= main.count
        _fill(s, canary, ledger, steps, own, canary.count if is_complete else 0)
    if strategy is None:
        _watch(s, main, ledger, steps)
        return
    if _lacks_files(s, main, wanted, steps):
        _watch(s, main, ledger, steps)
        return
    others = wanted - {main.digest}
    occupied = [r for r in s.replicas if r.digest not in others]
    is_clear = not strategy.recreate or len(occupied) == len(_members(s, main))
    _fill(s, main, ledger, steps, occupied, main.count + strategy.max_surge if is_clear else 0)
    if goal.kind is GoalKind.ROLL and not canaries:
        _promote(s, main, steps)
    _retire(s, main, wanted, strategy, steps)


def _good_beside(s: ServiceContext, main: Generation) -> tuple[Generation, ...]:
    """The last good digest while replicas of it serve or start: they go when their successor is there."""
    if s.promoted is None or s.is_proven(main.digest) or sum(map(s.is_available, _members(s, main))) >= main.count:
        return ()
    good = last_good(s.promoted)
    is_there = any(r.digest == good.digest for r in s.of(ReplicaPhase.STARTING, ReplicaPhase.READY))
    return (replace(good, count=min(good.count, main.count)),) if is_there else ()


def _come_back(s: ServiceContext, found: Fallback, goal: Goal, ledger: Ledger, steps: Steps) -> None:
    """The last good digest starts; a new one goes on if it is starting already, or if it may be the cure."""
    first, main = found.first, goal.generations[0]
    others = [generation for generation in goal.generations if generation.digest != first.digest]
    steps.strategy = f"the last good digest {first.digest[:8]} first: no replica is available"
    _end_unready(s, steps, f"superseded by {main.digest[:8]}", {first.digest, *(other.digest for other in others)})
    back = wanted_back(s, first)
    steps.records.extend(Undrain(replica.id, "wanted again: nothing else serves") for replica in back)
    strategy = (s.desired.strategy if s.desired else None) or SURGE
    occupied = [r for r in s.replicas if r not in back]
    if found.alone:
        _end_planned(s, {first.digest}, steps)
        for other in others:
            _watch(s, other, ledger, steps)
    else:
        # One is enough to see whether it is.
        _fill(s, replace(main, count=1), ledger, steps, s.replicas, main.count + strategy.max_surge)
    is_clear = not strategy.recreate or all(r.digest == first.digest for r in s.replicas)
    ceiling = max(first.count, main.count) + strategy.max_surge - len(back) - len(steps.started())
    _fill(s, replace(first, count=first.count - len(back)), ledger, steps, occupied, ceiling if is_clear else 0)
    leaving = s.of(ReplicaPhase.BROKEN, ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.GONE)
    if back or (leaving and not (_members(s, first) or steps.started())):
        steps.say("waiting for what is on its way out")
        steps.look(s.now + SOON)


def _lacks_files(s: ServiceContext, main: Generation, wanted: set[str], steps: Steps) -> bool:
    """Files can vanish in the middle of a rollout: then no old replica makes room for one that could not start."""
    if not _old(s, wanted) or len(_members(s, main)) >= main.count or not (missing := missing_files(s, main.spec)):
        return False
    begin_staging(s, missing, steps)
    return True


def _members(s: ServiceContext, generation: Generation) -> list[Replica]:
    return [
        r
        for r in s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING, ReplicaPhase.READY)
        if r.digest == generation.digest
    ]


def _old(s: ServiceContext, wanted: set[str]) -> list[Replica]:
    """In the order in which they make room: never promoted ones, then a canary's, then the oldest."""
    canary = {endpoint.replica for endpoint in s.route.canary} if s.route else set()
    old = [r for r in s.of(ReplicaPhase.READY) if r.digest not in wanted]
    return sorted(old, key=lambda r: (s.is_proven(r.digest), r.id not in canary))


# ---------------------------------------------------------------- which way


def _choose(s: ServiceContext, main: Generation, wanted: set[str], ledger: Ledger, steps: Steps) -> Strategy | None:
    """Surge or stop-first, and why. None: neither can go on now."""
    old = _old(s, wanted)
    explicit = s.desired.strategy if s.desired else None
    if not old:
        return explicit or SURGE
    deficit = main.count - len(_members(s, main))
    need = need_of(s, main)
    if explicit:
        has_room = deficit <= 0 or ledger.fits_without(need, s.id, old[:1])
        if has_room and deficit > 0 and explicit.max_unavailable:
            ledger.claim(need.resources, 1, s.id, beside=old[:1])
        if not has_room:
            steps.lacking = ledger.crowded_without(need, s.id, old[:1]) or ledger.lacks(need, s.id)
        return _explicit(explicit, has_room, steps)
    has_extra = len(_members(s, main)) + len(old) > main.count
    if deficit <= 0 or has_extra or _is_busy(s, main) or ledger.fits(need, s.id):
        steps.strategy = "surge: start new, switch, drain old"
        return SURGE
    if ledger.fits_soon(need, s.id):
        steps.strategy = f"surge: {_waiting(ledger.lacks(need, s.id))}"
        steps.say(steps.strategy)
        steps.look(s.now + SOON)
        return None
    if ledger.fits_without(need, s.id, old[:1]):
        ledger.claim(need.resources, 1, s.id, beside=old[:1])
        lacks = "; ".join(reason.message for reason in ledger.lacks(need, s.id))
        steps.strategy = (
            f"stop-first: drain old, stop it, start new; no room for both ({lacks}); {_price(s, main.count, old)}"
        )
        return STOP_FIRST
    steps.lacking = ledger.crowded_without(need, s.id, old[:1]) or ledger.lacks(need, s.id)
    return None


def _price(s: ServiceContext, count: int, old: list[Replica]) -> str:
    """How long it will hurt, from what the starts before it took."""
    starts = [r.ready_at - r.created_at for r in old if r.ready_at is not None and r.ready_at > r.created_at]
    start = f"about {math.ceil(max(starts))} s, as last time," if starts else "nobody knows how long"
    serving = f"{count - 1} of {count} replicas serve" if count > 1 else "nothing serves"
    return f"{serving} for at most {s.drain_timeout:g} s while running requests end, then {start} while it starts"


def _waiting(lacking: tuple[Reason, ...]) -> str:
    busy = (reason.message for reason in lacking if reason.code is ReasonCode.GPU_BUSY)
    return next(busy, "waiting for room that is about to be freed")


def _is_busy(s: ServiceContext, main: Generation) -> bool:
    unsettled = any(not s.is_available(replica) for replica in _members(s, main))
    return unsettled or bool(s.of(ReplicaPhase.BROKEN, ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.GONE))


def _explicit(strategy: Strategy, has_room: bool, steps: Steps) -> Strategy:
    """The user's own strategy is obeyed; but nothing is stopped for a successor that would not fit."""
    name = "Recreate" if strategy.recreate else "RollingUpdate"
    bounds = f"maxSurge {strategy.max_surge}, maxUnavailable {strategy.max_unavailable}"
    steps.strategy = f"{name} (deploymentStrategy): {bounds}"
    return strategy if has_room else replace(strategy, max_unavailable=0)


# ---------------------------------------------------------------- start


def _fill(
    s: ServiceContext, generation: Generation, ledger: Ledger, steps: Steps, occupied: Sequence[Replica], ceiling: int
) -> None:
    """Start what is missing. `occupied` are the replicas that count towards `ceiling`."""
    _watch(s, generation, ledger, steps)
    missing = generation.count - len(_members(s, generation))
    for _ in range(min(missing, ceiling - len(occupied))):
        if not _start_one(s, generation, ledger, steps):
            return


def _watch(s: ServiceContext, generation: Generation, ledger: Ledger, steps: Steps) -> None:
    """What goes on with the replicas that there are, and when to look again."""
    leaving = {action.replica for action in steps.processes if isinstance(action, Stop)}
    for replica in _members(s, generation):
        if replica.id in leaving:
            continue
        if s.phases[replica.id.serial] is ReplicaPhase.PLANNED and (missing := missing_files(s, generation.spec)):
            begin_staging(s, missing, steps)
        elif s.phases[replica.id.serial] is ReplicaPhase.PLANNED:
            if not _is_waiting(s, generation, steps):
                why = "on record, but not running yet"
                steps.processes.append(_start(s, generation, replica.id, replica.lease, why))
                steps.look(s.now + 1)
        elif replica.ready_at is None:
            steps.say(f"starting {replica.id.serial}" + (f": {replica.again}" if replica.again else ""))
            steps.look(s.now + 1)
        elif replica.silence:
            steps.say(f"{replica.id.serial}: {replica.silent_why}")
            steps.look(s.now + _SILENT_LOOK)
        elif not s.is_available(replica):
            steps.say(f"{replica.id.serial} is ready; trusted after {s.patience.min_ready:g} s")
            steps.look(max(s.now + SOON, replica.ready_at + s.patience.min_ready))


def _start_one(s: ServiceContext, generation: Generation, ledger: Ledger, steps: Steps) -> bool:
    due = restart_at(s.crashes, s.now) if s.is_proven(generation.digest) else s.now
    if due > s.now:
        steps.say("crashed repeatedly; the next start backs off")
        steps.look(due)
        return False
    if _is_waiting(s, generation, steps):
        return False
    if missing := missing_files(s, generation.spec):
        begin_staging(s, missing, steps)
        return False
    need = need_of(s, generation)
    lease = ledger.take(need, s.id)
    if lease is None:
        steps.lacking = steps.lacking or ledger.lacks(need, s.id)
        if ledger.fits_soon(need, s.id):
            steps.say(_waiting(steps.lacking))
            steps.look(s.now + SOON)
        return False
    replica = _new_id(s, generation, steps)
    if s.owned is None and not any(isinstance(action, TakeOwnership) for action in steps.records):
        steps.records.append(TakeOwnership(s.id, generation.origin, "first replica on this host"))
    steps.processes.append(_start(s, generation, replica, lease, _why_start(s, generation)))
    steps.say(f"starting {replica.serial}")
    steps.look(s.now + 1)
    return True


def _is_waiting(s: ServiceContext, generation: Generation, steps: Steps) -> bool:
    """Did its last start fail, so that the next one is not due yet?"""
    failed, due = s.start_failure(generation.digest), s.start_due(generation.digest)
    if failed is None or due <= s.now:
        return False
    steps.say(f"{generation.digest[:8]} {why(failed).message}; tried again with backoff")
    steps.look(due)
    return True


def _new_id(s: ServiceContext, generation: Generation, steps: Steps) -> ReplicaId:
    taken = {r.id.serial for r in s.replicas} | {r.serial for r in steps.started()}
    number = next(n for n in range(len(taken) + 1) if f"{generation.digest[:8]}-{n}" not in taken)
    return ReplicaId(s.id, f"{generation.digest[:8]}-{number}")


def _start(s: ServiceContext, generation: Generation, replica: ReplicaId, lease: Lease, why: str) -> Start:
    return Start(
        replica=replica,
        digest=generation.digest,
        spec=generation.spec,
        origin=generation.origin,
        lease=lease,
        drain_timeout=s.drain_timeout,
        parsed=parsed_of(s, generation.digest),
        revision=s.revision,
        reason=why,
    )


def _why_start(s: ServiceContext, generation: Generation) -> str:
    if s.desired and generation.digest != s.desired.digest:
        return f"rollback: the last good digest {generation.digest[:8]} is to be available"
    if s.is_proven(generation.digest):
        return "a replica is missing"
    return f"git asks for {generation.digest[:8]}"


# ---------------------------------------------------------------- promote, drain


def _trim(s: ServiceContext, generation: Generation, steps: Steps) -> None:
    """Scale down: those that never served go first, then the youngest."""
    members = sorted(_members(s, generation), key=lambda r: (r.ready_at is None, r.created_at, r.id), reverse=True)
    why = f"scaled down to {generation.count}"
    for replica in members[: max(0, len(members) - generation.count)]:
        if replica.ready_at is None:
            steps.processes.append(Stop(replica.id, why))
        else:
            steps.records.append(Drain(replica.id, why))
        steps.look(s.now + SOON)


def _promote(s: ServiceContext, main: Generation, steps: Steps) -> None:
    members = _members(s, main)
    if len(members) != main.count or not all(s.is_available(replica) for replica in members):
        return
    drain = s.desired.drain_timeout if s.desired else None
    promoted = Promoted(
        main.digest, main.spec, main.count, main.origin, s.revision, s.now, drain, parsed_of(s, main.digest)
    )
    if s.promoted and _same(s.promoted, promoted):
        return
    steps.records.append(Promote(s.id, promoted, f"proved itself with {main.count} of {main.count} replicas"))
    steps.look(s.now)


def _same(a: Promoted, b: Promoted) -> bool:
    """Equal apart from when it was written and by which revision."""
    return a == replace(b, revision=a.revision, at=a.at, spec=a.spec, parsed=a.parsed, translation=a.translation)


def _retire(s: ServiceContext, main: Generation, wanted: set[str], strategy: Strategy, steps: Steps) -> None:
    """Drain as many old replicas as the floor allows: never promoted ones first."""
    members, old = _members(s, main), _old(s, wanted)
    # What starts of the old will serve soon, or leave its room.
    is_waiting = _is_busy(s, main) or any(
        r.digest not in wanted for r in s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING)
    )
    if strategy == STOP_FIRST and (is_waiting or len(members) >= main.count):
        return
    serving = [replica for replica in old if s.is_serving(replica)]
    able = sum(s.is_available(replica) for replica in members) + len(serving)
    spare = able - (main.count - strategy.max_unavailable)
    if strategy == STOP_FIRST:
        # Where git wants more replicas than there were, the first of them must make room all the same.
        spare = max(spare, 1)
    # Not routed yet means not available: ending it costs nothing.
    unrouted = [r for r in old if r.routed is Routed.ABSENT and not s.is_proven(r.digest)]
    for replica in (*unrouted, *serving)[: max(0, spare)]:
        why = f"superseded by {main.digest[:8]}"
        steps.records.append(Drain(replica.id, why))
        steps.say(f"draining {replica.id.serial}: {why}")
        steps.look(s.now + SOON)
