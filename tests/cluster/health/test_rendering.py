"""Does a Deployment show what its InferenceService says?"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from reconciler.cluster.health.rendering import unlike
from tests.cluster.health.recorded import merge

SERVICE: dict[str, Any] = {
    "metadata": {"annotations": {"serving.kserve.io/autoscalerClass": "none"}},
    "spec": {
        "predictor": {
            "minReplicas": 2,
            "nodeSelector": {"gpu": "a100"},
            "serviceAccountName": "",
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "model": {
                "runtime": "vllm",
                "modelFormat": {"name": "vLLM"},
                "storageUri": "hf://acme/tiny",
                "image": "registry/vllm:1",
                "args": ["--a=1", "--name={{.Name}}"],
                "env": [{"name": "X", "value": "1"}],
                "resources": {"limits": {"cpu": "4000m", "nvidia.com/gpu": 1}},
            },
        }
    },
    "status": {"servingRuntimeName": "vllm"},
}
CONTAINER = {
    "name": "kserve-container",
    "image": "registry/vllm:1-gpu",
    "args": ["--port=8080", "--a=1", "--name=m"],
    "env": [{"name": "OF_THE_RUNTIME", "value": "9"}, {"name": "X", "value": "1"}],
    "resources": {"limits": {"cpu": "4", "nvidia.com/gpu": "1", "memory": "1Gi"}},
}
POD = {
    "containers": [CONTAINER],
    "nodeSelector": {"gpu": "a100"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
}
URI = {"internal.serving.kserve.io/storage-initializer-sourceuri": "hf://acme/tiny"}
DEPLOYMENT = {"spec": {"replicas": 2, "template": {"metadata": {"annotations": URI}, "spec": POD}}}


def changed(**predictor: Any) -> dict[str, Any]:
    """The service with another predictor."""
    found: dict[str, Any] = merge(SERVICE, {"spec": {"predictor": predictor}})
    return found


def test_deployment_shows_what_the_service_says_however_it_is_written() -> None:
    assert unlike(SERVICE, DEPLOYMENT) == ""


@pytest.mark.parametrize(
    ("predictor", "path"),
    [
        ({"minReplicas": 3}, "minReplicas"),
        ({"nodeSelector": {"gpu": "h100"}}, "nodeSelector.gpu"),
        ({"tolerations": [{"key": "other", "operator": "Exists"}]}, "tolerations.0"),
        ({"serviceAccountName": "reader"}, "serviceAccountName"),
        ({"model": {"runtime": "other"}}, "model.runtime"),
        ({"model": {"image": "registry/vllm:2"}}, "model.image"),
        ({"model": {"storageUri": "hf://acme/large"}}, "model.storageUri"),
        ({"model": {"args": ["--a=2"]}}, "model.args.0"),
        ({"model": {"env": [{"name": "X", "value": "2"}]}}, "model.env.0.value"),
        ({"model": {"env": [{"name": "Y", "value": "2"}]}}, "model.env.0"),
        ({"model": {"resources": {"limits": {"nvidia.com/gpu": 2}}}}, "model.resources.limits.nvidia.com/gpu"),
        ({"model": {"resources": {"requests": {"cpu": "1"}}}}, "model.resources.requests.cpu"),
        ({"model": {"livenessProbe": {"httpGet": {"path": "/health"}}}}, "model.livenessProbe.httpGet.path"),
    ],
)
def test_edit_that_was_not_rendered_is_named(predictor: dict[str, Any], path: str) -> None:
    assert unlike(changed(**predictor), DEPLOYMENT) == f"spec.predictor.{path}"


def test_count_is_the_autoscalers_where_there_is_one() -> None:
    scaled = deepcopy(changed(minReplicas=3))
    scaled["metadata"]["annotations"] = {}
    assert unlike(scaled, DEPLOYMENT) == ""


def test_image_is_not_compared_where_kserve_replaces_its_tag() -> None:
    assert unlike(changed(model={"image": "registry/vllm:2", "runtimeVersion": "3"}), DEPLOYMENT) == ""
