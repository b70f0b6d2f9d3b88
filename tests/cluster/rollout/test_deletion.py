"""How a service leaves a cluster, step by step, and that it always comes to an end or says who holds it up."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.rollout.deletion import (
    AwaitFinalizers,
    AwaitPods,
    Deleted,
    DeleteService,
    Leaving,
    SetStopAnnotation,
    Step,
    controller_of,
    next_step,
)

STOP = "serving.kserve.io/stop"
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()


def at(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat().replace("+00:00", "Z")


def service(stopped_at: float | None = None, deleted_at: float | None = None, *finalizers: str, **parts: Any) -> Any:
    metadata: dict[str, Any] = {"name": "m", "namespace": "default", "uid": "u1", "annotations": {}}
    if stopped_at is not None:
        metadata["annotations"] = {STOP: "true"}
        entry = {"manager": "reconciler", "time": at(stopped_at)}
        metadata["managedFields"] = [
            entry | {"fieldsV1": {"f:metadata": {"f:annotations": {f"f:{STOP}": {}}}}},
            {"manager": "kserve", "time": at(0), "fieldsV1": {"f:status": {}}},
        ]
    if deleted_at is not None:
        metadata |= {"deletionTimestamp": at(deleted_at), "finalizers": list(finalizers)}
    return {"metadata": metadata, **parts}


def pod(grace: int = 150, phase: str = "Running") -> dict[str, Any]:
    return {"metadata": {}, "spec": {"terminationGracePeriodSeconds": grace}, "status": {"phase": phase}}


def step(seen: Any, pods: int = 1, **parts: Any) -> Step:
    return next_step(Leaving(seen, [pod()] * pods, **{"uid": "u1", "now": NOW, **parts}))


# ---------------------------------------------------------------- a cluster in small


class Cluster:
    """An API server, KServe's controller and a kubelet, as far as a deletion meets them."""

    def __init__(self, pods: int, drain: float, finalizers: list[str], obeys_stop: bool, ends_finalizers: bool) -> None:
        self.service: Any = service()
        self.service["metadata"]["finalizers"] = finalizers
        self.pods = [pod() for _ in range(pods)]
        self.now, self.drain, self.obeys, self.ends = NOW, drain, obeys_stop, ends_finalizers
        self.gone_at: float | None = None
        self.deletes = 0

    def do(self, step: Step) -> None:
        match step:
            case SetStopAnnotation():
                stopped = service(self.now - NOW)["metadata"]
                self.service["metadata"] |= {key: stopped[key] for key in ("annotations", "managedFields")}
                if self.obeys:
                    self.gone_at = self.now + self.drain
            case DeleteService():
                self.deletes += 1
                self.service["metadata"]["deletionTimestamp"] = at(self.now - NOW)
                self.gone_at = self.gone_at or self.now + self.drain
            case _:
                self.now += 10
        if self.gone_at is not None and self.now >= self.gone_at:
            self.pods = []
        if self.service and "deletionTimestamp" in self.service["metadata"]:
            if self.ends:
                self.service["metadata"]["finalizers"] = []
            if not self.service["metadata"]["finalizers"]:
                self.service = None

    def next(self) -> Step:
        return next_step(Leaving(copy.deepcopy(self.service), self.pods, "u1", self.now))


clusters = st.builds(
    Cluster,
    st.integers(0, 3),
    st.floats(0, 400),
    st.lists(st.sampled_from(["inferenceservice.finalizers", "acme.io/x"]), unique=True),
    st.booleans(),
    st.booleans(),
)


@given(clusters)
def test_a_deletion_ends_or_names_the_finalizer_that_holds_it(cluster: Cluster) -> None:
    held, ends = set(cluster.service["metadata"]["finalizers"]), cluster.ends
    steps = []
    for _ in range(60):
        steps.append(cluster.next())
        if isinstance(steps[-1], Deleted):
            break
        cluster.do(steps[-1])
    if ends or not held:
        assert isinstance(steps[-1], Deleted)
    else:
        assert isinstance(steps[-1], AwaitFinalizers)
        assert steps[-1].late
        assert set(steps[-1].finalizers) == held
    assert cluster.deletes == 1


@given(clusters)
def test_pods_that_obey_in_time_are_gone_before_the_delete(cluster: Cluster) -> None:
    for _ in range(60):
        step = cluster.next()
        if isinstance(step, DeleteService) and cluster.obeys and cluster.drain <= 150:
            assert not cluster.pods
        cluster.do(step)
        if cluster.service is None:
            break


@given(clusters)
def test_every_wait_has_an_end_in_the_future(cluster: Cluster) -> None:
    for _ in range(60):
        step = cluster.next()
        if isinstance(step, AwaitPods | AwaitFinalizers):
            assert step.until > cluster.now
        if isinstance(step, Deleted):
            break
        cluster.do(step)


# ---------------------------------------------------------------- examples


def test_a_service_that_runs_is_stopped_first() -> None:
    assert step(service()) == SetStopAnnotation("deleted in git; its pod drains first", "u1")
    stop = step(service())
    assert isinstance(stop, SetStopAnnotation)
    assert stop.patch == {"metadata": {"uid": "u1", "annotations": {STOP: "true"}}}


@pytest.mark.parametrize(
    ("rule", "seen", "expected"),
    [
        ("nothing is left", step(None), Deleted()),
        ("another object has its name", step(service(), uid="u0"), Deleted()),
        ("nothing of it runs", step(service(), 0), DeleteService("deleted in git", "u1")),
        ("its pods drain", step(service(-10), 2), AwaitPods("its 2 pods drain", NOW + 155)),
        (
            "its pods do not end",
            step(service(-165)),
            DeleteService("deleted in git; its pod runs on after the grace period", "u1"),
        ),
        (
            "git asks for no drain",
            step(service(), drains=False),
            DeleteService("deleted in git; git asks for no drain", "u1"),
        ),
        (
            "KServe stops nothing without a runtime",
            step(service(-1, status={"modelStatus": {"transitionStatus": "InvalidSpec"}})),
            DeleteService("deleted in git; KServe cannot stop it, for its spec is invalid: its pod ends with it", "u1"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_next_step(rule: str, seen: Step, expected: Step) -> None:
    assert seen == expected, rule


def test_an_annotation_without_a_time_is_old() -> None:
    seen = service(0)
    del seen["metadata"]["managedFields"]
    assert isinstance(step(seen), DeleteService)


def test_a_finalizer_that_never_ends_is_named_with_its_controller() -> None:
    early = step(service(None, -10, "inferenceservice.finalizers"), 0)
    text = "is being deleted; it waits for finalizer inferenceservice.finalizers (KServe's controller)"
    assert early == AwaitFinalizers(text, ("inferenceservice.finalizers",), False, NOW + 110)
    late = step(service(None, -200, "acme.io/x"), 0)
    assert isinstance(late, AwaitFinalizers)
    assert late.late
    assert "finalizer acme.io/x (a controller of acme.io) did not let go" in late.reason


def test_controllers_are_known_by_the_names_of_their_finalizers() -> None:
    assert controller_of("resources-finalizer.argocd.argoproj.io/background") == "Argo CD"
    assert controller_of("whatever") == "an unknown controller"
