"""What is decided about rollouts, held against a real API server, scheduler and job controller."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from reconciler.cluster.preflight_job import JobSettings, job_of, read_job
from reconciler.cluster.rollout.batches import copy_of
from reconciler.cluster.rollout.gpus import ClusterRoom, Room, need_of, read_room, room_for
from reconciler.cluster.rollout.last_good import ServiceRecord, read_secret, secret_of
from reconciler.model import ServiceId
from tests.cluster.rollout.test_drain import runtime
from tests.cluster.rollout.test_last_good import good
from tests.cluster.test_preflight_job import asked
from tests.controlplane.api import Api, wait_for
from tests.controlplane.fixtures import AddNode

pytestmark = pytest.mark.cluster

GPU = "nvidia.com/gpu"


def pod(namespace: str, name: str, gpus: int, **parts: Any) -> dict[str, Any]:
    limits = {"resources": {"limits": {GPU: str(gpus)}}}
    spec = {"containers": [{"name": "main", "image": "registry.example.com/x:1", **limits}], **parts}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def room_of(api: Api) -> ClusterRoom:
    return read_room(api.list("v1", "Node"), api.list("v1", "Pod"))


def condition(live: dict[str, Any], kind: str) -> str:
    found = [each for each in live.get("status", {}).get("conditions", ()) if each["type"] == kind]
    return str(found[0]["status"]) if found else ""


@pytest.mark.parametrize(
    "wanted",
    [
        pod("", "fits", 2),
        pod("", "too-large", 9),
        pod(
            "",
            "sidecars",
            1,
            initContainers=[
                {"name": "s", "image": "x:1", "restartPolicy": "Always", "resources": {"limits": {GPU: "1"}}},
                {"name": "i", "image": "x:1", "resources": {"limits": {GPU: "2"}}},
            ],
        ),
        pod("", "init", 0, initContainers=[{"name": "i", "image": "x:1", "resources": {"limits": {GPU: "2"}}}]),
        pod("", "selected", 1, nodeSelector={"zone": "none"}),
        pod("", "overhead", 1, tolerations=[{"key": "acme", "operator": "Exists"}]),
    ],
    ids=lambda wanted: wanted["metadata"]["name"],
)
def test_room_is_what_the_scheduler_finds(api: Api, namespace: str, add_node: AddNode, wanted: dict[str, Any]) -> None:
    add_node(4)
    add_node(8, taints=[{"key": "acme", "effect": "NoSchedule"}])
    api.create(pod(namespace, "first", 2))
    wait_for(lambda: api.get(pod(namespace, "first", 2))["spec"].get("nodeName"), what="a node has the first pod")
    expected = room_for(room_of(api), [need_of(wanted["spec"])])
    mine = copy.deepcopy(wanted)
    mine["metadata"]["namespace"] = namespace
    api.create(mine)
    wait_for(lambda: condition(api.get(mine), "PodScheduled"), what="the scheduler has decided")
    assert (expected is Room.BESIDE) == (condition(api.get(mine), "PodScheduled") == "True")


def test_a_preflight_job_is_allowed_in_a_restricted_namespace(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node(0)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    api.patch(body, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    made = dict(job_of(asked("--dtype=auto", namespace=namespace), JobSettings()))
    api.create(made)
    wait_for(lambda: api.get(made).get("status", {}).get("active"), what="its pod was allowed")
    assert not read_job(api.get(made), api.list("v1", "Pod", namespace), "").trouble


def test_a_quota_is_named_as_what_keeps_a_job(api: Api, namespace: str) -> None:
    quota = {"metadata": {"name": "team", "namespace": namespace}, "spec": {"hard": {"pods": "0"}}}
    quota |= {"apiVersion": "v1", "kind": "ResourceQuota"}
    api.create(quota)
    wait_for(lambda: api.get(quota).get("status", {}).get("hard"), what="the quota counts")
    made = dict(job_of(asked("--dtype=auto", namespace=namespace), JobSettings()))
    api.create(made)

    def about() -> list[Any]:
        events = api.list("v1", "Event", namespace)
        return [each for each in events if each["involvedObject"]["name"] == made["metadata"]["name"]]

    wait_for(lambda: any(each["reason"] == "FailedCreate" for each in about()), what="the refusal is told")
    assert "exceeded quota: team" in read_job(api.get(made), [], "", about()).waits


def test_a_record_is_kept_as_it_was_written(api: Api, namespace: str) -> None:
    record = ServiceRecord(ServiceId("default", "tiny"), replace(good(), revision="r9"))
    secret = dict(secret_of(record, namespace, "prod"))
    api.create(secret)
    assert read_secret(api.get(secret)) == record


@pytest.mark.usefixtures("kserve_crds")
def test_a_copy_of_a_runtime_is_a_runtime(api: Api, namespace: str) -> None:
    original = runtime()
    original["metadata"]["namespace"] = namespace
    made = api.create(original)
    copied = dict(copy_of(made))
    api.create(copied)
    assert copy_of({**made, "metadata": {**made["metadata"], "resourceVersion": "x"}}) == copied
