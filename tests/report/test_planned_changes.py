"""What a plan tells of one service: the fields that differ, with their lines, and its GPUs before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.model import (
    Action,
    Canary,
    DesiredState,
    EffectiveSpec,
    EnvVar,
    Forget,
    Lease,
    Origin,
    Reason,
    ReasonCode,
    Resources,
    Sync,
    Unreachable,
)
from reconciler.report import planned_changes
from reconciler.report.planned import plan_document
from reconciler.report.planned_changes import changes_of, gpus_then
from tests.support.arguments import written_in
from tests.support.report_world import (
    NEW,
    SPEC,
    TINY,
    desired,
    observed,
    owned,
    planned,
    replica,
    report,
    state,
    status_of,
    verdict,
)

Document = dict[str, Any]
FILE = "hosts/a/tiny.yaml"
WANTED = replace(
    SPEC,
    args=written_in(FILE, 30, ["--port=8080", "--max-model-len=256", "--api-key=hidden"]),
    env=(EnvVar("MODE", "fast"),),
    resources=Resources(gpus=2),
)


def changes(spec: EffectiveSpec = WANTED, **fields: Any) -> dict[str, Document]:
    lines = (("MODE", Origin(FILE, 40)),)
    one = desired(spec=spec, digest=NEW, variable_origins=lines, resources_origin=Origin(FILE, 50), **fields)
    return {each["path"][-1]: each for each in changes_of(state(one), observed(replica()))[TINY]}


def test_change_of_each_kind_names_its_line() -> None:
    found = changes()
    assert (found["--max-model-len"]["before"], found["--max-model-len"]["after"]) == ("128", "256")
    lines = {name: (each["file"], each["line"]) for name, each in found.items()}
    assert lines == {
        "--max-model-len": (FILE, 31),
        "--api-key": (FILE, 32),
        "MODE": (FILE, 40),
        "nvidia.com/gpu": (FILE, 50),
    }


def test_secret_value_is_not_told() -> None:
    assert "hidden" not in str(changes())


def test_what_does_not_run_yet_or_is_unknown_differs_in_nothing() -> None:
    assert changes_of(state(desired()), observed()) == {TINY: []}
    assert changes_of(state(desired()), Unreachable("a", 1.0, "away")) == {}


def test_service_that_raises_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_changes, "service_diff", lambda *_: 1 / 0)
    (found,) = changes_of(state(desired(digest=NEW)), observed(replica()))[TINY]
    assert found["after"].startswith("comparing demo/tiny failed (ZeroDivisionError)")


@pytest.mark.parametrize(
    ("resources", "replicas", "expected"),
    [
        (Resources(), 1, 0),
        (Resources(gpus=2), 3, 6),
        (Resources(gpus=2), 0, 0),
        (Resources(gpus=1, gpu_share_millis=250), 2, 0.5),
        (Resources(other=(("nvidia.com/mig-1g.10gb", 3),)), 1, 3),
    ],
)
def test_gpus_are_those_of_all_replicas(resources: Resources, replicas: int, expected: float) -> None:
    one = desired(spec=replace(SPEC, resources=resources), replicas=replicas)
    assert gpus_then([one]) == {TINY: expected}


def test_canary_has_gpus_of_its_own() -> None:
    spec = replace(SPEC, resources=Resources(gpus=1))
    assert gpus_then([desired(spec=spec, replicas=2, canary=Canary(spec, NEW, 10))]) == {TINY: 3}


def gpus(wanted: DesiredState, *actions: Action) -> Document:
    """Of the one service in the plan's document."""
    now = replace(replica(), lease=Lease(20001, ("GPU-0",)))
    seen = observed(now, owned={TINY: owned()}, gpus=4)
    plan = replace(planned(verdict(sync=Sync.OUT_OF_SYNC)), actions=actions)
    one = report(desired=wanted, observed=seen, plan=plan)
    (service,) = plan_document(status_of(one), [(wanted, seen, plan)])["targets"][0]["services"]
    found: Document = service["gpus"]
    return found


def test_plan_tells_gpus_now_and_then() -> None:
    forget = Forget(TINY, "not in git")
    assert gpus(state(desired(spec=WANTED, digest=NEW)), forget) == {"now": 1, "then": 2}
    assert gpus(state(), forget) == {"now": 1, "then": 0}
    blocked = desired(spec=WANTED, digest=NEW, problems=(Reason(ReasonCode.INVALID_ARGUMENT, "no", Origin(FILE, 1)),))
    assert gpus(state(blocked), forget) == {"now": 1, "then": 1}
