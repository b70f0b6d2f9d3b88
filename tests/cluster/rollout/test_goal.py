"""Where a service is heading: git's version, the last good one, or nowhere; and that a bad commit is tried once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.health.problems import Fault
from reconciler.cluster.health.rollout import RolloutState, RolloutStatus
from reconciler.cluster.rollout.goal import Goal, GoalKind, Situation, find_goal
from reconciler.cluster.rollout.last_good import FailedTry, ServiceRecord
from reconciler.model import NO_ORIGIN, Desired, EffectiveSpec, Preflight, Quarantine, Reason, ReasonCode
from tests.cluster.rollout.test_last_good import ID, LINE, good

SPEC = EffectiveSpec("image", (), ())
WHY = Reason(ReasonCode.CRASHED, "the engine ended", NO_ORIGIN)
CRASHED = RolloutStatus(RolloutState.FAILED, WHY, Fault.COMMIT)
UNSCHEDULABLE = RolloutStatus(RolloutState.FAILED, WHY, Fault.CLUSTER)
STARTING, WELL = RolloutStatus(RolloutState.UNDER_WAY, WHY), RolloutStatus(RolloutState.SUCCEEDED, WHY)
REFUSED = Preflight("", reasons=(WHY,))
ROLL, KEEP, RESTORE, GIVE_UP = GoalKind.ROLL, GoalKind.KEEP, GoalKind.RESTORE, GoalKind.GIVE_UP


def want(digest: str = "d2", **parts: Any) -> Desired:
    return replace(Desired(ID, LINE, SPEC, digest), **parts)


def jailed(digest: str = "d2") -> ServiceRecord:
    return ServiceRecord(ID, good(), (Quarantine(ID, digest, WHY, "r0", 1.0),))


def situation(desired: Desired | None, **parts: Any) -> Situation:
    known = Situation(ID, desired, ServiceRecord(ID, good()), "r2", 100.0, live_digest="d1")
    return replace(known, **parts)


def goal(desired: Desired | None, **parts: Any) -> Goal:
    return find_goal(situation(desired, **parts))


# ---------------------------------------------------------------- properties

digests = st.sampled_from(["d1", "d2", "d3"])
wants = st.none() | st.builds(
    want,
    digests,
    spec=st.sampled_from([SPEC, SPEC, None]),
    replicas=st.integers(0, 2),
    blocked=st.sampled_from([(), (WHY,)]),
)
records = st.builds(
    lambda proven, bad, failed: replace(
        jailed(bad) if bad else ServiceRecord(ID),
        last_good=good(digest=proven) if proven and proven != bad else None,
        failed=FailedTry(failed, WHY, 90.0) if failed else None,
    ),
    st.none() | digests,
    st.none() | digests,
    st.none() | digests,
)
situations = st.builds(
    situation,
    wants,
    record=records,
    live_digest=st.just("") | digests,
    kept=st.none() | st.just(WHY),
    outcome=st.none() | st.sampled_from([CRASHED, UNSCHEDULABLE, STARTING, WELL]),
    asks_engine=st.booleans(),
    preflight=st.none() | st.sampled_from([REFUSED, Preflight("{}")]),
    is_asking=st.booleans(),
    blocked=st.sampled_from([(), (WHY,)]),
    waits=st.none() | st.just(WHY),
)


@given(situations)
def test_a_quarantined_version_is_never_applied(s: Situation) -> None:
    found = find_goal(s)
    if s.desired and s.record.quarantine_of(s.desired.digest) and s.desired.spec and s.desired.replicas:
        assert found.kind in (RESTORE, GIVE_UP)


@given(situations)
def test_whoever_does_not_follow_git_says_why(s: Situation) -> None:
    found = find_goal(s)
    assert (found.kind is ROLL) == (found.why is None)
    assert (found.kind is RESTORE) == (found.version is not None)
    if found.version and s.desired:
        assert found.version.digest != s.desired.digest


@given(situations)
def test_only_what_has_proved_itself_is_promoted(s: Situation) -> None:
    found = find_goal(s)
    if found.promote:
        assert s.outcome is WELL
        assert s.desired
        assert s.live_digest == s.desired.digest
        assert found.reject is None


@given(situations)
def test_a_proven_version_is_never_rejected(s: Situation) -> None:
    found = find_goal(s)
    if found.reject:
        assert not s.record.is_proven(found.reject.digest)
        assert found.reject.reason.origin


@given(situations)
def test_only_a_service_that_git_gave_up_is_deleted(s: Situation) -> None:
    assert (find_goal(s).kind is GoalKind.LEAVE) == (s.desired is None and s.kept is None)


@dataclass
class Cluster:
    """What a cluster makes of what is applied: each digest works, crashes, or fails for the cluster's sake."""

    record: ServiceRecord
    live: str = ""
    now: float = 0.0
    applied: tuple[str, ...] = ()

    def do(self, desired: Desired, fates: dict[str, RolloutStatus]) -> Goal:
        outcome = fates.get(self.live)
        found = find_goal(Situation(ID, desired, self.record, "r", self.now, live_digest=self.live, outcome=outcome))
        if found.promote:
            self.record = self.record.promoted(good(digest=desired.digest))
        if found.reject:
            known = (*self.record.quarantines, found.reject)
            self.record = replace(self.record, quarantines=known, failed=None)
        if found.failed:
            self.record = replace(self.record, failed=found.failed)
        wanted = {ROLL: desired.digest, RESTORE: found.version.digest if found.version else ""}.get(found.kind)
        if wanted and wanted != self.live:
            self.live, self.applied = wanted, (*self.applied, wanted)
        return found


@given(st.lists(st.sampled_from([WELL, CRASHED, UNSCHEDULABLE]), min_size=1, max_size=4))
def test_a_bad_commit_is_tried_once_and_the_last_good_version_is_back(fates: list[RolloutStatus]) -> None:
    outcomes = {f"d{at}": fate for at, fate in enumerate(fates)}
    cluster, proven = Cluster(ServiceRecord(ID)), ""
    for digest, fate in outcomes.items():
        for _ in range(6):
            cluster.do(want(digest), outcomes)
        proven = digest if fate is WELL else proven
        assert cluster.live == (proven or digest)
    for digest, fate in outcomes.items():
        if fate is CRASHED:
            assert cluster.applied.count(digest) == 1


def test_what_the_cluster_failed_is_tried_again_more_and_more_slowly() -> None:
    cluster, outcomes = Cluster(ServiceRecord(ID, good()), "d1"), {"d1": WELL, "d2": UNSCHEDULABLE}
    tried = []
    for minute in range(20):
        cluster.now = minute * 60.0
        before = cluster.applied.count("d2")
        for _ in range(4):
            found = cluster.do(want(), outcomes)
        assert cluster.live == "d1"
        assert found.again_at is not None
        assert found.again_at > cluster.now
        tried += [minute] if cluster.applied.count("d2") > before else []
    assert tried == [0, 1, 3, 7, 15]


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize(
    ("rule", "found", "expected"),
    [
        ("a new version is applied", goal(want()), ROLL),
        ("git does not name it", goal(None), GoalKind.LEAVE),
        ("git does not name it, but cannot be read whole", goal(None, kept=WHY), KEEP),
        ("it is for other places", goal(want(not_here=(WHY,))), GoalKind.LEAVE),
        ("it cannot be used", goal(want(spec=None, problems=(WHY,))), KEEP),
        ("git asks for none", goal(want(replicas=0)), GoalKind.SUSPEND),
        ("it failed before", goal(want(), record=jailed()), RESTORE),
        ("it failed, and nothing was good", goal(want(), record=replace(jailed(), last_good=None)), GIVE_UP),
        ("the engine refuses its arguments", goal(want(), preflight=REFUSED), RESTORE),
        ("the engine is asked first", goal(want(), asks_engine=True), KEEP),
        ("the engine accepts them", goal(want(), asks_engine=True, preflight=Preflight("{}")), ROLL),
        ("there is no room", goal(want(), blocked=(WHY,)), KEEP),
        ("it is not its turn", goal(want(), waits=WHY), KEEP),
        ("it starts", goal(want(), live_digest="d2", outcome=STARTING), ROLL),
        ("it crashes on trial", goal(want(), live_digest="d2", outcome=CRASHED), RESTORE),
        ("it crashes though proven", goal(want("d1"), outcome=CRASHED), ROLL),
        ("a proven one comes back without questions", goal(want("d1"), live_digest="d2", asks_engine=True), ROLL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_goal_of_a_service(rule: str, found: Goal, expected: GoalKind) -> None:
    assert found.kind is expected, rule


def test_a_crash_on_trial_is_quarantined_at_its_line_and_revision() -> None:
    found = goal(want(), live_digest="d2", outcome=CRASHED)
    assert found.reject == Quarantine(ID, "d2", replace(WHY, origin=LINE), "r2", 100.0)


def test_the_engine_is_asked_once() -> None:
    assert goal(want(), asks_engine=True).ask
    assert not goal(want(), asks_engine=True, is_asking=True).ask


def test_a_version_without_a_last_good_one_waits_for_the_cluster() -> None:
    found = goal(want(), record=ServiceRecord(ID), live_digest="d2", outcome=UNSCHEDULABLE)
    assert found == Goal(ROLL)


def test_a_commit_that_corrects_the_cause_is_tried_at_once() -> None:
    record = replace(ServiceRecord(ID, good()), failed=FailedTry("d2", WHY, 99.0, 5))
    assert goal(want("d2"), record=record).kind is RESTORE
    assert goal(want("d3"), record=record).kind is ROLL
