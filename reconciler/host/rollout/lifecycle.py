"""Replicas that failed, hang, arrived or are on their way out: what is due for each, whatever the goal. Pure."""

from __future__ import annotations

from dataclasses import replace

from reconciler.engines.digest import equivalent
from reconciler.host.health import (
    ReplicaPhase,
    failure,
    is_drained,
    is_excused,
    is_hosts_fault,
    is_stopped_by_hand,
)
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.failures import failed_on_trial
from reconciler.host.rollout.goal import Goal, GoalKind, quarantine
from reconciler.host.rollout.steps import SOON, Steps
from reconciler.model import (
    MarkReady,
    NoteCrash,
    NoteFailure,
    Reason,
    ReasonCode,
    Reattach,
    Reject,
    Relabel,
    Remove,
    Repair,
    Replica,
    ReplicaId,
    Restart,
    Routed,
    Stop,
    Undrain,
)
from reconciler.model.crash_signs import is_crowded_out
from reconciler.model.names import counted


def end_hung(s: ServiceContext, goal: Goal, steps: Steps) -> None:
    """One alone stays while its successor starts: it may come back to life, and stopping it gains nothing."""
    is_wanted = goal.kind not in (GoalKind.LEAVE, GoalKind.SUSPEND)
    is_replaced = bool(s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING) or steps.started())
    waits = is_wanted and is_replaced and not any(map(s.is_serving, s.replicas))
    for replica in s.of(ReplicaPhase.HUNG):
        _, text = failure(replica, s.now, s.patience) or (ReasonCode.HUNG, "it is hung")
        if waits and s.is_proven(replica.digest) and replica.draining_at is None:
            steps.say(f"{replica.id.serial} is replaced once its successor serves: {text}")
            continue
        if s.is_beside_a_start(replica):
            steps.say(f"{replica.id.serial} is hung; it is stopped once its neighbour on the GPU has started")
            steps.look(s.now + SOON)
            continue
        steps.act(Stop(replica.id, text, force=True, cut=replica.in_flight or 0))
        steps.say(f"cleaning up {replica.id.serial}: {text}")
        steps.look(s.now + SOON)


def handle_failures(s: ServiceContext, steps: Steps) -> ServiceContext:
    """Stop what failed. Before promotion a failure is the commit's fault; after it, an incident."""
    for replica in s.of(ReplicaPhase.BROKEN):
        code, text = failure(replica, s.now, s.patience) or (ReasonCode.CRASHED, "the engine ended")
        if replica.blame:
            text = f"{text}: {replica.blame}"
        s = _attribute(s, replica, Reason(code, text, replica.origin), steps)
        if replica.restarted and replica.ready_at is not None and s.is_beside_a_start(replica):
            steps.say(f"{replica.id.serial} failed; its new process ends once its neighbour on the GPU has started")
            steps.look(s.now + SOON)
            continue
        cut = (replica.in_flight or 0) if replica.draining_at is not None else 0
        steps.act(Stop(replica.id, text, force=not replica.alive, cut=cut))
        steps.say(f"cleaning up {replica.id.serial}: {text}")
        steps.look(s.now + SOON)
    for replica in s.of(ReplicaPhase.HUNG):
        code, text = failure(replica, s.now, s.patience) or (ReasonCode.HUNG, "it is hung")
        s = _attribute(s, replica, Reason(code, text, replica.origin), steps)
    return s


def reattach(s: ServiceContext, steps: Steps) -> ServiceContext:
    """Go on with replicas whose process is another one now: they are of the same unit, and serve once they answer."""
    for replica in s.of(ReplicaPhase.STARTING, ReplicaPhase.READY):
        if replica.restarted is None:
            continue
        why = str(replica.restarted)
        if replica.restarted is Restart.CRASHED:
            s = _attribute(s, replica, Reason(ReasonCode.CRASHED, f"the engine {why}", replica.origin), steps)
        serves = replica.ready_now and replica.ready_at is not None
        steps.record(Reattach(replica.id, serves, why))
        steps.say(f"drift of {replica.id.serial}: {why}" + ("" if serves else "; it serves again once it responds"))
        steps.look(s.now + SOON)
        again = replace(replica, restarted=None)
        if not serves:
            again = replace(again, ready_at=None, ready_now=False, created_at=s.now, again=why)
        s = replace(s, replicas=tuple(again if r.id == replica.id else r for r in s.replicas))
    return s


def _attribute(s: ServiceContext, replica: Replica, reason: Reason, steps: Steps) -> ServiceContext:
    if replica.draining_at is not None or is_stopped_by_hand(replica):
        return s
    if s.owned and replica.run in s.owned.counted:
        # The daemon died after it wrote this death down.
        return s
    if is_hosts_fault(replica) and not s.is_proven(replica.digest):
        return _excuse(s, replica, reason, steps)
    crowded_out = bool(replica.stranger) or is_crowded_out(replica.last_words)
    if (s.all_died or crowded_out) and s.owned and is_excused(s.owned.conflicts, s.now):
        text = f"all processes of this host ended at once: {reason.message}" if s.all_died else reason.message
        steps.record(NoteCrash(replica.id, replica.run, s.now, text, conflict=True))
        return replace(s, owned=replace(s.owned, conflicts=(*{*s.owned.conflicts, s.now},)))
    if s.is_proven(replica.digest):
        steps.record(NoteCrash(replica.id, replica.run, s.now, reason.message))
        # All that die at once are one incident.
        return replace(s, owned=replace(s.owned, crashes=(*{*s.crashes, s.now},))) if s.owned else s
    if s.desired and replica.digest == s.desired.digest and replica.digest not in s.quarantines:
        failed = quarantine(s, replica.digest, replace(reason, origin=s.desired.origin), replica.last_words)
        steps.record(Reject(failed, str(failed.reason)))
        return replace(s, quarantines={**s.quarantines, replica.digest: failed})
    return s


def _excuse(s: ServiceContext, replica: Replica, reason: Reason, steps: Steps) -> ServiceContext:
    """Its host failed it on trial: nothing is quarantined, the last good digest comes back, and it is tried later."""
    note = NoteFailure(replica.id, replica.digest, replica.run, reason.message)
    failed = failed_on_trial(s.failures, note, s.now)
    if failed in s.failures:
        return s
    steps.record(note)
    return replace(s, failures=(*s.failures, failed))


def finish_stops(s: ServiceContext, steps: Steps) -> None:
    """Forget what is gone; force what does not go."""
    for replica in s.of(ReplicaPhase.GONE):
        steps.act(Remove(replica.id, "the host restarted" if replica.rebooted else "nothing of it is left"))
        # Who waits for the next step must not take this moment for the end.
        steps.say(f"removing {replica.id.serial}")
        steps.look(s.now)
    for replica in s.of(ReplicaPhase.STOPPING):
        deadline = (replica.stopping_at or s.now) + s.patience.stop_grace
        if replica.releasing and not replica.alive and not replica.leftovers:
            steps.say(f"stopped {replica.id.serial}; waiting until the driver gives back its GPU memory")
        elif not replica.alive:
            steps.act(Stop(replica.id, "its main process has ended; ending its other processes", force=True))
        elif s.now >= deadline:
            steps.act(Stop(replica.id, f"still there {s.patience.stop_grace:g} s after SIGTERM", force=True))
        steps.say(f"stopping {replica.id.serial}")
        steps.look(s.now + SOON)


def repair(s: ServiceContext, steps: Steps) -> None:
    """Put back how replicas are kept that serve or shall serve."""
    for replica in s.of(ReplicaPhase.STARTING, ReplicaPhase.READY):
        if replica.drift:
            steps.act(Repair(replica.id, replica.drift))
            steps.say(f"drift of {replica.id.serial}: {replica.drift}; repairing it")
            steps.look(s.now + SOON)


def mark_ready(s: ServiceContext, steps: Steps) -> ServiceContext:
    """Write down which replicas became ready."""
    ready = {r.id for r in s.of(ReplicaPhase.STARTING) if r.ready_now and r.healthy is not False}
    for replica in sorted(ready):
        steps.record(MarkReady(replica, "answered a real completion"))
        steps.look(s.now + SOON)
    if not ready:
        return s
    return replace(s, replicas=tuple(replace(r, ready_at=s.now) if r.id in ready else r for r in s.replicas))


def relabel(s: ServiceContext, goal: Goal, steps: Steps) -> ServiceContext:
    """Equal meaning, written differently: the digest changes, the process does not."""
    if goal.kind is not GoalKind.ROLL or s.preflight is None or not s.preflight.parsed:
        return s
    if s.desired and s.desired.keeps_stable:
        return s
    new, same = goal.generations[-1], set()
    for replica in s.of(ReplicaPhase.STARTING, ReplicaPhase.READY):
        if replica.digest == new.digest or replica.parsed != s.preflight.parsed:
            continue
        if equivalent(replica.spec, new.spec):
            why = "its arguments were only written differently; no restart needed"
            steps.record(Relabel(replica.id, new.digest, new.spec, new.origin, why))
            steps.look(s.now)
            same.add(replica.id)
    if not same:
        return s
    labelled = (replace(r, digest=new.digest, spec=new.spec) if r.id in same else r for r in s.replicas)
    return replace(s, replicas=tuple(labelled))


def finish_drains(s: ServiceContext, goal: Goal, steps: Steps) -> ServiceContext:
    """Stop what is drained or out of time; take back what is wanted again, and count on it from here on."""
    wanted = _wanted_again(s, goal)
    for replica in s.of(ReplicaPhase.DRAINING):
        steps.look(s.now + SOON)
        if replica.id in wanted:
            steps.record(Undrain(replica.id, "in git again"))
            continue
        cut = replica.in_flight or 0
        if s.is_beside_a_start(replica):
            steps.say(f"draining {replica.id.serial}; it ends once its neighbour on the GPU has started")
        elif is_drained(replica):
            steps.act(Stop(replica.id, "drained"))
        elif s.now - (replica.draining_at or s.now) >= s.drain_timeout and replica.routed in (
            Routed.DRAINING,
            Routed.ABSENT,
        ):
            running = "an unknown number of" if replica.in_flight is None else cut
            text = f"drain deadline of {s.drain_timeout:g} s reached; {running} running requests are cut"
            steps.act(Stop(replica.id, text, cut=cut))
        steps.say(f"draining {replica.id.serial}" + (f": {counted(cut, 'request')} running" if cut else ""))
    if not wanted:
        return s
    return replace(s, replicas=tuple(replace(r, draining_at=None) if r.id in wanted else r for r in s.replicas))


def _wanted_again(s: ServiceContext, goal: Goal) -> set[ReplicaId]:
    ids: set[ReplicaId] = set()
    # While git cannot be followed there is no successor either: what was drained for one serves on.
    if goal.kind not in (GoalKind.ROLL, GoalKind.RESTORE, GoalKind.KEEP):
        return ids
    for generation in goal.generations:
        have = [r for r in s.of(ReplicaPhase.STARTING, ReplicaPhase.READY) if r.digest == generation.digest]
        back = [
            r for r in s.of(ReplicaPhase.DRAINING) if r.digest == generation.digest and r.ready_at and not is_drained(r)
        ]
        ids |= {r.id for r in back[: max(0, generation.count - len(have))]}
    return ids
