"""What the KServe of the tests makes of a service is what KServe 0.20 was recorded to make, or to refuse."""

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
from tests.controlplane.kserve.controller import FINALIZER, LABEL
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster

CASES = Path(__file__).parents[2] / "kserve" / "cases"


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane) -> Iterator[KServe]:
    with KServe(control_plane) as running:
        yield running


def load(path: Path, namespace: str) -> dict[str, Any]:
    text = re.sub(r"\btree\b", namespace, path.read_text())
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
    wait_for(lambda: not any(recorded.workload(api, namespace).values()))


@pytest.mark.usefixtures("installed")
@cases_with("pod")
def test_pod_is_the_recorded_one(api: Api, namespace: str, add_node: AddNode, path: Path) -> None:
    add_node()
    case = load(path, namespace)
    for each in case["input"]:
        api.create(each)
    of_service = f"{LABEL}={case['pod']['labels'][LABEL]}"
    pod = wait_for(lambda: api.list("v1", "Pod", namespace, of_service))[0]
    remove_runtimes(api)
    assert pod_as_recorded(pod) == case["pod"]


def pod_as_recorded(pod: dict[str, Any]) -> Any:
    """Without what Kubernetes adds to every pod."""
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    spec["volumes"] = [each for each in spec["volumes"] if not each["name"].startswith("kube-api-access")]
    spec["tolerations"] = [each for each in spec["tolerations"] if not each["key"].startswith("node.kubernetes.io/")]
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        mounts = container.get("volumeMounts", ())
        container["volumeMounts"] = [each for each in mounts if not each["name"].startswith("kube-api-access")]
    labels = {key: value for key, value in pod["metadata"]["labels"].items() if key != "pod-template-hash"}
    annotations = pod["metadata"].get("annotations", {})
    return _filled({"labels": labels, "annotations": annotations, "spec": spec})


def _filled(value: Any) -> Any:
    """Without lists that are empty now."""
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items() if each != []}
    return [_filled(each) for each in value] if isinstance(value, list) else value
