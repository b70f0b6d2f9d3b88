"""Deletions that the guard holds on a host, whatever came before: nothing of them is done without an approval."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.host.plan import make_plan
from reconciler.model import (
    NO_ORIGIN,
    Action,
    Approval,
    ByHand,
    CommitApproval,
    DeletionRules,
    DesiredState,
    Drain,
    Forget,
    Guard,
    GuardLimits,
    Plan,
    Reason,
    ReasonCode,
    Remove,
    Stop,
    service_of,
)
from tests.host.rollout.test_plan_properties import commits, elsewhere, hosts, play
from tests.support.examples import examples
from tests.support.simulation import PATIENCE, Host

ANY = DeletionRules(limits=GuardLimits(objects=0))
BROKEN = Reason(ReasonCode.INVALID_YAML, "broken", NO_ORIGIN)
TAKEN = st.lists(st.sampled_from(("kept", "deleted", "elsewhere")), min_size=3, max_size=3)


def without(commit: DesiredState, what: list[str]) -> DesiredState:
    """The next commit: of each service in turn, whether it is kept, deleted, or for other hosts now."""
    pairs = list(zip(commit.services, what, strict=False))
    left = (elsewhere(one) if how == "elsewhere" else one for one, how in pairs if how != "deleted")
    return replace(commit, services=tuple(left), drain=None)


def plan_of(host: Host, wanted: DesiredState, rules: DeletionRules) -> Plan:
    return make_plan(wanted, host.observe(), replace(host.holds(wanted), deletions=rules), PATIENCE)


def taking(plan: Plan, held: Guard) -> set[Action]:
    """What takes a held service away, or a part of it."""
    names = {one.subject for one in held.deletions}
    found = (one for one in plan.actions if isinstance(one, Drain | Stop | Remove | Forget))
    return {one for one in found if str(service_of(one)) in names}


@given(hosts, commits(("good1", "good2")), TAKEN)
@settings(max_examples=examples(80), deadline=None)
def test_held_services_that_serve_are_not_touched(host, commit, what):
    commit = replace(commit, drain=None)
    host.converge(commit, passes=2000)
    serving = {str(one.service) for one in host.replicas.values()}
    plan = plan_of(host, without(commit, what), ANY)
    gone = {str(one.id) for one, how in zip(commit.services, what, strict=False) if how != "kept"}
    held = plan.deletions.held
    if held is None:
        assert not gone & serving
        return
    assert {one.subject for one in held.deletions} >= gone & serving
    assert not taking(plan, held)
    for service in plan.verdicts.values():
        if str(service.service) in gone & serving:
            assert service.kept is not None
            assert service.kept.code is ReasonCode.APPROVAL_REQUIRED
            assert held.hash in service.kept.message


@given(hosts, commits(), st.integers(0, 60), TAKEN)
@settings(max_examples=examples(150), deadline=None)
def test_held_services_are_kept_as_those_of_an_unreadable_file(host, commit, passes, what):
    play(host, [(commit, passes)])
    wanted = without(commit, what)
    plan = plan_of(host, wanted, ANY)
    if plan.deletions.held is None:
        return
    unreadable = plan_of(host, replace(wanted, unreadable=(BROKEN,)), ANY)
    assert not any(isinstance(one, Forget) for one in taking(plan, plan.deletions.held))
    assert _steps(taking(plan, plan.deletions.held)) == _steps(taking(unreadable, plan.deletions.held))


def _steps(actions: set[Action]) -> set[tuple[str, object]]:
    return {(type(one).__name__, getattr(one, "replica", None)) for one in actions}


@given(hosts, commits(), st.integers(0, 60), TAKEN, st.booleans())
@settings(max_examples=examples(150), deadline=None)
def test_approved_services_go_as_if_nothing_guarded_them(host, commit, passes, what, by_commit):
    play(host, [(commit, passes)])
    wanted = without(commit, what)
    held = plan_of(host, wanted, ANY).deletions.held
    if held is None:
        return
    members = frozenset(one.key for one in held.deletions)
    rules = (
        replace(ANY, commits=(CommitApproval(held.hash, "c" * 40, "Ada"),))
        if by_commit
        else replace(ANY, approvals=(Approval(held.hash, members, ByHand("ada")),))
    )
    approved = plan_of(host, wanted, rules)
    assert approved.deletions.held is None
    assert approved.actions == make_plan(wanted, host.observe(), host.holds(wanted), PATIENCE).actions


@given(hosts, commits(("good1", "good2")), st.integers(0, 60), TAKEN)
@settings(max_examples=examples(50), deadline=None)
def test_hash_is_the_same_in_every_pass(host, commit, passes, what):
    play(host, [(commit, passes)])
    wanted = without(commit, what)
    seen = set()
    for _ in range(20):
        plan = host.step(wanted, rules=ANY)
        seen.add(plan.deletions.held.hash if plan.deletions.held else "")
        host.now += 0.5
    assert len(seen) == 1
