"""Whatever raises for one service, wherever a pass looks at each of them: the others go on, and the pass ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from reconciler.fault_isolation import Faults
from reconciler.host import plan as planning
from reconciler.host import target as target_module
from reconciler.host import translator
from reconciler.host.gpus import usage
from reconciler.host.health import Patience
from reconciler.host.inventory import Inventory
from reconciler.host.plan import make_plan
from reconciler.host.probing.engine_probes import ProbeTargets
from reconciler.host.probing.replicas import Replicas
from reconciler.host.rollout import inputs, isolation, reservations
from reconciler.host.target import HostTarget
from reconciler.loop import recorder, source_recorder
from reconciler.loop.reconcile import Reconciler
from reconciler.model import (
    Desired,
    GpuUse,
    Health,
    HealthStatus,
    Holds,
    Observed,
    Origin,
    Outdated,
    Plan,
    ReasonCode,
    ReplicaId,
    ServiceId,
    ServicePlan,
    Sync,
    progress,
)
from reconciler.report import applied, planned
from reconciler.report.history import History
from reconciler.report.planned import plan_document
from reconciler.state.folder import HISTORY
from reconciler.system import procfs
from tests.crash.harness import make_ready, settings
from tests.loop.test_reconcile import Target, make_reconciler, snapshot
from tests.support.arguments import written
from tests.support.breaking import break_for, is_about
from tests.support.report_world import desired, observed, owned, replica, report, state, status_of
from tests.support.world import record

ODD, FINE = ServiceId("default", "odd"), ServiceId("default", "fine")
PATIENCE = Patience(1.0, 60.0, 60.0, 10.0)

# ---------------------------------------------------------------- a pass over a simulated host

_DECIDING = [
    (planning, "fast_path"),
    (planning, "decide"),
    (inputs, "standing"),
    (inputs, "reason_to_stay"),
    (isolation, "phase_of"),
    (reservations, "_keep_to_restore"),
    (reservations, "_keep_to_succeed"),
]


def follow(
    reconciler: Reconciler, target: Target, names: tuple[str, ...], seed: int, until: Callable[[], bool]
) -> Plan:
    for _ in range(60):
        one_pass = reconciler.run_pass(snapshot(*names, seed=seed, revision=str(seed) * 40))
        target.host.now += max(one_pass.again_in or 0, 0.02)
        if until():
            return one_pass.plan
    raise AssertionError(one_pass.plan.verdicts)


def serves(target: Target, name: str, number: int) -> set[str]:
    """Digests of a service, once so many of its replicas serve."""
    found = {one.digest for one in target.host.serving(name)}
    return found if len(target.host.serving(name)) == number else set()


@pytest.mark.parametrize(("where", "name"), _DECIDING, ids=lambda one: one if isinstance(one, str) else "")
def test_service_that_raises_while_planned_is_kept_as_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    both = ("odd", "fine")
    follow(
        reconciler, target, both, 1, lambda: all(one.promoted for one in target.host.owned.values()) and _all_up(target)
    )
    before = {each: serves(target, each, 1) for each in both}
    raised = break_for(monkeypatch, where, name, ODD)
    plan = follow(reconciler, target, both, 2, lambda: bool(serves(target, "fine", 1) - before["fine"]))
    assert raised
    with closing(History(tmp_path / "state" / HISTORY)) as history:
        told = [one for one in history.entries(50, str(ODD)) if one["event"] == "internal_error"]
    assert len(told) == 1
    assert "OverflowError" in told[0]["message"]
    assert serves(target, "odd", 1) == before["odd"]
    assert plan.verdicts[ODD].health.reason.code == ReasonCode.INTERNAL_ERROR
    assert ODD.name in {bug.subject.rpartition("/")[2] for bug in plan.bugs}
    assert plan.verdicts[FINE].health.reason.code != ReasonCode.INTERNAL_ERROR
    reconciler.close()


def _all_up(target: Target) -> bool:
    return bool(serves(target, "odd", 1) and serves(target, "fine", 1))


def test_result_that_cannot_be_told_holds_up_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    raised = break_for(monkeypatch, recorder.Recorder, "_record_result", ODD)
    with structlog.testing.capture_logs() as logs:
        follow(reconciler, target, ("odd", "fine"), 1, lambda: _all_up(target))
    assert raised
    assert "fault_isolated" in [entry["event"] for entry in logs]
    reconciler.close()


def test_finding_that_raises_is_told_as_a_bug_of_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = break_for(monkeypatch, source_recorder, "_finding", ODD)
    health, faults = Health(HealthStatus.UNKNOWN, progress(ReasonCode.BLOCKED, "x")), Faults("telling of")
    verdicts = {key: ServicePlan(key, Sync.UNKNOWN, health, blocked=(health.reason,)) for key in (ODD, FINE)}
    found = source_recorder.findings(state(), Plan("box", "r", 1.0, (), verdicts), faults)
    assert raised
    assert found[FINE].event == "blocked"
    assert "OverflowError" in found[ODD].message
    assert [bug.subject for bug in faults.bugs] == ["telling of default/odd"]


def test_hold_up_that_raises_is_told_as_a_bug_of_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applied, "_why", lambda *_: 1 // 0)
    health = Health(HealthStatus.UNKNOWN, progress(ReasonCode.BLOCKED, "x"))
    plan = Plan("box", "r", 1.0, (), {ODD: ServicePlan(ODD, Sync.UNKNOWN, health)})
    (held,) = applied.holds_up(state(), plan)
    assert (held.service, held.reason.code) == (ODD, ReasonCode.INTERNAL_ERROR)


@pytest.mark.parametrize("name", ["_service", "_change", "_headline"])
def test_service_that_raises_in_a_plan_document_hides_no_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    break_for(monkeypatch, planned, name, ODD)
    wanted, seen = state(desired(ODD), desired(FINE)), observed()
    plan = make_plan(wanted, seen, Holds(), PATIENCE)
    told = plan_document(status_of(report(desired=wanted, observed=seen, plan=plan)), [(wanted, seen, plan)])
    fine, odd = told["targets"][0]["services"]
    assert "OverflowError" in odd["headline"]
    assert odd["change"] == "keep"
    assert "OverflowError" not in fine["headline"]


@pytest.mark.parametrize("name", ["mark", "unmark"])
def test_config_that_raises_for_one_service_still_updates_the_others(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    old, new = (("python", "/a"),), (("python", "/b"),)
    wanted = state(desired(ODD), desired(FINE))
    replicas = [
        replace(replica(one.id), digest=one.digest, translation=old, ready_at=1.0, ready_now=True)
        for one in wanted.services
    ]
    seen = observed(*replicas, owned={one.id: owned(one.id) for one in wanted.services})
    changes = {(one.id, one.digest): Outdated(new, restorable=True) for one in wanted.services}
    seen = replace(seen, outdated=changes)
    known = getattr(isolation, name)

    def judge(first: Any, *more: Any) -> Any:
        if is_about(first, ODD) or any(key[0] == ODD for key in getattr(first, "outdated", ())):
            raise OverflowError("1e999")
        return known(first, *more)

    monkeypatch.setattr(isolation, name, judge)
    plan = make_plan(wanted, seen, Holds(), PATIENCE)
    assert [bug.subject for bug in plan.bugs] == ["planning default/odd"]
    assert plan.verdicts[FINE].outdated
    assert not any(is_about(action, ODD) for action in plan.actions)
    assert any(is_about(action, FINE) for action in plan.actions)


# ---------------------------------------------------------------- what a real host is asked

_LOOKING = [
    (translator.Translator, "_know"),
    (translator.Translator, "_make"),
    (translator.Translator, "_outdated"),
    (usage, "_lacks"),
    (ProbeTargets, "_subject"),
    (Replicas, "_replica"),
]


@pytest.fixture
def looking(tmp_path: Path) -> Iterator[tuple[HostTarget, tuple[Desired, ...]]]:
    """A host that keeps one living replica of each service, made by a config that differs from today's."""
    make_ready(tmp_path)
    inventory, wanted = Inventory(tmp_path / "state"), []
    for service in (ODD, FINE):
        one = replace(record(), id=ReplicaId(service, "aaaaaaaa-0"), process=procfs.identify(os.getpid()))
        one = replace(one, digest=f"{service.name} digest", translation=(("engines[].python", "/elsewhere"),))
        inventory.write(one)
        wanted.append(Desired(service, Origin("hosts/box/a.yaml", 3), one.spec, one.digest, replicas=2))
    target = HostTarget(settings(tmp_path), tmp_path / "state", lambda: None)
    yield target, tuple(wanted)
    target.close()


@pytest.mark.parametrize(("where", "name"), _LOOKING, ids=lambda one: one if isinstance(one, str) else "")
def test_service_that_raises_while_looked_at_hides_no_other(
    looking: tuple[HostTarget, tuple[Desired, ...]], monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    target, wanted = looking
    if name == "_make":
        known = translator.Translator._make
        odd = replace(wanted[0].spec, args=written("--odd"))  # type: ignore[type-var]
        wanted = (replace(wanted[0], spec=odd), wanted[1])
        monkeypatch.setattr(where, name, lambda self, spec, *more: 1 // 0 if spec == odd else known(self, spec, *more))
    elif name == "_outdated":
        outdated = translator.Translator._outdated
        monkeypatch.setattr(
            where, name, lambda self, one, mine: 1 // 0 if one.desired.id == ODD else outdated(self, one, mine)
        )
    elif name == "_lacks":
        gpus = replace(wanted[0].spec, resources=cast(Any, _Raising()))  # type: ignore[type-var]
        wanted = (replace(wanted[0], spec=gpus), wanted[1])
    else:
        assert break_for(monkeypatch, where, name, ODD) == []
    for _ in range(2):
        seen = target.observe(wanted)
        assert isinstance(seen, Observed), seen
        assert set(seen.faulty) == {ODD}
        assert seen.faulty[ODD].code == ReasonCode.INTERNAL_ERROR
        assert {one.service for one in seen.replicas} == {ODD, FINE}
        assert (FINE, wanted[1].digest) in seen.outdated
    plan = make_plan(state(*wanted), seen, Holds(), PATIENCE)
    assert not any(is_about(action, ODD) for action in plan.actions)
    assert plan.bugs == seen.bugs


class _Raising:
    @property
    def gpus(self) -> int:
        raise OverflowError("1e999")


def test_replica_that_nobody_can_look_at_is_still_there(
    looking: tuple[HostTarget, tuple[Desired, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, wanted = looking
    break_for(monkeypatch, type(target._supervisor), "_state", ODD)
    seen = target.observe(wanted)
    assert isinstance(seen, Observed)
    assert {one.service: one.alive for one in seen.replicas} == {ODD: True, FINE: True}
    assert set(seen.faulty) == {ODD}


def test_image_that_raises_hides_no_other(
    looking: tuple[HostTarget, tuple[Desired, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, wanted = looking
    odd = replace(wanted[0].spec, image="odd:1")  # type: ignore[type-var]
    known = target_module.find_engine
    monkeypatch.setattr(
        target_module, "find_engine", lambda image, many: 1 // 0 if image == "odd:1" else known(image, many)
    )
    faults = Faults("looking at")
    list(target._containers((replace(wanted[0], spec=odd), wanted[1]), {}, (), faults))
    assert set(faults.reasons) == {ODD}


def test_gpu_that_raises_is_one_that_cannot_be_used() -> None:
    class Gpus:
        def list(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(uuid="a"), SimpleNamespace(uuid="b")]

        def memory(self, uuid: str) -> Any:
            return 1 // 0 if uuid == "a" else None

    faults = Faults("looking at")
    found = usage.look(Gpus(), lambda _: True, faults)  # type: ignore[arg-type]
    assert isinstance(found["a"], GpuUse)
    assert "ZeroDivisionError" in found["a"].fault
    assert [bug.subject for bug in faults.bugs] == ["looking at GPU a"]
