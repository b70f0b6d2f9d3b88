"""desired and observed → Plan, for a cluster. Pure: the same answers always make the same plan.

Every object is compared with the live one. What differs is applied, in the order in which one object needs another; an
InferenceService as its rollout asks. What git does not have any more, and is ours, is deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from reconciler.cluster.health.objects import HealthContext, object_health
from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.object_plan import Decided, apply_action, left_alone, said_of
from reconciler.cluster.objects.compare import (
    Comparison,
    InSync,
    TakeOver,
    compare,
)
from reconciler.cluster.objects.ignore import IgnoreRule, Rules
from reconciler.cluster.objects.inventory import Member, confirm, inventory_body, is_ours, shrink, union
from reconciler.cluster.objects.options import Options, options_of
from reconciler.cluster.objects.order import Order, Ordered, apply_order
from reconciler.cluster.objects.own_namespace import why_not_allowed
from reconciler.cluster.observed import ClusterObserved
from reconciler.cluster.pruning import PrunePlan, prune
from reconciler.cluster.rollout.batches import BatchSettings
from reconciler.cluster.rollout.drain import DrainSettings
from reconciler.cluster.rollout.gpus import ClusterRoom, read_room
from reconciler.cluster.rollout.last_good import ServiceRecord
from reconciler.cluster.runtime_plan import RuntimePlan, as_object, plan_runtimes
from reconciler.cluster.service_plan import RolloutDecision, ServiceInputs, decide, keep_on_copy, records_of
from reconciler.cluster.service_verdict import (
    again_at,
    health_of,
    kept_as_it_is,
    service_verdict,
    suspended,
    suspended_object,
    suspended_verdict,
    why_applied,
)
from reconciler.fault_isolation import Faults
from reconciler.model import (
    Action,
    ApplyObject,
    Desired,
    DesiredObject,
    DesiredState,
    FailedAction,
    Health,
    HealthStatus,
    Holds,
    KubeObject,
    ObjectChange,
    ObjectId,
    ObjectPlan,
    Plan,
    Quarantine,
    Reason,
    ReasonCode,
    ServiceId,
    ServicePlan,
    Sync,
    Unreachable,
    WriteInventory,
    host_reason,
    progress,
)

# Seconds until a kind that is not served is looked for again.
_KIND_AGAIN = 5.0


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """What the config says of a cluster. `drain` None: nothing is added to let pods drain. `shares_namespace`: services
    are in the namespace of our own objects, too."""

    health: HealthLimits = field(default_factory=HealthLimits)
    drain: DrainSettings | None = field(default_factory=DrainSettings)
    ignore: tuple[IgnoreRule, ...] = ()
    batches: BatchSettings = field(default_factory=BatchSettings)
    take_over: bool = False
    preflight: bool = False
    shares_namespace: bool = False


def make_plan(
    desired: DesiredState,
    observed: ClusterObserved | Unreachable,
    holds: Holds,
    policy: ClusterPolicy,
    failures: Collection[FailedAction] = (),
) -> Plan:
    """The next steps of one cluster. `failures` are actions that failed when they were last tried."""
    if isinstance(observed, Unreachable):
        return _nothing(desired, observed, holds)
    return _Pass(desired, observed, holds, policy, tuple(failures)).plan()


@dataclass(slots=True)
class _Pass:
    desired: DesiredState
    seen: ClusterObserved
    holds: Holds
    policy: ClusterPolicy
    failures: tuple[FailedAction, ...]
    faults: Faults = field(default_factory=lambda: Faults("planning"))
    _room: ClusterRoom | None = None
    _failed: dict[ServiceId, list[Quarantine]] = field(default_factory=dict)
    _odd: dict[ObjectId, Reason] = field(default_factory=dict)
    _runtimes: RuntimePlan = field(default_factory=RuntimePlan)

    def plan(self) -> Plan:
        rules = Rules(self.policy.ignore, self.seen.inventory.applyset)
        options = {each.id: self._options(each) for each in self.seen.wanted}
        order = apply_order(_ordered(self.seen.wanted, options))
        waves = {one: number for number, wave in enumerate(order.waves) for one in wave}
        services = {one.id: one for one in self.desired.services}
        for (service, _), failed in self.holds.quarantines.items():
            self._failed.setdefault(service, []).append(failed)
        self._runtimes = plan_runtimes(
            self.desired, self.seen, self.holds, lambda one: self._compare(one, rules), self.policy.batches, self.faults
        )
        decided = {
            each.id: self._safely(each, options[each.id], order, waves, rules, services)
            for each in sorted(self.seen.wanted, key=lambda each: (waves.get(each.id, 0), each.id))
        }
        pruning = prune(self.desired, self.seen, self.holds, self.faults)
        return self._made(decided, pruning, options)

    def _made(
        self, decided: Mapping[ObjectId, Decided], pruning: PrunePlan, options: Mapping[ObjectId, Options]
    ) -> Plan:
        applies = [action for each in decided.values() for action in each.actions if isinstance(action, ApplyObject)]
        copies = self._copies(decided)
        others = [action for each in decided.values() for action in each.actions if not isinstance(action, ApplyObject)]
        inventory = self._inventory(applies, pruning, options)
        verdicts = {each.verdict.service: each.verdict for each in decided.values() if each.verdict}
        verdicts = {**verdicts, **pruning.verdicts}
        verdicts |= self._unusable(verdicts)
        # What follows from times in objects is by the API server's clock; a plan is by ours.
        looks = {
            each.said.service: each.look_again_at - self.seen.skew
            for each in decided.values()
            if each.look_again_at is not None and each.said.service is not None
        }
        due = [*(each.look_again_at for each in decided.values()), pruning.look_again_at]
        times = [each - self.seen.skew for each in due if each is not None]
        objects = {**{one: each.said for one, each in decided.items()}, **pruning.objects}
        is_leader = self.seen.is_leader
        return Plan(
            target=self.desired.target,
            revision=self.desired.revision,
            at=self.seen.at,
            actions=(*inventory, *copies, *applies, *others, *pruning.actions, *self._runtimes.deletes)
            if is_leader
            else (),
            verdicts=verdicts,
            look_again_at=min(times, default=None),
            notes=(*self.desired.unreadable, *self.desired.notes, *self._notes(options)),
            looks=looks | ({ServiceId("", ""): min(times)} if times and not looks else {}),
            bugs=tuple(self.faults.bugs),
            holds=self.holds,
            deletions=pruning.deletions,
            objects=objects,
        )

    def _copies(self, decided: Mapping[ObjectId, Decided]) -> Iterator[ApplyObject]:
        """Copies of runtimes that services need and that are not there: before anything else, as these name them."""
        wanted = [*self._runtimes.copies, *(each.copy for each in decided.values() if each.copy is not None)]
        for copy in {ObjectId.of(each): each for each in wanted}.values():
            if ObjectId.of(copy) not in self.seen.live:
                yield ApplyObject(as_object(copy), "services are kept on this copy of their runtime", wave=-1)

    def _notes(self, options: Mapping[ObjectId, Options]) -> Iterator[Reason]:
        yield from (each for one in options.values() for each in one.warnings)
        if not self.seen.is_leader:
            yield host_reason(ReasonCode.NOT_LEADER, f"this daemon only looks: {self.seen.leader}")

    # ------------------------------------------------------------ one object

    def _options(self, wanted: DesiredObject) -> Options:
        try:
            return options_of(wanted)
        except Exception as error:
            self._odd[wanted.id] = self.faults.note_other(f"reading annotations of {wanted.id}", error, wanted.origin)
            return Options()

    def _safely(
        self,
        wanted: DesiredObject,
        options: Options,
        order: Order,
        waves: Mapping[ObjectId, int],
        rules: Rules,
        services: Mapping[ServiceId, Desired],
    ) -> Decided:
        """An object that makes us raise is left alone, and the others are looked after."""
        try:
            if (why := self._why_not(wanted, options, order)) is not None:
                return self._left(wanted, *why)
            if self.holds.suspends_everything and wanted.service is None:
                return Decided(suspended_object(wanted))
            if wanted.service is not None and wanted.service in services:
                return self._service(wanted, services[wanted.service], options, waves[wanted.id], rules)
            return self._object(wanted, options, waves[wanted.id], rules)
        except Exception as error:
            reason = self.faults.note_other(f"planning {wanted.id}", error, wanted.origin)
            return self._left(wanted, ObjectChange.KEEP, reason)

    def _why_not(self, wanted: DesiredObject, options: Options, order: Order) -> tuple[ObjectChange, Reason] | None:
        kind = (wanted.id.group, wanted.id.kind)
        if (why := self._odd.get(wanted.id) or self._runtimes.odd.get(wanted.id)) is not None:
            return ObjectChange.KEEP, why
        if (why := wanted.refused or order.blocked.get(wanted.id)) is not None:
            return ObjectChange.KEEP, why
        own, is_shared = self.seen.inventory.namespace, self.policy.shares_namespace
        if text := why_not_allowed(wanted.id, own, is_shared):
            return ObjectChange.KEEP, Reason(ReasonCode.OWN_NAMESPACE, text, wanted.origin)
        if not options.reconciles:
            text = "left alone: an annotation in git says so"
            return ObjectChange.NONE, Reason(ReasonCode.SUSPENDED, text, wanted.origin)
        if kind in self.seen.absent:
            text = f"{wanted.api_version} {wanted.id.kind} is not served by this cluster (yet); install its CRD"
            return ObjectChange.WAIT, Reason(ReasonCode.KIND_NOT_SERVED, text, wanted.origin_of("apiVersion"))
        return self.seen.unseen(wanted.id)

    def _left(self, wanted: DesiredObject, change: ObjectChange, why: Reason) -> Decided:
        again = self.seen.clock + _KIND_AGAIN if change is ObjectChange.WAIT else None
        return replace(left_alone(wanted.id, wanted.origin, wanted.service, change, why), look_again_at=again)

    def _object(self, wanted: DesiredObject, options: Options, wave: int, rules: Rules) -> Decided:
        found = self._compare(wanted, rules)
        live = self.seen.live.get(wanted.id)
        health, again = self._health(wanted, live)
        said = self._told(wanted, found, options, health)
        action = None if said.reasons else apply_action(wanted, found, options, wave, said.why)
        if (text := self._runtimes.texts.get(wanted.id)) and not isinstance(found, InSync):
            said = replace(said, why=f"{said.why}: {text}")
        if action is not None and wanted.id in self._runtimes.withheld:
            said, action = replace(said, change=ObjectChange.WAIT), None
        applied = found.applied if isinstance(found, InSync) else None
        return Decided(said, (action,) if action else (), look_again_at=again, applied=applied)

    def _compare(self, wanted: DesiredObject, rules: Rules) -> Comparison:
        live = self.seen.live.get(wanted.id)
        known = self.seen.remembered.get(wanted.id)
        member = self.seen.inventory.members.get(wanted.id)
        is_member = member is not None and live is not None and is_ours(member, live, rules.applyset)
        return compare(wanted, live, known.applied if known else None, rules, is_member)

    def _health(self, wanted: DesiredObject, live: KubeObject | None) -> tuple[Health, float | None]:
        if live is None:
            return Health(HealthStatus.MISSING, progress(ReasonCode.MISSING, "it is not on the cluster")), None
        found = object_health(live, HealthContext(self.seen.clock, self.policy.health))
        if found is None:
            return Health(HealthStatus.HEALTHY, progress(ReasonCode.SERVING, "it is there")), None
        return found.health, found.look_again_at

    def _told(self, wanted: DesiredObject, found: Comparison, options: Options, health: Health) -> ObjectPlan:
        said = said_of(wanted, found, options, health)
        refused = self.seen.refusals.get((wanted.id, wanted.hash), ()) if not isinstance(found, InSync) else ()
        reasons = (*said.reasons, *self._not_taken_over(wanted, found, options), *refused)
        return replace(said, reasons=reasons) if reasons else said

    def _not_taken_over(self, wanted: DesiredObject, found: Comparison, options: Options) -> tuple[Reason, ...]:
        if not isinstance(found, TakeOver) or options.take_over or self.policy.take_over:
            return ()
        text = (
            f"it exists, and is of {', '.join(found.owners)}: it is not changed; to take it over, annotate it with "
            f'reconciler/take-over: "true", or set targets[].take_over'
        )
        return (Reason(ReasonCode.NOT_OURS, text, wanted.origin),)

    # ------------------------------------------------------------ one service

    def _service(self, git: DesiredObject, desired: Desired, options: Options, wave: int, rules: Rules) -> Decided:
        on_record = self.seen.records.get(desired.id) or ServiceRecord(desired.id)
        s = ServiceInputs(
            desired,
            git,
            self.seen,
            self.policy.health,
            self.policy.drain,
            self.desired.revision,
            on_record,
            on_record.with_quarantines(self._failed.get(desired.id, ())),
            self.policy.preflight,
        )
        if self.holds.suspends(desired.id):
            return suspended(s)
        decision = self._decision(s, rules)
        if decision.new is not None and not decision.goal.blocked:
            self._room = decision.new.room
        return self._service_decided(s, decision, options, wave)

    def _service_decided(self, s: ServiceInputs, decision: RolloutDecision, options: Options, wave: int) -> Decided:
        health, goal, version = health_of(s), decision.goal, decision.version
        if version is None or decision.found is None:
            return kept_as_it_is(s, decision, health)
        said = self._told(version.wanted, decision.found, options, health)
        why = why_applied(said, goal)
        action = apply_action(version.wanted, decision.found, options, wave, why) if not said.reasons else None
        if action is not None:
            action = replace(action, additions=version.additions)
        records, warnings = records_of(s, decision)
        plan = service_verdict(s, decision, replace(said, why=why), health, bool(records))
        said = replace(said, sync=plan.sync, service=s.desired.id, why=why)
        actions: tuple[Action, ...] = (*records, *((action,) if action else ()))
        applied = decision.found.applied if isinstance(decision.found, InSync) else None
        plan = replace(plan, blocked=(*plan.blocked, *said.reasons, *warnings))
        return Decided(said, actions, plan, again_at(s, decision), applied, decision.copy)

    def _decision(self, s: ServiceInputs, rules: Rules) -> RolloutDecision:
        def compared(wanted: DesiredObject) -> Comparison:
            return self._compare(wanted, rules)

        copy, why = self._runtimes.kept.get(s.desired.id, ("", None))
        kept = keep_on_copy(s, copy, why, compared) if why is not None else None
        return kept or decide(s, self._free, compared)

    def _free(self) -> ClusterRoom:
        if self._room is None:
            self._room = read_room(self.seen.nodes, self.seen.pods)
        return self._room

    def _unusable(self, known: Mapping[ServiceId, ServicePlan]) -> dict[ServiceId, ServicePlan]:
        """Services whose documents cannot be used: what is there is kept."""
        found = {}
        for one in self.desired.services:
            if one.id not in known and self.holds.suspends(one.id):
                found[one.id] = suspended_verdict(one.id)
            elif one.id not in known:
                health = self.seen.health.get(one.id)
                why = one.problems[0] if one.problems else host_reason(ReasonCode.NOT_YET_OBSERVED, "not looked at yet")
                shown = health.health if health else Health(HealthStatus.MISSING, why)
                found[one.id] = ServicePlan(one.id, Sync.OUT_OF_SYNC, shown, step="kept as it is: git cannot be used")
        return found

    # ------------------------------------------------------------ what is ours

    def _inventory(
        self, applies: list[ApplyObject], pruning: PrunePlan, options: Mapping[ObjectId, Options]
    ) -> tuple[WriteInventory, ...]:
        """Before anything is applied it is written down as ours; what is gone is no more."""
        before = self.seen.inventory
        planned = {each.object: self._member(each.wanted, options[each.object]) for each in applies}
        known = {
            one: each.applied
            for one, each in self.seen.remembered.items()
            if one in before.members and one not in planned
        }
        # First what we applied meanwhile: only then does it tell what is gone.
        after = union(shrink(confirm(before, known), pruning.gone), planned)
        if after == before:
            return ()
        adds = sorted(set(after.members) - set(before.members))
        gone = len(set(before.members) - set(after.members))
        parts = [f"{len(adds)} more objects are about to be ours" if adds else "", f"{gone} are gone" if gone else ""]
        reason = "; ".join(filter(None, parts)) or "what was applied is written down"
        return (WriteInventory(inventory_body(after), reason),)

    def _member(self, wanted: DesiredObject, options: Options) -> Member:
        live = self.seen.live.get(wanted.id)
        uid = live["metadata"]["uid"] if live is not None else ""
        return Member(uid, wanted.origin.file, "", options.prune)


# ---------------------------------------------------------------- order


def _ordered(wanted: Collection[DesiredObject], options: Mapping[ObjectId, Options]) -> Iterator[Ordered]:
    for each in wanted:
        found = options[each.id]
        yield Ordered(each.id, found.wave, found.depends_on, each.origin)


def _nothing(desired: DesiredState, observed: Unreachable, holds: Holds) -> Plan:
    reason = host_reason(ReasonCode.TARGET_UNREACHABLE, observed.reason)
    verdicts = {
        service.id: ServicePlan(service.id, Sync.UNKNOWN, Health(HealthStatus.UNKNOWN, reason))
        for service in desired.services
    }
    return Plan(desired.target, desired.revision, observed.at, (), verdicts, None, (reason,), holds=holds)
