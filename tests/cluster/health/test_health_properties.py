"""What holds of health whatever other controllers write."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reconciler.cluster.health.children import Children, WorkloadObjects, children_of
from reconciler.cluster.health.memo import HealthMemo
from reconciler.cluster.health.objects import HealthContext, object_health
from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.health.rollout import RolloutState, rollout_outcome
from reconciler.cluster.health.service import service_health
from reconciler.model import HealthStatus, ServiceId
from tests.cluster.health.recorded import SEQUENCES, START, stamp

LIMITS = HealthLimits()
# A busy machine may take long over one example.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
Seen = tuple[float, dict[str, Any], Children]


@cache
def everything_seen() -> list[Seen]:
    return [
        (now, deepcopy(cluster.service), cluster.children()) for each in SEQUENCES for now, cluster, _ in each.play()
    ]


# Played only where it is needed: every worker imports this file.
seen = st.deferred(lambda: st.sampled_from(everything_seen()))
json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from places(each, (*path, key))


def damaged(body: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """The same with one value taken away, or replaced by any other."""
    found = deepcopy(body)
    *above, last = data.draw(st.sampled_from(list(places(found))))
    inner: Any = found
    for key in above:
        inner = inner[key]
    if data.draw(st.booleans()):
        del inner[last]
    else:
        inner[last] = data.draw(json)
    return found


@unhurried
@given(seen, st.floats(0, 20_000))
def test_degraded_always_says_why_and_what_is_wrong(at: Seen, later: float) -> None:
    now, service, children = at
    health = service_health(service, children, now + later, LIMITS)
    assert health.health.reason.message
    if health.health.phase is HealthStatus.DEGRADED:
        assert health.problem
        assert health.problem.message
        assert health.health.reason.message.startswith(health.problem.message)
    rollout = rollout_outcome(health, now + later, LIMITS)
    assert (rollout.fault is not None) == (rollout.state is RolloutState.FAILED)


@unhurried
@given(seen, st.integers(1, 5), st.floats(0, 20_000))
def test_healthy_never_with_fewer_ready_than_asked(at: Seen, more: int, later: float) -> None:
    now, service, children = at
    assume(children.deployments)
    [deployment] = deepcopy(children.deployments)
    deployment["spec"]["replicas"] += more
    asked = Children((deployment,), children.replica_sets, children.pods, children.events)
    health = service_health(service, asked, now + later, LIMITS)
    assert health.health.phase is not HealthStatus.HEALTHY


@unhurried
@given(seen, st.floats(0, 20_000))
def test_healthy_never_while_the_deployment_is_not_looked_at(at: Seen, later: float) -> None:
    now, service, children = at
    assume(children.deployments)
    [deployment] = deepcopy(children.deployments)
    deployment["metadata"]["generation"] += 1
    behind = Children((deployment,), children.replica_sets, children.pods, children.events)
    health = service_health(service, behind, now + later, LIMITS)
    assert health.health.phase is not HealthStatus.HEALTHY


@unhurried
@given(seen, st.floats(0, 20_000))
def test_healthy_never_before_kserve_rendered_the_edit(at: Seen, later: float) -> None:
    now, service, children = at
    assume(service.get("status"))
    edited = deepcopy(service)
    edited["metadata"]["generation"] += 1
    edited["spec"]["predictor"]["model"].setdefault("args", []).append("--edited")
    edited["metadata"]["managedFields"].append({"time": stamp(now - START), "fieldsV1": {"f:spec": {}}})
    health = service_health(edited, children, now + later, LIMITS)
    assert health.health.phase is not HealthStatus.HEALTHY
    assert rollout_outcome(health, now + later, LIMITS).state is not RolloutState.SUCCEEDED


@unhurried
@given(seen)
def test_healthy_never_just_after_an_edit_that_shows_nowhere(at: Seen) -> None:
    now, service, children = at
    assume(service.get("status"))
    edited = deepcopy(service)
    edited["metadata"]["generation"] += 1
    edited["metadata"]["managedFields"].append({"time": stamp(now - START), "fieldsV1": {"f:spec": {}}})
    behind = edited["status"].get("observedGeneration", 0) < edited["metadata"]["generation"]
    health = service_health(edited, children, now, LIMITS)
    assert health.health.phase is not HealthStatus.HEALTHY or not behind


@unhurried
@given(seen, st.floats(0, 20_000))
def test_what_is_well_stays_so_until_an_object_changes(at: Seen, later: float) -> None:
    now, service, children = at
    memo = HealthMemo(LIMITS)
    health = memo.health(service, children, now)
    assert health == service_health(service, children, now, LIMITS)
    assert memo.health(service, children, now + later) == service_health(service, children, now + later, LIMITS)


@unhurried
@given(seen, seen, st.floats(0, 20_000))
def test_health_that_is_remembered_is_never_another_objects(one: Seen, other: Seen, later: float) -> None:
    memo = HealthMemo(LIMITS)
    for now, service, children in (one, other, one):
        assert memo.health(service, children, now + later) == service_health(service, children, now + later, LIMITS)


@unhurried
@given(st.data(), st.floats(0, 20_000))
def test_status_of_odd_types_never_raises(data: st.DataObject, later: float) -> None:
    now, service, children = data.draw(seen)
    parts = {part: list(getattr(children, part)) for part in ("deployments", "replica_sets", "pods", "events")}
    part = data.draw(st.sampled_from(["service", *(name for name, found in parts.items() if found)]))
    if part == "service":
        service = damaged(service, data)
    else:
        index = data.draw(st.integers(0, len(parts[part]) - 1))
        parts[part][index] = damaged(parts[part][index], data)
    children_of(WorkloadObjects([service], **parts))
    hurt = Children(**{name: tuple(found) for name, found in parts.items()})
    health = service_health(service, hurt, now + later, LIMITS)
    assert health.health.reason.message
    rollout_outcome(health, now + later, LIMITS)


@unhurried
@given(json)
def test_status_that_is_no_status_is_unknown(odd: Any) -> None:
    assume(odd is not None and not isinstance(odd, dict))
    service = {"metadata": {"generation": 1, "name": "m"}, "status": odd}
    assert service_health(service, Children(), START, LIMITS).health.phase is HealthStatus.UNKNOWN


@unhurried
@given(
    st.sampled_from(["Pod", "Service", "PersistentVolumeClaim", "Namespace", "Deployment", "Job", "HTTPRoute", "Odd"]),
    st.sampled_from(["v1", "apps/v1", "batch/v1", "gateway.networking.k8s.io/v1", "x/v1"]),
    st.dictionaries(st.sampled_from(["conditions", "phase", "parents", "observedGeneration", "replicas"]), json),
    json,
)
def test_object_with_any_status_never_raises(kind: str, version: str, status: Any, spec: Any) -> None:
    body = {"apiVersion": version, "kind": kind, "metadata": {"name": "x", "generation": 2}, "spec": spec}
    object_health({**body, "status": status}, HealthContext(START, LIMITS))


def test_service_that_is_gone_is_missing() -> None:
    health = service_health(None, Children(), START, LIMITS)
    assert health.health.phase is HealthStatus.MISSING
    assert rollout_outcome(health, START, LIMITS).state is RolloutState.UNKNOWN


def test_children_of_every_recording_are_those_of_its_service() -> None:
    for each in SEQUENCES:
        *_, (_, cluster, _) = each.play()
        other = {"metadata": {"namespace": "models", "name": "other", "uid": "other"}}
        found = children_of(
            WorkloadObjects([cluster.service, other], [cluster.deployment] if cluster.deployment else [])
        )
        assert found[ServiceId("models", "other")] == Children()
