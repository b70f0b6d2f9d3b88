"""Health of services that a real Kubernetes runs and KServe's stand-in answers for, from their objects alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest

from reconciler.cluster.api.trimming import trimmed
from reconciler.cluster.health.children import Children, WorkloadObjects, children_of
from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.health.rollout import rollout_outcome
from reconciler.cluster.health.service import service_health
from reconciler.model import HealthStatus, ReasonCode, ServiceId
from tests.cluster.health.recorded import SEQUENCES, Sequence
from tests.controlplane.api import Api, wait_for
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve import recorded
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster
LIMITS = HealthLimits(min_ready=1)
LATER = 7200.0
CHILDREN = (("apps/v1", "Deployment"), ("apps/v1", "ReplicaSet"), ("v1", "Pod"), ("v1", "Event"))


class Observer:
    """Reads one service, called `m`, with all that runs for it."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self._id = ServiceId(namespace, "m")

    def look(self, ahead: float = 0.0) -> ServingHealth:
        """Its health now, or as if so many seconds had passed without a change."""
        # Children first: what KServe says must not be older than what it is about.
        children = [self._list(*each) for each in CHILDREN]
        services = self._list("serving.kserve.io/v1beta1", "InferenceService")
        if not services:
            return service_health(None, Children(), time.time(), LIMITS)
        found = children_of(WorkloadObjects(services, *children))[self._id]
        return service_health(services[0], found, time.time() + ahead, LIMITS)

    def _list(self, version: str, kind: str) -> list[Mapping[str, Any]]:
        return [trimmed(each) for each in self._api.list(version, kind, self._namespace)]

    def wait_for(self, phase: HealthStatus, code: ReasonCode, seconds: float = 30) -> ServingHealth:
        """Its health once it is that."""

        def ask() -> ServingHealth:
            health = self.look()
            assert (health.health.phase, health.health.reason.code) == (phase, code), health
            return health

        return wait_for(ask, seconds)

    def wait_until(self, expected: Mapping[str, Any]) -> None:
        """Until it is as expected when every deadline is over."""

        def is_so() -> bool:
            health = self.look(ahead=LATER)
            rollout = rollout_outcome(health, time.time() + LATER, LIMITS)
            found = {
                "health": f"{health.health.phase} {health.health.reason.code}",
                "serving": health.serving,
                "rollout": str(rollout.state) + (f" {rollout.fault}" if rollout.fault else ""),
            }
            assert all(found[key] == value for key, value in expected.items()), health
            return True

        wait_for(is_so)

    @contextmanager
    def recording(self) -> Iterator[list[ServingHealth]]:
        """Every different health meanwhile."""
        seen: list[ServingHealth] = []
        over = Event()

        def watch() -> None:
            while not over.is_set():
                health = self.look()
                if not seen or seen[-1].health != health.health:
                    seen.append(health)

        thread = Thread(target=watch, daemon=True)
        thread.start()
        yield seen
        over.set()
        thread.join()


def steps_of(name: str, namespace: str) -> tuple[recorded.Step, ...]:
    return recorded.load(name, namespace).steps


@pytest.mark.parametrize("creates_ingress", [True, False])
def test_sequences_on_a_real_cluster_end_as_a_person_would_say(
    creates_ingress: bool, control_plane: ControlPlane, api: Api, add_node: AddNode
) -> None:
    for _ in range(6):
        add_node()
    mine = [each for each in SEQUENCES if recorded.load(each.name, "any").ingress == creates_ingress]
    # All at once: each waits for most of its time.
    with KServe(control_plane, creates_ingress=creates_ingress, progress_deadline=3), ThreadPoolExecutor(8) as pool:
        failures = list(pool.map(lambda each: play(each, api), mine))
    assert not list(filter(None, failures))


def play(sequence: Sequence, api: Api) -> str:
    """Do what was done then, and say where health was not as then."""
    name = f"sequence-{sequence.name}"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    api.create(namespace)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    wait_for(lambda: api.find(account), what="pods can be made in the namespace")
    observer, settled = Observer(api, name), iter(sequence.settled())
    steps = steps_of(sequence.name, name)
    first = next(at for at, step in enumerate(steps) if step.object["kind"] == "InferenceService")
    try:
        for at, step in enumerate(steps):
            recorded.perform(api, step)
            if at >= first:
                observer.wait_until(next(settled))
        observer.wait_until({key: sequence.later[key] for key in ("health", "serving", "rollout")})
    except AssertionError as error:
        return f"{sequence.name}: {error}"
    finally:
        api.delete(namespace)
        api.request("DELETE", api.collection("v1", "Pod", name), {"gracePeriodSeconds": 0})
    return ""


def test_update_that_crashes_is_told_while_the_old_version_serves(
    kserve: KServe, namespace: str, api: Api, add_node: AddNode
) -> None:
    add_node()
    observer = Observer(api, namespace)
    create_runtime, create, crash, mend = steps_of("healthy-to-crash", namespace)
    recorded.perform(api, create_runtime)
    with observer.recording() as seen:
        recorded.perform(api, create)
        observer.wait_for(HealthStatus.HEALTHY, ReasonCode.SERVING)
        recorded.perform(api, crash)
        failed = observer.wait_for(HealthStatus.DEGRADED, ReasonCode.CRASH_LOOP_BACKOFF)
        recorded.perform(api, mend)
        mended = observer.wait_for(HealthStatus.HEALTHY, ReasonCode.SERVING)
    assert (failed.generation, failed.serving, failed.ready) == (2, 1, 0)
    assert "exit code 1: CUDA out of memory; the version before still serves" in failed.health.reason.message
    assert rollout_outcome(failed, time.time(), LIMITS).is_quarantined
    assert (mended.generation, mended.serving) == (3, 1)
    assert {each.generation for each in seen if each.health.phase is HealthStatus.HEALTHY} <= {1, 3}
    assert HealthStatus.UNKNOWN not in {each.health.phase for each in seen}


def test_quota_without_room_is_the_clusters_fault(kserve: KServe, namespace: str, api: Api, add_node: AddNode) -> None:
    add_node()
    metadata = {"name": "pods", "namespace": namespace}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
    api.create(quota)
    wait_for(lambda: api.get(quota).get("status", {}).get("hard"), what="the quota counts")
    observer = Observer(api, namespace)
    for step in steps_of("healthy-to-crash", namespace)[:2]:
        recorded.perform(api, step)
    refused = observer.wait_for(HealthStatus.DEGRADED, ReasonCode.QUOTA_EXCEEDED)
    assert "exceeded quota: pods" in refused.health.reason.message
    assert not rollout_outcome(refused, time.time(), LIMITS).is_quarantined
    api.delete(quota)
    observer.wait_for(HealthStatus.HEALTHY, ReasonCode.SERVING)
