"""An unexpected exception, or an unexpected text, costs one document or one service, never the pass."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from reconciler.desired import DesiredCache, build, build_desired
from reconciler.formats import json_values
from reconciler.host import plan as planning
from reconciler.host.health import Patience
from reconciler.host.plan import make_plan
from reconciler.host.rollout import Decision
from reconciler.loop.daemon import Daemon
from reconciler.manifests import read_manifests
from reconciler.model import Desired, HealthStatus, Holds, Origin, ReasonCode, ServiceId, Snapshot
from reconciler.report import diff, service_status
from reconciler.report.convergence import convergence_of, readiness
from reconciler.report.planned import plan_document
from reconciler.report.status import RevisionInfo
from reconciler.web.json_responses import JSONResponse
from reconciler.web.metrics import Metrics
from tests.desired.test_desired import HOST, RUNTIME, SERVICE, TARGET, snapshot
from tests.support.report_world import TINY, desired, observed, replica, report, service_in, settings, state, status_of

ERRORS = [RecursionError("too deep"), OverflowError("1e999"), ValueError("\ud800"), KeyError("x"), UnicodeError("odd")]
PATIENCE = Patience(1.0, 60.0, 60.0, 10.0)
OTHER = SERVICE.replace("name: chat", "name: other")
FILES: dict[str, str | bytes] = {"hosts/box/chat.yaml": SERVICE, "hosts/box/other.yaml": OTHER}


def raising(known: Callable[..., Any], error: Exception, when: Callable[..., bool]) -> Callable[..., Any]:
    def judge_one(*given: Any, **more: Any) -> Any:
        if when(*given):
            raise type(error)(*error.args)
        return known(*given, **more)

    return judge_one


def by_name(services: tuple[Desired, ...]) -> dict[str, Desired]:
    return {one.id.name: one for one in services}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_service_whose_evaluation_raises_is_unusable_alone(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(build, "describe", raising(build.describe, error, lambda each, _: each.name == "chat"))
    revision, cache = snapshot(FILES), DesiredCache()
    wanted = build_desired(read_manifests(revision), TARGET, revision, cache)
    found = by_name(wanted.services)
    assert found["other"].spec is not None
    assert found["chat"].spec is None
    (problem,) = found["chat"].problems
    assert (problem.code, problem.origin) == (ReasonCode.INTERNAL_ERROR, Origin("hosts/box/chat.yaml", 1))
    assert type(error).__name__ in problem.message
    assert "what runs is kept" in problem.message
    assert "odd" not in problem.message
    (told,) = cache.tracebacks
    assert "chat" in told
    assert "test_fault_isolation.py" in told


def test_bug_in_what_services_share_keeps_all_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    revision, cache = snapshot(FILES), DesiredCache()
    manifests = read_manifests(revision)
    with monkeypatch.context() as patched:
        patched.setattr(build, "context_of", raising(build.context_of, OverflowError("big"), lambda *_: True))
        wanted = build_desired(manifests, TARGET, revision, cache)
    assert [one.spec for one in wanted.services] == [None, None]
    assert {reason.code for one in wanted.services for reason in one.problems} == {ReasonCode.INTERNAL_ERROR}
    assert len(cache.tracebacks) == 1
    again = build_desired(manifests, TARGET, revision, cache)
    assert len(cache.tracebacks) == 1
    assert all(one.spec for one in again.services)


def test_service_whose_planning_raises_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ServiceId("demo", "other")
    wanted = state(desired(), desired(other))
    seen = observed(replica(number=1))

    def no_plan(s: Any, ledger: Any) -> Decision:
        if s.id == TINY:
            raise ValueError("odd")
        return known(s, ledger)

    known = planning.decide
    monkeypatch.setattr(planning, "decide", no_plan)
    plan = make_plan(wanted, seen, Holds(), PATIENCE)
    assert plan.verdicts[TINY].health.phase is HealthStatus.UNKNOWN
    assert plan.verdicts[TINY].health.reason.code == ReasonCode.INTERNAL_ERROR
    assert plan.verdicts[other].health.reason.code != ReasonCode.INTERNAL_ERROR
    assert not any(getattr(action, "service", None) == TINY for action in plan.actions)
    assert len(plan.bugs) == 1
    alone = report(desired=state(desired()), observed=seen, plan=make_plan(state(desired()), seen, Holds(), PATIENCE))
    status = status_of(alone, revision=RevisionInfo(desired=alone.desired.revision, applied=alone.desired.revision))
    assert service_in(status)["health"]["reason"] == ReasonCode.INTERNAL_ERROR
    assert convergence_of(status).failed, "nobody waits for it"
    (held,) = status["revision"]["heldUpBy"]
    assert (held["service"], held["code"]) == (str(TINY), ReasonCode.INTERNAL_ERROR)
    (service,) = plan_document(status, [(alone.desired, seen, alone.plan)])["targets"][0]["services"]
    assert (service["change"], "KeyError" in service["headline"]) == ("keep", False)
    assert "planning demo/tiny failed (ValueError): a bug" in service["headline"]


def test_service_whose_report_raises_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ServiceId("demo", "other")
    live = raising(service_status.live_digest, OverflowError("big"), lambda replicas: bool(replicas))
    monkeypatch.setattr(service_status, "live_digest", live)
    status = status_of(report(desired=state(desired(), desired(other)), observed=observed(replica())))
    assert service_in(status)["health"]["reason"] == ReasonCode.INTERNAL_ERROR
    assert "OverflowError" in service_in(status)["health"]["message"]
    assert service_in(status, "other")["problems"] == []
    Metrics().text(status)


def test_service_whose_diff_raises_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ServiceId("demo", "other")
    broken = raising(diff.service_diff, OverflowError("big"), lambda one, _: one.id == TINY)
    monkeypatch.setattr(diff, "service_diff", broken)
    found = diff.state_diff(state(desired(), desired(other)), observed())
    assert [one.service for one in found] == [other, TINY]
    assert "OverflowError" in found[1].note
    assert found[0].changes


def test_traceback_of_a_bug_in_planning_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "decide", raising(planning.decide, KeyError("x"), lambda *_: True))
    daemon, wanted = Daemon(settings(tmp_path)), state(desired())
    (place,) = daemon._places
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            plan = make_plan(wanted, observed(), Holds(), PATIENCE)
            place.recorder.record(wanted, observed(), plan, (), 0.0)
    told = [entry for entry in logs if entry["event"] == "fault_isolated"]
    assert len(told) == 1
    assert "KeyError" in told[0]["traceback"]
    daemon.stop()


# ---------------------------------------------------------------- a pass that raises


def test_pass_that_raises_shows_everywhere_until_one_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon(settings(tmp_path))
    daemon._follower.snapshot = Snapshot("r1", ())
    (place,) = daemon._places
    one_pass = place.reconciler.run_pass
    monkeypatch.setattr(place.reconciler, "run_pass", raising(one_pass, IndexError("list index\ud800"), lambda _: True))
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            daemon._pass_safely(place)
    assert [entry["event"] for entry in logs].count("pass_raised") == 1
    status = daemon.status()
    assert "IndexError" in status["targets"][0]["passError"]
    assert any("the last pass failed" in fault for fault in convergence_of(status).faults)
    assert "target a: its last pass failed" in readiness(status, 1.0, 60.0).waiting_for
    assert b'reconciler_target_pass_failing{target="a"} 1.0' in Metrics().text(status)
    json.loads(JSONResponse(status).body)
    (told,) = daemon.history(None, 10)
    assert (told["event"], told["target"]) == ("pass_failed", "a")
    assert "IndexError" in told["message"]
    counted = b'reconciler_reconcile_duration_seconds_count{result="failure",target="a"} 3.0'
    assert counted in daemon._metrics.text(status)
    monkeypatch.setattr(place.reconciler, "run_pass", one_pass)
    place.target.lock()
    daemon._pass_safely(place)
    assert daemon.status()["targets"][0]["passError"] == ""
    assert b'reconciler_target_pass_failing{target="a"} 0.0' in Metrics().text(daemon.status())
    assert "passes are made again" in {entry["message"] for entry in daemon.history(None, 10)}
    daemon.stop()


# ---------------------------------------------------------------- numbers that cannot be written


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}'])
def test_number_that_json_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|Expecting"):
        json_values.loads(text)


# ---------------------------------------------------------------- whatever is written

_ODD: list[Any] = [
    *(None, True, -1, 10**30, 2**64, 1.5, "", " ", "a" * 300, "1e1000000000", "99999999999999999999Gi", "-5Gi"),
    *("9" * 5000, "NaN", "-5%", [], {}, [None], [{}], {"a": {"b": 1}}, {"name": 1}, [1, "x"], "\u202e", "\U0001f600"),
    *("http://[::1", "http://a:99999999", "https://x:٣/", "s3://", "hf://a/b%00c", "http://℀.com/x", "file://../.."),
    *("https://[fe80::1%25eth0]/x", "pvc://claim/../../x", "{{", "{{.X.Y}}", '{{printf "%.999999999d" 1}}', "$(", "$$"),
    *('{"a":"\\ud800"}', '{"a":1e999}', "[" * 2000, "null", "99999999999h", "1e400s", "--port=" + "9" * 5000, "٣"),
]


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [found for key in keys for found in ((value, key), *_places(value[key]))]


def test_no_mutated_document_raises_or_is_a_bug_of_ours() -> None:
    rng = random.Random(10)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "inferenceservice-config"}}
    config |= {"data": {"ingress": '{"ingressDomain": "a.b"}', "storageInitializer": '{"memoryLimit": "1Gi"}'}}
    for _ in range(40):
        trees: list[Any] = [*map(yaml.safe_load, (SERVICE, RUNTIME, HOST)), json.loads(json.dumps(config))]
        holder, key = rng.choice(_places(trees))
        holder[key] = rng.choice(_ODD)
        files = {f"hosts/box/{number}.json": json.dumps(tree) for number, tree in enumerate(trees)}
        revision = snapshot({**files, "hosts/box/other.yaml": OTHER})
        cache = DesiredCache()
        wanted = build_desired(read_manifests(revision), TARGET, revision, cache)
        assert cache.tracebacks == []
        assert "other" in by_name(wanted.services)
        plan = make_plan(wanted, observed(), Holds(), PATIENCE)
        status = status_of(report(desired=wanted, observed=observed(), plan=plan))
        json.dumps(status, ensure_ascii=False, allow_nan=False).encode()
        Metrics().text(status)
        assert ReasonCode.INTERNAL_ERROR not in json.dumps(status)
