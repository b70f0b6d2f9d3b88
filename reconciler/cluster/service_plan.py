"""One InferenceService on a cluster: which version it should have, how it gets there, and what became of it. Pure.

KServe runs the replicas. We decide when a version is applied and with what additions, see whether it proves itself,
and go back to the last good one where it does not (`rollout/goal.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.health.problems import Fault, HealthLimits
from reconciler.cluster.health.rollout import RolloutState, RolloutStatus, rollout_outcome
from reconciler.cluster.objects.compare import Comparison, Drifted, InSync, Unconfirmed
from reconciler.cluster.objects.owned import owned_fields
from reconciler.cluster.observed import NO_CHILDREN, RUNTIMES, ClusterObserved
from reconciler.cluster.rollout.additions import (
    NO_ADDITIONS,
    Additions,
    laid_on,
    server_container,
    server_place,
)
from reconciler.cluster.rollout.batches import COPY_OF, named_runtime
from reconciler.cluster.rollout.drain import FLAG, DrainPlan, DrainSettings, Server, find_drain
from reconciler.cluster.rollout.goal import Goal, GoalKind, Situation, find_goal
from reconciler.cluster.rollout.gpus import ClusterRoom, need_of
from reconciler.cluster.rollout.last_good import (
    LastGood,
    RecordTooLarge,
    ServiceRecord,
    kept_runtime,
    restored,
    secret_of,
)
from reconciler.cluster.rollout.strategy import ServiceChange, Transition, Way, choose, start_seconds
from reconciler.kserve.names import KSERVE_CONTAINER
from reconciler.model import (
    Desired,
    DesiredObject,
    KeepLastGood,
    KeepQuarantines,
    KubeObject,
    NoteTry,
    ObjectId,
    Reason,
    ReasonCode,
    Reject,
    progress,
)

# Seconds until a service that gave no token is asked again.
_TOKEN_AGAIN = 2.5
Compare = Callable[[DesiredObject], Comparison]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a service, with what is added to it. `wanted` is what is applied of it."""

    wanted: DesiredObject
    additions: Additions = NO_ADDITIONS

    @classmethod
    def of(cls, git: DesiredObject, additions: Additions) -> Version:
        if not additions:
            return cls(git, additions)
        digest = f"{git.hash}+{_digest_of(repr(additions))}"
        return cls(replace(git, body=laid_on(git.body, additions), hash=digest), additions)


@lru_cache(4096)
def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class ServiceInputs:
    """What a service's plan follows from. `on_record` is what the cluster remembers of it, and `record` the same with
    the digests that failed: these are for the daemon to say, which knows what was lifted."""

    desired: Desired
    git: DesiredObject
    seen: ClusterObserved
    limits: HealthLimits
    drain: DrainSettings | None
    revision: str
    on_record: ServiceRecord
    record: ServiceRecord
    asks_engine: bool = False

    @property
    def live(self) -> KubeObject | None:
        return self.seen.live.get(self.git.id)

    @property
    def health(self) -> ServingHealth | None:
        return self.seen.health.get(self.desired.id)

    @property
    def runtime(self) -> KubeObject | None:
        """The live runtime that git's version gets."""
        found = self.git.rendered.runtime if self.git.rendered else None
        return self.seen.live.get(found) if found else None

    @property
    def added(self) -> Additions:
        """What was added when it was last applied. Where that is forgotten, the live object shows it."""
        if (known := self.seen.remembered.get(self.git.id)) is not None:
            return known.additions
        live = self.live
        if live is None or owned_fields(live) is None:
            return NO_ADDITIONS
        name = named_runtime(live)
        namespaced, cluster_wide = RUNTIMES
        copies = (ObjectId(*namespaced, self.git.id.namespace, name), ObjectId(*cluster_wide, "", name))
        is_copy = any(
            COPY_OF in (self.seen.live.get(one, {}).get("metadata", {}).get("labels") or {}) for one in copies
        )
        return replace(additions_in(live, self.git.body), runtime=name if is_copy else "")

    def last_good(self, good: LastGood, runtime: str) -> Version:
        """What is applied of the last good version; with `runtime`, kept on this copy of its runtime."""
        lines = good.origin.line
        old = replace(self.git, body=good.body, hash=good.digest, origin=good.origin, lines=lines, rendered=None)
        return Version.of(old, replace(good.additions, runtime=runtime))


@dataclass(frozen=True, slots=True)
class RolloutDecision:
    """Where a service is heading. `version` is what is to be applied and `found` how it differs from what is live;
    None: nothing is. `new` is how it gets its new version, `outcome` how that stands which is applied. `copy` is a copy
    of a runtime that it needs, to be applied first."""

    goal: Goal
    version: Version | None
    found: Comparison | None
    live_digest: str
    outcome: RolloutStatus | None
    new: NewVersion | None = None
    copy: KubeObject | None = None


def keep_on_copy(s: ServiceInputs, runtime: str, why: Reason, compare: Compare) -> RolloutDecision | None:
    """The last good version goes on with a copy of its runtime, until it is its turn; None: there is none."""
    good = s.record.last_good
    if good is None or not runtime:
        return None
    version = s.last_good(good, runtime)
    goal = Goal(GoalKind.KEEP, why)
    return RolloutDecision(goal, version, compare(version.wanted), good.digest, _outcome(s, proven=True))


def decide(s: ServiceInputs, room: Callable[[], ClusterRoom], compare: Compare) -> RolloutDecision:
    """Compares git's version, and where that is not what is live, finds out how it would get there."""
    git = Version.of(s.git, replace(s.added, runtime=""))
    found = compare(git.wanted)
    live_digest = _live_digest(s, found, compare)
    record = s.record
    outcome = _outcome(s, record.is_proven(live_digest)) if live_digest else None
    new = None
    if live_digest != s.desired.digest and not isinstance(found, InSync) and not record.quarantine_of(s.desired.digest):
        new = new_version(s, room())
        git, found = new.version, compare(new.version.wanted)
    answers = s.seen.answers
    trouble = answers.troubles.get(s.desired.digest)
    goal = find_goal(
        Situation(
            s.desired.id,
            s.desired,
            record,
            s.revision,
            s.seen.clock,
            live_digest=live_digest,
            outcome=outcome,
            asks_engine=s.asks_engine and s.desired.digest not in answers.mute,
            preflight=answers.preflights.get(s.desired.digest),
            is_asking=s.desired.digest in answers.asking,
            blocked=new.blocked if new else (),
        )
    )
    if trouble and goal.kind is GoalKind.KEEP and goal.why and goal.why.code is ReasonCode.PREFLIGHT_PENDING:
        goal = replace(goal, why=trouble, blocked=(trouble,))
    if goal.kind in (GoalKind.ROLL, GoalKind.SUSPEND):
        return RolloutDecision(goal, git, found, live_digest, outcome, new)
    if goal.kind is GoalKind.RESTORE and goal.version is not None:
        copy, additions = restored(goal.version, s.runtime)
        good = s.last_good(goal.version, additions.runtime)
        return RolloutDecision(goal, good, compare(good.wanted), live_digest, outcome, copy=copy)
    return RolloutDecision(goal, None, found, live_digest, outcome, new)


_APPLIED = (InSync, Unconfirmed, Drifted)


def _live_digest(s: ServiceInputs, found: Comparison, compare: Compare) -> str:
    """The digest of what was applied last, as far as that is still there; empty: neither git's nor the last good."""
    if isinstance(found, _APPLIED):
        return s.desired.digest
    good = s.record.last_good
    if good is not None and isinstance(compare(s.last_good(good, s.added.runtime).wanted), _APPLIED):
        return good.digest
    return ""


def _outcome(s: ServiceInputs, proven: bool) -> RolloutStatus | None:
    if s.health is None:
        return None
    found = rollout_outcome(s.health, s.seen.clock, s.limits, proven=proven)
    why = s.seen.speechless.get(s.desired.id, "")
    if proven or not why or found.state is not RolloutState.SUCCEEDED:
        return found
    since = s.health.ready_since or s.seen.clock
    if s.seen.clock - since > s.limits.loading:
        text = f"its pods are ready, and no token came back for {s.limits.loading:g} s: {why}"
        return replace(
            found, state=RolloutState.FAILED, reason=progress(ReasonCode.NOT_SERVING, text), fault=Fault.COMMIT
        )
    text = f"its pods are ready; waiting for a first token: {why}"
    return replace(
        found,
        state=RolloutState.UNDER_WAY,
        reason=progress(ReasonCode.NOT_SERVING, text),
        look_again_at=s.seen.clock + _TOKEN_AGAIN,
    )


def additions_in(live: KubeObject, body: KubeObject) -> Additions:
    """What a live InferenceService has in the places where we add, and git's body has not."""
    given, found = _predictor(body), _predictor(live)
    where, there = server_place(given), server_place(found)
    old = server_container(given, where) if where else {}
    new = server_container(found, there) if there else {}
    mine = [each for each in new.get("args") or () if str(each).startswith(f"{FLAG}=")]
    pre_stop = (new.get("lifecycle") or {}).get("preStop")
    return Additions(
        strategy=_only_live(given, found, "deploymentStrategy"),
        arguments=tuple(map(str, mine)) if not any(FLAG in str(each) for each in old.get("args") or ()) else (),
        pre_stop=None if (old.get("lifecycle") or {}).get("preStop") else pre_stop,
        grace_seconds=_only_live(given, found, "terminationGracePeriodSeconds"),
    )


def _only_live(given: Mapping[str, Any], found: Mapping[str, Any], name: str) -> Any:
    return None if given.get(name) is not None else found.get(name)


def _predictor(body: KubeObject) -> Mapping[str, Any]:
    found = (body.get("spec") or {}).get("predictor")
    return found if isinstance(found, dict) else {}


# ---------------------------------------------------------------- a new version


@dataclass(frozen=True, slots=True)
class NewVersion:
    """How a service gets its new version. `blocked` is why it is not applied, `notes` what is added to it, and `room`
    what it leaves to others."""

    version: Version
    room: ClusterRoom
    strategy: str = ""
    blocked: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()


def new_version(s: ServiceInputs, room: ClusterRoom) -> NewVersion:
    """Chooses strategy and drain settings anew: only now, as the pods are replaced anyway."""
    if s.git.rendered is None:
        return NewVersion(Version.of(s.git, NO_ADDITIONS), room)
    lacks = s.seen.answers.lacks.get(s.desired.digest)
    drain, transition = drain_of(s.git, s.desired, s.drain, lacks), _transition(s, room)
    fresh = replace(drain.additions, strategy=transition.strategy if transition else None)
    is_blocked = transition is not None and transition.way is Way.BLOCKED
    lacking = transition.lacking if transition else ()
    return NewVersion(
        version=Version.of(s.git, fresh),
        room=transition.left if transition else room,
        strategy=transition.text if transition else "",
        blocked=lacking if is_blocked else (),
        notes=drain.added,
        warnings=drain.warnings if is_blocked else (*drain.warnings, *lacking),
    )


def drain_of(
    git: DesiredObject, desired: Desired, settings: DrainSettings | None, lacks: frozenset[str] | None = None
) -> DrainPlan:
    """What is added to a service so that its pods drain, as far as git tells what it runs. `lacks` are flags that its
    engine does not know, if it was asked."""
    rendered, spec = git.rendered, desired.spec
    if settings is None or rendered is None or spec is None:
        return DrainPlan()
    container = rendered.container(KSERVE_CONTAINER)
    if container is None:
        return DrainPlan()
    grace = _predictor(git.body).get("terminationGracePeriodSeconds")
    return find_drain(git, Server(container, spec.command_line, grace, rendered.mode, lacks), settings)


def _transition(s: ServiceInputs, room: ClusterRoom) -> Transition | None:
    rendered = s.git.rendered
    if rendered is None:
        return None
    children = s.seen.children.get(s.desired.id, NO_CHILDREN)
    grace = _predictor(s.git.body).get("terminationGracePeriodSeconds")
    change = ServiceChange(
        pods=(need_of(rendered.pod),),
        old=children.pods,
        replicas=s.health.desired if s.health and s.health.desired else max(1, s.desired.replicas),
        asked=s.desired.strategy,
        mode=rendered.mode,
        starts=s.record.starts,
        grace_seconds=grace if isinstance(grace, int) else 30,
        origin=s.git.origin,
    )
    return choose(change, room)


# ---------------------------------------------------------------- what is recorded


Records = tuple[tuple[KeepLastGood | KeepQuarantines | NoteTry | Reject, ...], tuple[Reason, ...]]
"""Actions that write it down, and why one is not possible."""


def records_of(s: ServiceInputs, decision: RolloutDecision) -> Records:
    """What is written down of a version that proved itself or failed."""
    goal = decision.goal
    if goal.reject is not None:
        return (Reject(goal.reject, str(goal.reject.reason)),), ()
    is_applied = isinstance(decision.found, InSync)
    if goal.promote and is_applied and not s.record.is_proven(s.desired.digest) and decision.version is not None:
        record = s.record.promoted(_good_version(s, decision.version))
        took = start_seconds(s.seen.children.get(s.desired.id, NO_CHILDREN).pods)
        record = record if took is None else record.started(took)
        ready = f"{s.health.ready}/{s.health.desired}" if s.health else "all"
        text = f"promoted: {ready} replicas ready"
        return _written(s, record, lambda body: KeepLastGood(s.desired.id, s.desired.digest, body, text))
    if goal.failed is not None:
        record, why = replace(s.record, failed=goal.failed), goal.failed.reason.message
        return _written(s, record, lambda body: NoteTry(s.desired.id, s.desired.digest, body, why))
    return _quarantines_of(s)


def _quarantines_of(s: ServiceInputs) -> Records:
    """On record in the cluster, so that a daemon that knows nothing does not try what failed."""
    held, known = ({each.digest for each in one.quarantines} for one in (s.record, s.on_record))
    if held == known:
        return (), ()
    text = "a version that failed is written down" if held - known else "what failed may be tried again"
    return _written(s, s.record, lambda body: KeepQuarantines(s.desired.id, body, text))


def _good_version(s: ServiceInputs, version: Version) -> LastGood:
    kept = kept_runtime(s.runtime) if s.runtime else None
    return LastGood(s.desired.digest, s.git.body, kept, s.revision, s.seen.clock, s.git.origin, version.additions)


def _written(
    s: ServiceInputs, record: ServiceRecord, action: Callable[[KubeObject], KeepLastGood | KeepQuarantines | NoteTry]
) -> Records:
    inventory = s.seen.inventory
    try:
        return (action(secret_of(record, inventory.namespace, inventory.name)),), ()
    except RecordTooLarge as error:
        return (), (Reason(ReasonCode.NO_ROLLBACK, str(error), s.git.origin),)
