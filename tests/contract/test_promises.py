"""What both wings promise, tried on both: the same git, the same faults, the same outcome."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from reconciler.cluster import runtime_plan
from reconciler.model import (
    NO_ORIGIN,
    ApplyObject,
    Approval,
    ByHand,
    DeletionRules,
    Desired,
    DesiredState,
    GuardLimits,
    HealthStatus,
    Origin,
    Plan,
    Quarantine,
    Reason,
    ReasonCode,
    Reject,
    ServiceId,
    Sync,
    service_of,
)
from tests.contract.parts import BROKEN, reasons, unusable
from tests.contract.wings import WINGS, Breakable, OnCluster, Wing, serving_runtime
from tests.support.breaking import break_for
from tests.support.simulation import wanted

A, B = ServiceId("default", "a"), ServiceId("default", "b")
CRASHED = Reason(ReasonCode.CRASHED, "it crashed before", Origin("a.yaml", 5))
SILENCES: dict[str, dict[str, Any]] = {
    "unreadable file": {"unreadable": (BROKEN,)},
    "unreadable file elsewhere": {"unreadable": (replace(BROKEN, origin=Origin("other.yaml", 1)),)},
    "missing folder": {"unreadable": (Reason(ReasonCode.PATH_NOT_FOUND, "gone", NO_ORIGIN),), "prunable": False},
    "missing own file": {"prunable": False},
}


@pytest.fixture(params=WINGS)
def wing(request: pytest.FixtureRequest) -> Wing:
    return WINGS[request.param]()


def about(plan: Plan, service: ServiceId) -> list[str]:
    """What the plan does to it."""
    return [type(each).__name__ for each in plan.actions if service_of(each) == service]


def test_unreachable_target_plans_nothing(wing: Wing) -> None:
    wing.converge(wing.git(wanted("a", "good1")))
    plan = wing.unreachable(wing.git(wanted("a", "good2"), wanted("b", "good1")))
    assert plan.actions == ()
    assert {one: each.health.reason.code for one, each in plan.verdicts.items()} == {
        A: ReasonCode.TARGET_UNREACHABLE,
        B: ReasonCode.TARGET_UNREACHABLE,
    }


@pytest.mark.parametrize("silence", SILENCES)
def test_what_git_cannot_show_is_kept(wing: Wing, silence: str) -> None:
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    git = wing.git(**SILENCES[silence])
    plan = wing.converge(git)
    assert wing.runs() == {"a": "good1", "b": "good1"}
    assert not about(plan, A) + about(plan, B)
    assert plan.verdicts[A].kept
    assert plan.verdicts[B].kept


def test_what_git_drops_goes_and_the_last_one_too(wing: Wing) -> None:
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    wing.converge(wing.git(wanted("b", "good1")))
    assert wing.runs() == {"b": "good1"}
    wing.converge(wing.git())
    assert wing.runs() == {}
    assert not wing.plan(wing.git()).verdicts


def test_much_deletion_is_held_until_its_hash_is_approved(wing: Wing) -> None:
    everyone = [wanted(name, "good1") for name in "abcde"]
    wing.converge(wing.git(*everyone))
    git = wing.git(everyone[0])
    held = wing.converge(git).deletions.held
    assert held is not None
    assert set(wing.runs()) == set("abcde")
    kept = wing.plan(git).verdicts[B].kept
    assert kept is not None
    assert (kept.code, kept.origin) == (ReasonCode.APPROVAL_REQUIRED, Origin("b.yaml", 1))
    assert held.hash in kept.message

    approved = Approval(held.hash, frozenset(each.key for each in held.deletions), ByHand("alice"))
    wing.converge(git, DeletionRules(approvals=(replace(approved, members=frozenset({("default/other", "")})),)))
    assert set(wing.runs()) == set("abcde")
    wing.converge(git, DeletionRules(approvals=(approved,)))
    assert set(wing.runs()) == {"a"}


def test_limit_of_zero_holds_even_one_deletion(wing: Wing) -> None:
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    plan = wing.converge(wing.git(wanted("a", "good1")), DeletionRules(limits=GuardLimits(objects=0)))
    assert plan.deletions.held
    assert set(wing.runs()) == {"a", "b"}


def test_suspended_service_gets_no_action(wing: Wing) -> None:
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    plan = wing.plan(wing.git(wanted("a", "good2")), A, B)
    assert not about(plan, A) + about(plan, B)
    assert plan.verdicts[A].health.phase is HealthStatus.SUSPENDED
    assert about(wing.plan(wing.git(wanted("a", "good2")), B), A)


@pytest.mark.parametrize("said", ["changed", "unusable", "dropped"])
def test_suspended_service_is_called_suspended_whatever_git_says(wing: Wing, said: str) -> None:
    wing.converge(wing.git(wanted("a", "good1")))
    services = {"changed": (wanted("a", "good2"),), "unusable": (unusable("a"),), "dropped": ()}[said]
    verdict = wing.plan(wing.git(*services), A).verdicts[A]
    assert (verdict.sync, verdict.health.phase) == (Sync.UNKNOWN, HealthStatus.SUSPENDED)
    assert verdict.health.reason.code is ReasonCode.SUSPENDED


def test_failed_version_is_quarantined_and_the_last_good_one_comes_back(wing: Wing) -> None:
    wing.converge(wing.git(wanted("a", "good1")))
    git = wing.git(wanted("a", "crash2"))
    plan = wing.converge(git)
    assert wing.runs() == {"a": "good1"}
    assert [one for one, _ in wing.quarantines] == [A]
    assert plan.verdicts[A].rejected == wing.quarantines[A, "crash2-a"]
    tried = wing.begun().count(("a", "crash2"))
    wing.converge(git)
    assert wing.begun().count(("a", "crash2")) == tried
    wing.converge(wing.git(wanted("a", "good3")))
    assert wing.runs() == {"a": "good3"}


def test_failed_version_without_a_good_one_is_not_tried_again(wing: Wing) -> None:
    git = wing.git(wanted("a", "crash1"), wanted("b", "good1"))
    wing.converge(git)
    tried = wing.begun().count(("a", "crash1"))
    plan = wing.converge(git)
    assert (A, "crash1-a") in wing.quarantines
    assert wing.begun().count(("a", "crash1")) == tried
    assert not about(plan, A)
    assert wing.runs()["b"] == "good1"


def test_version_that_failed_before_is_not_begun(wing: Wing) -> None:
    wing.quarantines[A, "good1-a"] = Quarantine(A, "good1-a", CRASHED, "a" * 40, 1.0)
    git = wing.git(wanted("a", "good1"), wanted("b", "good2"))
    plan = wing.converge(git)
    assert wing.begun() == [("b", "good2")]
    assert CRASHED in reasons(plan, git, A)


def test_failure_after_the_promotion_is_an_incident(wing: Wing) -> None:
    git = wing.git(wanted("a", "good1"))
    wing.converge(git)
    wing.fail("a")
    plans = [wing.step(git, DeletionRules()) for _ in range(20)]
    assert not [each for plan in plans for each in plan.actions if isinstance(each, Reject)]
    assert not wing.quarantines
    told = plans[-1].verdicts[A]
    assert told.health.phase is not HealthStatus.HEALTHY
    assert (told.rejected, told.blocked) == (None, ())


def test_service_whose_document_cannot_be_used_is_kept(wing: Wing) -> None:
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    git = wing.git(unusable("a"), wanted("b", "good2"))
    plan = wing.converge(git)
    assert wing.runs() == {"a": "good1", "b": "good2"}
    assert plan.verdicts[A].sync is not Sync.SYNCED
    assert reasons(plan, git, A)[0] == BROKEN


def test_service_that_is_renamed_and_broken_at_once_is_kept(wing: Wing) -> None:
    wing.converge(wing.git(wanted("a", "good1")))
    plan = wing.converge(wing.git(replace(unusable("b"), origin=Origin("a.yaml", 1))))
    assert wing.runs() == {"a": "good1"}
    assert plan.verdicts[A].kept


@pytest.mark.parametrize("seed", range(8))
def test_plan_is_the_same_whatever_the_order_of_its_inputs(wing: Wing, seed: int) -> None:
    wing.converge(wing.git(*(wanted(name, "good1") for name in "abcdef")))
    git = wing.git(*(wanted(name, "good2") for name in "acdgh"), unusable("e"))
    plan = wing.plan(git)
    assert plan.actions
    assert wing.plan(git, mixed=random.Random(seed)) == plan


BREAKABLE = [
    pytest.param(kind, each, id=f"{name}-{each[1]}") for name, kind in WINGS.items() for each in kind.breakable
]


@pytest.mark.parametrize(("kind", "where"), BREAKABLE)
def test_bug_in_one_service_leaves_the_others_planned(
    monkeypatch: pytest.MonkeyPatch, kind: type[Wing], where: Breakable
) -> None:
    wing = kind()
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1"), wanted("c", "good1"), wanted("d", "good1")))
    raised = break_for(monkeypatch, *where, A)
    for git in (
        wing.git(wanted("a", "good2"), wanted("b", "good2"), wanted("c", "good1")),
        wing.git(wanted("b", "good2"), wanted("c", "good1")),
    ):
        plan = wing.plan(git)
        assert about(plan, B)
        assert about(plan, ServiceId("default", "d"))
        if raised:
            assert plan.bugs
            assert not about(plan, A)
            assert plan.verdicts[A].health.reason.code is ReasonCode.INTERNAL_ERROR
            return
    raise AssertionError(f"{where[1]} was not asked about it")


def test_bug_in_one_service_of_an_edited_runtime_leaves_the_others_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    wing = OnCluster()

    def git(runtime: str, *services: Desired) -> DesiredState:
        found = wing.git(*services)
        return replace(found, objects=(serving_runtime(runtime), *found.objects))

    wing.converge(git("v1", wanted("a", "good1"), wanted("b", "good1"), wanted("c", "good1")))
    raised = break_for(monkeypatch, runtime_plan, "_dependant", A)
    plan = wing.plan(git("v2", wanted("a", "good1"), wanted("b", "good2")))
    assert raised
    assert plan.bugs
    assert about(plan, B)
    assert about(plan, ServiceId("default", "c"))
    runtime = plan.objects[serving_runtime("v2").id]
    assert runtime.reasons[0].code is ReasonCode.INTERNAL_ERROR
    assert "vllm" not in [each.object.name for each in plan.actions if isinstance(each, ApplyObject)]


BLAMED = {
    "quarantined": (wanted("a", "crash2"),),
    "blocked": (
        wanted("a", "good2", blocked=(Reason(ReasonCode.SECRET_NOT_FOUND, "no Secret", Origin("a.yaml", 7)),)),
    ),
    "unusable": (unusable("a"),),
    "held": (),
}


@pytest.mark.parametrize("case", BLAMED)
def test_service_that_git_holds_up_says_where_in_git(wing: Wing, case: str) -> None:
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    git = wing.git(*BLAMED[case])
    rules = DeletionRules(limits=GuardLimits(objects=0))
    plan = wing.converge(git, rules)
    assert plan.verdicts[A].sync is not Sync.SYNCED
    told = reasons(plan, git, A)
    assert all(each.message for each in told)
    assert isinstance(told[0].origin, Origin)
    assert told[0].origin.file == "a.yaml"
    assert told[0].origin.line


def test_object_that_is_not_ours_is_never_touched() -> None:
    wing = OnCluster()
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    (one,) = [each for each in wing.live if each.name == "a"]
    theirs: Any = {**wing.live[one], "metadata": {**wing.live[one]["metadata"], "uid": "another"}}
    wing.live[one] = theirs
    assert about(wing.plan(wing.git()), B)
    wing.converge(wing.git())
    assert wing.live == {one: theirs}


def test_service_whose_pods_cannot_be_seen_is_not_deleted() -> None:
    wing = OnCluster()
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    wing.unknown = {("", "Pod"): "no right to list pods"}
    plan = wing.plan(wing.git(wanted("b", "good1")))
    assert not about(plan, A)
    assert "no right to list pods" in str(plan.verdicts[A].kept)
    wing.unknown = {}
    assert about(wing.plan(wing.git(wanted("b", "good1"))), A)


def test_object_whose_kind_cannot_be_seen_is_told_and_kept() -> None:
    wing = OnCluster()
    wing.converge(wing.git(wanted("a", "good1"), wanted("b", "good1")))
    wing.live = {one: each for one, each in wing.live.items() if one.kind != "InferenceService"}
    wing.unknown = {("serving.kserve.io", "InferenceService"): "no right to list them"}
    plan = wing.plan(wing.git())
    assert not plan.actions
    assert {one.name: each.sync for one, each in plan.objects.items()} == {"a": Sync.UNKNOWN, "b": Sync.UNKNOWN}
    assert all("no right to list them" in str(each.reasons) for each in plan.objects.values())
