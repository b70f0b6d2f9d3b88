"""Services on a cluster with KServe: promoted, rolled back, moved in batches, and drained before they are deleted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from reconciler.cluster import observer
from reconciler.cluster.api import clock, transport
from reconciler.loop import sync
from tests.cluster.rig import ClusterRig
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster
MakeRig = Callable[..., ClusterRig]
RUNTIME = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "ServingRuntime",
    "metadata": {"name": "vllm"},
    "spec": {
        "supportedModelFormats": [{"name": "vLLM", "autoSelect": True}],
        "containers": [
            {
                "name": "kserve-container",
                "image": "vllm/vllm-openai:v0.32.0",
                "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
                "args": ["--port=8080", "--model=/mnt/models", "--max-model-len=100"],
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            }
        ],
    },
}


@pytest.fixture
def make_cluster(tmp_path: Path, control_plane: ControlPlane, namespace: str) -> MakeRig:
    def make(**target: Any) -> ClusterRig:
        rig = ClusterRig(tmp_path / "rig", control_plane, namespace, target)
        rig.push({"prod/runtime.yaml": yaml.safe_dump(RUNTIME)})
        return rig

    return make


def service(name: str, *args: str, gpus: int = 1, **annotations: str) -> str:
    model = {
        "modelFormat": {"name": "vLLM"},
        "runtime": "vllm",
        "args": list(args),
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}, "requests": {"cpu": "1", "memory": "1Gi"}},
    }
    predictor: dict[str, Any] = {"minReplicas": 1, "model": model}
    if annotations:
        predictor["annotations"] = {
            f"fake-kubelet/{key.replace('_', '-')}": value for key, value in annotations.items()
        }
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"serving.kserve.io/autoscalerClass": "none"}},
        "spec": {"predictor": predictor},
    }
    return yaml.safe_dump(body, sort_keys=False)


def runtime(*args: str) -> str:
    changed: dict[str, Any] = yaml.safe_load(yaml.safe_dump(RUNTIME))
    changed["spec"]["containers"][0]["args"] += list(args)
    return yaml.safe_dump(changed)


def shown(status: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in status["targets"][0]["services"] if one["name"] == name)


def live(rig: ClusterRig, name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": rig.namespace}
    return rig.api.get({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata})


def pods(rig: ClusterRig) -> list[dict[str, Any]]:
    return rig.api.list("v1", "Pod", rig.namespace)


def test_service_is_promoted_and_then_nothing_is_written(make_cluster: MakeRig, kserve: KServe, add_node: AddNode):
    node = add_node(gpus=2)
    rig = make_cluster()
    rig.push({"prod/a.yaml": service("a")})

    status = rig.sync(60)

    found = shown(status, "a")
    assert (found["sync"], found["health"]["status"], found["ready"]) == ("Synced", "Healthy", "1/1"), found
    assert found["liveDigest"] == found["digest"]
    assert status["revision"]["fullyApplied"]
    assert status["targets"][0]["gpus"]["nodes"] == [{"name": node, "total": 2, "leased": 1}]
    assert [(one["node"], one["gpuCount"]) for one in found["replicas"]] == [(node, 1)]
    rig.writes()
    rig.sync()
    assert rig.writes() == []


@pytest.mark.parametrize("hours", [-3, 3])
def test_service_on_a_cluster_with_another_clock_is_promoted_and_deleted(
    hours: int, make_cluster: MakeRig, kserve: KServe, add_node: AddNode, monkeypatch: pytest.MonkeyPatch
):
    add_node(gpus=2)
    skewed = SimpleNamespace(time=lambda: time.time() + 3600 * hours, monotonic=time.monotonic, sleep=time.sleep)
    for module in (clock, transport, observer):
        monkeypatch.setattr(module, "time", skewed)
    rig = make_cluster()
    rig.push({"prod/a.yaml": service("a", ready_after="2s", gone_after="2s")})

    status = rig.sync(60)

    found = shown(status, "a")
    assert (found["sync"], found["health"]["status"], found["rejected"]) == ("Synced", "Healthy", None), found
    assert status["revision"]["fullyApplied"]

    rig.push({"prod/a.yaml": None})
    rig.sync(60)
    assert not pods(rig)
    assert not rig.api.list("serving.kserve.io/v1beta1", "InferenceService", rig.namespace)


def test_bad_commit_is_rolled_back_and_not_tried_again(make_cluster: MakeRig, kserve: KServe, add_node: AddNode):
    add_node(gpus=2)
    rig = make_cluster()
    rig.push({"prod/a.yaml": service("a", "--seed=1")})
    rig.sync(60)
    good = shown(rig.sync(), "a")["digest"]

    rig.push({"prod/a.yaml": service("a", "--seed=2", outcome="crash")})
    status = rig.sync(60)

    found = shown(status, "a")
    assert found["rejected"], found
    assert found["rejected"]["digest"] == found["digest"] != good
    assert found["liveDigest"] == good
    assert "--seed=1" in live(rig, "a")["spec"]["predictor"]["model"]["args"]
    assert found["health"]["status"] == "Healthy", found
    rig.writes()
    rig.sync()
    assert rig.writes() == []

    # As a daemon whose pod was replaced: what failed is on record in the cluster.
    shutil.rmtree(rig.folder / "state")
    found = shown(rig.sync(60), "a")
    assert sum("inferenceservices/a" in each for each in rig.writes()) == 1, "once, to be sure of what is ours"
    assert (found["liveDigest"], found["health"]["status"]) == (good, "Healthy"), found
    assert found["rejected"]["digest"] == found["digest"]
    assert "--seed=1" in live(rig, "a")["spec"]["predictor"]["model"]["args"]

    rig.push({"prod/a.yaml": service("a", "--seed=3")})
    assert shown(rig.sync(60), "a")["sync"] == "Synced"


def test_rollout_without_a_spare_gpu_recreates_the_pod(make_cluster: MakeRig, kserve: KServe, add_node: AddNode):
    add_node(gpus=1)
    rig = make_cluster()
    rig.push({"prod/a.yaml": service("a", "--seed=1")})
    rig.sync(60)

    rig.push({"prod/a.yaml": service("a", "--seed=2")})
    (planned,) = [one for one in rig.plan()["services"] if one["name"] == "a"]
    assert planned["strategy"].startswith("Recreate: no room for old and new"), planned

    found = shown(rig.sync(60), "a")
    assert (found["sync"], found["ready"]) == ("Synced", "1/1"), found
    assert live(rig, "a")["spec"]["predictor"]["deploymentStrategy"] == {"type": "Recreate"}


def test_edited_runtime_reaches_services_in_batches_and_stops_at_a_failure(
    make_cluster: MakeRig, kserve: KServe, add_node: AddNode
):
    add_node(gpus=8)
    rig = make_cluster(rollout={"min_ready": "200ms", "batch": 1})
    rig.push({f"prod/{name}.yaml": service(name) for name in "abc"})
    rig.sync(90)
    before = {pod["metadata"]["name"] for pod in pods(rig)}

    rig.push({"prod/runtime.yaml": runtime("--max-num-seqs=4")})
    status = rig.sync(120)

    assert status["revision"]["fullyApplied"], [shown(status, name)["step"] for name in "abc"]
    assert not before & {pod["metadata"]["name"] for pod in pods(rig)}
    assert all(live(rig, name)["spec"]["predictor"]["model"]["runtime"] == "vllm" for name in "abc")
    left = rig.api.list("serving.kserve.io/v1alpha1", "ServingRuntime", rig.namespace)
    assert [each["metadata"]["name"] for each in left] == ["vllm"]


def test_deleted_service_is_stopped_before_it_is_deleted(make_cluster: MakeRig, kserve: KServe, add_node: AddNode):
    add_node(gpus=2)
    rig = make_cluster()
    rig.push({"prod/a.yaml": service("a", gone_after="2s")})
    rig.sync(60)
    rig.writes()

    rig.push({"prod/a.yaml": None})
    status = rig.sync(60)

    assert status["revision"]["fullyApplied"]
    written = [line for line in rig.writes() if "inferenceservices" in line]
    assert written == ["patch inferenceservices/a", "delete inferenceservices/a"]


def test_stages_of_a_rollout_follow_its_pods(make_cluster: MakeRig, kserve: KServe, add_node: AddNode):
    add_node(gpus=1)
    rig = make_cluster()
    rig.push({"prod/a.yaml": service("a", "--seed=1", ready_after="1s", gone_after="1s")})
    assert {one["state"] for one in shown(rig.sync(60), "a")["stages"]} <= {"done", "skipped"}

    seen: list[dict[str, Any]] = []
    rig.push({"prod/a.yaml": service("a", "--seed=2", ready_after="1s", gone_after="1s")})
    sync(rig.settings, 60, seen.append)

    found = [shown(one, "a")["stages"] for one in seen if any(one["targets"][0]["services"])]
    active = [one["name"] for stages in found for one in stages if one["state"] == "active"]
    assert {"drained", "first token"} <= set(active), found
    assert active.index("drained") < active.index("first token"), active
    last = {one["name"]: one for one in found[-1]}
    assert {one["state"] for one in last.values()} <= {"done", "skipped"}
    assert last["started"]["at"] <= last["first token"]["at"] <= last["promoted"]["at"]

    rig.push({"prod/a.yaml": service("a", "--seed=3", outcome="crash")})
    last = {one["name"]: one for one in shown(rig.sync(60), "a")["stages"]}
    assert "failed" in {one["state"] for one in last.values()}, last
    assert last["rolled back"]["state"] == "done", last
