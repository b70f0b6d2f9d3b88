"""The KServe of the tests does what KServe 0.20 was recorded to do."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.controlplane.api import Api, ApiError, wait_for
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve import recorded
from tests.controlplane.kserve.controller import FINALIZER
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster

CASES = Path(__file__).parents[2] / "kserve" / "cases"
KINDS = {
    "deployment": "apps/v1/Deployment",
    "service": "v1/Service",
    "hpa": "autoscaling/v2/HorizontalPodAutoscaler",
    "ingress": "networking.k8s.io/v1/Ingress",
}


@pytest.mark.parametrize("name", recorded.names())
def test_sequence_has_the_recorded_statuses_in_their_order(
    control_plane: ControlPlane, api: Api, namespace: str, add_node: AddNode, name: str
) -> None:
    add_node(gpus=8)
    sequence = recorded.load(name, namespace)
    deadline = 3 if name.startswith("deadline") else 600
    with KServe(control_plane, creates_ingress=sequence.ingress, progress_deadline=deadline) as kserve:
        watcher: recorded.Watcher | None = None
        for step in sequence.steps:
            if watcher and step.object["kind"] != "InferenceService":
                # What still happens to a service makes KServe look at its runtime.
                kserve.wait_until_idle()
            since = len(watcher.statuses) if watcher else 0
            recorded.perform(api, step)
            if step.object["kind"] == "InferenceService" and watcher is None:
                watcher = recorded.Watcher(api, namespace)
            if watcher and step.then:
                watcher.wait_for(step.then, since)
            elif watcher:
                kserve.wait_until_idle()
                assert watcher.statuses[since:] == []
        assert workload(api, namespace) == sequence.final


def workload(api: Api, namespace: str) -> dict[str, Any]:
    """As a recording names it."""
    found: dict[str, Any] = {}
    objects = {}
    for what, kind in KINDS.items():
        version, _, name = kind.rpartition("/")
        objects[what] = api.list(version, name, namespace)
        found[f"{what}_exists"] = bool(objects[what])
    for deployment in objects["deployment"]:
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        found |= {"deployment_args": container["args"], "deployment_replicas": deployment["spec"]["replicas"]}
    return found


# ---------------------------------------------------------------------------------------------- single services


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane) -> Iterator[KServe]:
    with KServe(control_plane) as running:
        yield running


def load(path: Path, namespace: str) -> dict[str, Any]:
    text = re.sub(r"(namespace:? |pv-)tree\b", rf"\1{namespace}", path.read_text())
    case: dict[str, Any] = yaml.load(text, yaml.CSafeLoader)
    return case


def cases_with(key: str) -> pytest.MarkDecorator:
    found = [path for path in sorted(CASES.glob("*.yaml")) if f"\n{key}:" in path.read_text()]
    return pytest.mark.parametrize("path", found, ids=[path.stem for path in found])


def remove_runtimes(api: Api) -> None:
    for each in api.list("serving.kserve.io/v1alpha1", "ClusterServingRuntime"):
        api.delete(each)


@pytest.mark.usefixtures("installed")
@cases_with("refused")
def test_object_is_refused_in_the_recorded_words(api: Api, namespace: str, path: Path) -> None:
    case = load(path, namespace)
    *accepted, last = case["input"]
    for each in accepted:
        api.create(each)
    with pytest.raises(ApiError) as caught:
        api.create(last)
    assert caught.value.code == case["refused"]["code"]
    assert caught.value.message.endswith(case["refused"]["message"])
    if caught.value.code == 403:
        name = f"{last['kind'].lower()}.kserve-webhook-server.validator"
        assert caught.value.message.startswith(f'admission webhook "{name}" denied the request: ')


@pytest.mark.usefixtures("installed")
@cases_with("defaulted")
def test_service_is_stored_with_the_recorded_defaults(api: Api, namespace: str, path: Path) -> None:
    case = load(path, namespace)
    stored = {}
    for each in case["input"]:
        stored = api.create(copy.deepcopy(each))
        if each["kind"] == "InferenceService":
            break
    remove_runtimes(api)
    assert stored["spec"] == case["defaulted"]["spec"]
    for key in ("labels", "annotations"):
        assert stored["metadata"].get(key, {}) == case["defaulted"].get(key, {})


@pytest.mark.usefixtures("installed")
def test_deleted_service_takes_its_children_along(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node()
    sequence = recorded.load("healthy-args-update", namespace)
    for step in sequence.steps[:2]:
        recorded.perform(api, step)
    service = sequence.steps[1].object
    wait_for(lambda: api.get(service).get("status", {}).get("url"))
    assert api.get(service)["metadata"]["finalizers"] == [FINALIZER]
    api.delete(service)
    wait_for(lambda: api.find(service) is None)
    wait_for(lambda: not any(workload(api, namespace).values()))
