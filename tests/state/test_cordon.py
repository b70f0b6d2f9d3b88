"""A host that git drains or cordons: only a host.yaml that can be read begins that, or ends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.host.plan import make_plan
from reconciler.loop.reconcile import Pass, Reconciler
from reconciler.model import (
    NO_ORIGIN,
    Desired,
    DesiredState,
    File,
    HealthStatus,
    Origin,
    Plan,
    Reason,
    ReasonCode,
    Snapshot,
    Start,
    Sync,
)
from reconciler.report.convergence import convergence_of
from reconciler.report.plan_text import plan_blocks
from reconciler.report.planned import plan_document
from reconciler.report.text import Changes, status_blocks
from reconciler.state.cordon import Cordon
from reconciler.web.metrics import Metrics
from tests.loop.test_reconcile import Target, make_reconciler, snapshot
from tests.support.report_world import observed, planned, replica, report, service_in, state, status_of
from tests.support.simulation import PATIENCE, Host, wanted
from tests.support.simulation import state as simulated

DRAINED = Reason(ReasonCode.DRAINED, "the host is drained", Origin("box/host.yaml", 5))
CORDONED = Reason(ReasonCode.CORDONED, "the host is cordoned", Origin("box/host.yaml", 6))
CLOSED = "apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {name: box}\nspec:\n  drain: true\n"
BROKEN = "apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {name: box}\nspec:\n  drian: true\n"


def known(drain: Reason | None, unschedulable: Reason | None = None) -> DesiredState:
    return DesiredState("box", "a" * 40, (), drain=drain, unschedulable=unschedulable)


UNKNOWN = replace(known(None), host_known=False)


# ---------------------------------------------------------------- what was said last


def test_what_host_yaml_said_last_holds_while_it_cannot_be_read(tmp_path: Path):
    cordon = Cordon(tmp_path / "box" / "cordon.json")
    assert cordon.settle(UNKNOWN).drain is None
    assert cordon.remember(known(DRAINED))
    for later in (cordon, Cordon(tmp_path / "box" / "cordon.json")):
        settled = later.settle(UNKNOWN)
        assert settled.drain
        assert (settled.drain.code, settled.drain.origin) == ("Drained", DRAINED.origin)
        assert "still drained" in settled.drain.message
        assert not later.remember(settled), "what is not known is not written down"
    assert cordon.remember(known(None))
    assert Cordon(tmp_path / "box" / "cordon.json").settle(UNKNOWN).drain is None


def test_only_a_change_is_news_and_only_news_is_written(tmp_path: Path):
    path = tmp_path / "cordon.json"
    cordon = Cordon(path)
    assert not cordon.remember(known(None))
    assert not path.exists()
    assert cordon.remember(known(DRAINED))
    written = path.stat().st_mtime_ns
    assert not cordon.remember(known(DRAINED))
    assert not Cordon(path).remember(known(DRAINED))
    assert path.stat().st_mtime_ns == written


def test_memory_that_cannot_be_read_is_said_and_nothing_is_guessed(tmp_path: Path):
    path = tmp_path / "cordon.json"
    path.write_text("{")
    with pytest.raises(Retryable, match=r"cordon\.json: cannot be read"):
        Cordon(path).settle(UNKNOWN)
    assert Cordon(path).settle(known(None)).drain is None, "git's own word needs no memory"


# ---------------------------------------------------------------- passes


def at(text: str, revision: str) -> Snapshot:
    given = snapshot("fine", revision=revision * 40)
    files = [one for one in given.files if one.path != "box/host.yaml"]
    return replace(given, files=(File("box/host.yaml", revision, text.encode()), *files))


def run(reconciler: Reconciler, target: Target, wanted: Snapshot) -> Pass:
    """Passes until nothing moves any more."""
    for _ in range(200):
        one_pass = reconciler.run_pass(wanted)
        if one_pass.again_in is None:
            return one_pass
        target.host.now += max(one_pass.again_in, 0.02)
    raise AssertionError("it never comes to rest")


def test_broken_host_yaml_neither_drains_a_host_nor_sets_it_going(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    run(reconciler, target, snapshot("fine"))
    served = set(target.host.replicas)
    assert served
    run(reconciler, target, at(BROKEN, "b"))
    assert set(target.host.replicas) == served
    assert target.host.serving("fine")

    run(reconciler, target, at(CLOSED, "c"))
    assert not target.host.replicas
    assert reconciler.report.applied == "c" * 40
    closed = len(target.host.log)
    one_pass = run(reconciler, target, at(BROKEN, "d"))
    reconciler.close()
    assert one_pass.desired.drain, "what it said last holds"

    again, other = make_reconciler(tmp_path)
    other.host = target.host
    run(again, other, at(BROKEN, "e"))
    assert not [one for one in target.host.log[closed:] if isinstance(one, Start)], "nor after a restart"
    run(again, other, snapshot("fine", revision="f" * 40))
    assert target.host.serving("fine")
    again.close()


def test_looking_writes_nothing_down(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, _ = make_reconciler(tmp_path)
    one_pass = reconciler.run_pass(at(CLOSED, "c"), act=False)
    assert one_pass.desired.drain
    assert not (tmp_path / "cordon.json").exists()
    reconciler.run_pass(at(CLOSED, "c"))
    assert (tmp_path / "cordon.json").exists()
    reconciler.close()


# ---------------------------------------------------------------- single rules of the plan


def test_unusable_service_is_drained_with_its_host_and_comes_back_promoted():
    host = Host()
    service = wanted("a", "good1", 2)
    host.converge(simulated(service))
    unusable = replace(
        service, spec=None, digest="", problems=(Reason(ReasonCode.INVALID_DOCUMENT, "broken", service.origin),)
    )
    plan = host.converge(simulated(unusable, drain=DRAINED))
    assert not host.replicas
    verdict = plan.verdicts[service.id]
    assert (verdict.sync, verdict.health.phase) == (Sync.OUT_OF_SYNC, HealthStatus.SUSPENDED), "git is still broken"
    host.converge(simulated(unusable))
    assert len(host.serving("a")) == 2


def test_service_that_git_cannot_show_is_emptied_but_not_forgotten():
    host = Host()
    service = wanted("a", "good1")
    host.converge(simulated(service))
    broken = (Reason(ReasonCode.INVALID_YAML, "broken", Origin("a.yaml", 3)),)
    plan = host.converge(simulated(drain=DRAINED, unreadable=broken))
    assert not host.replicas
    assert plan.verdicts[service.id].sync is Sync.UNKNOWN
    assert service.id in host.owned
    host.converge(simulated(unreadable=broken))
    assert host.serving("a")


def test_service_that_was_deleted_is_forgotten_on_a_drained_host_as_well():
    host = Host()
    host.converge(simulated(wanted("a", "good1")))
    host.converge(simulated(drain=DRAINED))
    assert not host.owned
    assert all(route.left_at for route in host.routes.values()), "only names are left"


def test_drain_taken_back_in_the_middle_of_a_drain_takes_the_replica_back():
    host = Host(busy_seconds=100)
    service = wanted("a", "good1")
    host.converge(simulated(service))
    before = set(host.replicas)
    host.step(simulated(service, drain=DRAINED))
    assert not host.serving("a")
    host.now += 1
    host.converge(simulated(service))
    assert set(host.replicas) == before
    assert host.serving("a")


def test_what_a_person_suspended_is_left_alone_on_a_drained_host():
    host = Host()
    service = wanted("a", "good1")
    host.converge(simulated(service))
    closed = simulated(service, drain=DRAINED)
    plan = make_plan(closed, host.observe(), host.holds(closed, service.id), PATIENCE)
    assert plan.actions == ()


def test_drained_host_keeps_an_empty_route_that_answers_retry_later():
    host = Host()
    service = wanted("a", "good1")
    host.converge(simulated(service, drain=DRAINED))
    assert host.routes[service.id].stable == ()
    elsewhere = replace(service, replicas=0, not_here=(Reason(ReasonCode.NOT_FOR_THIS_HOST, "x", NO_ORIGIN),))
    host.converge(simulated(elsewhere, drain=DRAINED))
    assert all(one.left_at for one in host.routes.values()), "a model that is elsewhere is not offered here"


# ---------------------------------------------------------------- what people read


def closed_report(drain: Reason | None = DRAINED):
    return report(desired=replace(state(report().desired.services[0]), drain=drain), observed=observed(replica()))


def test_status_plan_and_metrics_say_that_the_host_is_drained_and_where():
    status = status_of(closed_report())
    assert status["targets"][0]["cordoned"]["file"] == "box/host.yaml"
    assert service_in(status)["ready"] == "1/0", "none is wanted"
    assert "Drained (box/host.yaml:5: the host is drained)" in "\n".join(map(str, status_blocks(status)))
    plan = plan_document(status, [(state(), observed(), planned())])
    assert "  ! box/host.yaml:5: the host is drained" in list(plan_blocks(plan))
    assert b'reconciler_target_cordoned{target="a"} 1.0' in Metrics().text(status)


def test_open_host_says_nothing_of_it():
    status = status_of(closed_report(None))
    assert status["targets"][0]["cordoned"] is None
    assert "Drained" not in "\n".join(map(str, status_blocks(status)))
    assert b'reconciler_target_cordoned{target="a"} 0.0' in Metrics().text(status)


def test_what_is_for_other_hosts_is_shown_with_its_reason_and_is_no_fault():
    host = Host()
    why = Reason(ReasonCode.NOT_FOR_THIS_HOST, "nodeSelector requires disk=ssd", Origin("models/a.yaml", 9))
    service = replace(wanted("a", "good1"), replicas=0, not_here=(why,))
    desired = simulated(service)
    plan = host.converge(desired)
    status = status_of(report(desired=desired, observed=host.observe(), plan=plan))
    shown = service_in(status, "a")
    assert (shown["sync"], shown["health"]["status"], shown["health"]["reason"]) == (
        "Synced",
        "Suspended",
        "NotForThisHost",
    )
    assert (shown["ready"], shown["blocked"]) == ("0/0", [])
    assert not [fault for fault in convergence_of(status).faults if "default/a" in fault]
    said = "\n".join(map(str, status_blocks(status)))
    assert "not for this host: models/a.yaml:9: nodeSelector requires disk=ssd" in said
    document = plan_document(status, [(desired, host.observe(), plan)])
    assert (document["counts"]["elsewhere"], document["counts"]["unchanged"]) == (1, 0)
    assert list(plan_blocks(document))[-1] == "Nothing to do: 0 services in sync, 1 not for this host."
    assert Changes().since_last(status)[-1] == "default/a: Synced, Suspended (NotForThisHost)"


def test_model_files_stay_on_a_drained_host_and_go_with_a_moved_model():
    host = Host()
    service = wanted("a", "good1", uri="s3://bucket/a")
    host.converge(simulated(service))
    staged = set(host.staging)
    assert staged
    host.converge(simulated(service, drain=DRAINED))
    assert set(host.staging) == staged
    host.converge(
        simulated(replace(service, replicas=0, not_here=(Reason(ReasonCode.NOT_FOR_THIS_HOST, "x", NO_ORIGIN),)))
    )
    assert not host.staging


# ---------------------------------------------------------------- unschedulable: as on a Node


def test_what_host_yaml_said_of_new_services_holds_while_it_cannot_be_read(tmp_path: Path):
    cordon = Cordon(tmp_path / "cordon.json")
    assert cordon.remember(known(None, CORDONED)) == (("cordoned", str(CORDONED)),)
    settled = Cordon(tmp_path / "cordon.json").settle(UNKNOWN)
    assert settled.drain is None
    assert settled.unschedulable
    assert (settled.unschedulable.code, settled.unschedulable.origin) == ("Cordoned", CORDONED.origin)
    assert "still cordoned" in settled.unschedulable.message
    both = Cordon(tmp_path / "cordon.json")
    assert [event for event, _ in both.remember(known(DRAINED, CORDONED))] == ["host_drained"]
    assert [event for event, _ in both.remember(known(None, None))] == ["host_undrained", "uncordoned"]
    assert not (tmp_path / "cordon.json").exists()


def test_memory_of_an_older_daemon_is_read_as_a_drain(tmp_path: Path):
    path = tmp_path / "cordon.json"
    path.write_text('{"message": "the host is cordoned (spec.unschedulable)", "file": "box/host.yaml", "line": 5}')
    settled = Cordon(path).settle(UNKNOWN)
    assert settled.drain
    assert (settled.drain.code, settled.drain.origin) == ("Drained", Origin("box/host.yaml", 5))
    assert settled.unschedulable is None


def test_drained_host_stays_empty_until_it_is_schedulable_again(tmp_path: Path):
    path = tmp_path / "cordon.json"
    Cordon(path).remember(known(DRAINED, CORDONED))
    cordon = Cordon(path)
    only_cordoned = cordon.settle(known(None, CORDONED))
    assert only_cordoned.drain
    assert "stays empty" in only_cordoned.drain.message
    cordon.remember(only_cordoned)
    assert Cordon(path).settle(known(None, CORDONED)).drain, "nor does a restart of the daemon start anything"
    cordon.remember(cordon.settle(known(None)))
    assert Cordon(path).settle(known(None, CORDONED)).drain is None, "what started since then goes on"


def cordoned(*services: Desired) -> DesiredState:
    return simulated(*services, unschedulable=CORDONED)


def follow(host: Host, desired: DesiredState, passes: int = 60) -> Plan:
    for _ in range(passes):
        plan = host.step(desired)
        host.now += 0.5
    return plan


def test_cordoned_host_keeps_what_is_promoted_running_and_repairs_it():
    host = Host()
    service = wanted("a", "good1", 2)
    host.converge(simulated(service))
    host.converge(cordoned(service))
    assert len(host.serving("a")) == 2
    first = min(host.replicas)
    host.replicas[first] = replace(host.replicas[first], alive=False)
    plan = host.converge(cordoned(service))
    assert len(host.serving("a")) == 2
    assert plan.verdicts[service.id].sync is Sync.SYNCED
    host.restart()
    host.converge(cordoned(service))
    assert len(host.serving("a")) == 2, "after a reboot as well"


@pytest.mark.parametrize(
    "after",
    [wanted("a", "good2", 2), wanted("a", "good1", 3), wanted("a", "reject1", 2), wanted("a", "good2", 2, canary=20)],
    ids=["digest", "replicas", "rejected", "canary"],
)
def test_cordoned_host_holds_a_change_and_says_so(after: Desired):
    host = Host()
    host.converge(simulated(wanted("a", "good1", 2)))
    before, began = set(host.replicas), len(host.log)
    plan = host.converge(cordoned(after))
    assert set(host.replicas) == before
    assert len(host.log) == began, "nothing is asked either"
    verdict = plan.verdicts[after.id]
    assert (verdict.sync, verdict.health.phase) == (Sync.OUT_OF_SYNC, HealthStatus.HEALTHY)
    assert verdict.blocked == (CORDONED,)
    host.converge(simulated(after))
    digest = "good1-a" if after.digest.startswith("reject") else after.digest
    assert [r.digest for r in host.serving("a")].count(digest) == (3 if after.replicas == 3 else 2)


def test_cordoned_host_starts_no_new_service():
    host = Host()
    service = wanted("a", "good1", uri="s3://bucket/a")
    plan = host.converge(cordoned(service))
    assert not host.replicas
    assert not host.staging
    assert plan.verdicts[service.id].health.reason.message == f"Blocked: {CORDONED.message}"
    host.converge(simulated(service))
    assert host.serving("a")


def test_rollout_that_a_cordon_interrupts_waits_and_goes_on():
    host = Host(memory=3, busy_seconds=5)
    host.converge(simulated(wanted("a", "good1", 2)))
    after = wanted("a", "good2", 2)
    while not any(r.digest == after.digest for r in host.serving("a")):
        host.step(simulated(after))
        host.now += 0.5
    served, starts = len(host.serving("a")), sum(isinstance(one, Start) for one in host.log)
    follow(host, cordoned(after))
    assert len(host.serving("a")) >= served
    started = [one for one in host.log if isinstance(one, Start)][starts:]
    assert {one.digest for one in started} <= {"good1-a"}
    host.converge(simulated(after))
    assert [r.digest for r in host.serving("a")] == [after.digest] * 2


def test_what_git_deletes_or_scales_down_goes_on_a_cordoned_host():
    host = Host()
    host.converge(simulated(wanted("a", "good1", 2), wanted("b", "good1")))
    host.converge(cordoned(wanted("a", "good1", 1)))
    assert len(host.serving("a")) == 1
    assert not host.serving("b")


def test_status_says_cordoned_where_nothing_new_starts():
    desired = replace(state(report().desired.services[0]), unschedulable=CORDONED)
    status = status_of(report(desired=desired, observed=observed(replica())))
    assert service_in(status)["ready"] == "1/1", "what is promoted goes on"
    assert "Cordoned (box/host.yaml:6: the host is cordoned)" in "\n".join(map(str, status_blocks(status)))
    assert b'reconciler_target_cordoned{target="a"} 1.0' in Metrics().text(status)
