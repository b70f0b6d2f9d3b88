"""The API server knows KServe's kinds as it does with KServe's own CRDs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.controlplane.api import Api, ApiError
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.kserve.crds import install_crds, remove_crds

pytestmark = pytest.mark.cluster


def make_service(namespace: str, **predictor: Any) -> dict[str, Any]:
    model = {"modelFormat": {"name": "vLLM"}, "storageUri": "hf://acme/tiny", "runtime": "vllm"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "m", "namespace": namespace},
        "spec": {"predictor": {"model": model, **predictor}},
    }


@pytest.mark.parametrize(
    ("predictor", "said"),
    [
        ({"model": {"modelFormat": {}}}, "spec.predictor.model.modelFormat.name: Required value"),
        ({"minReplicas": "2"}, "spec.predictor.minReplicas: Invalid value"),
        ({"minReplica": 2}, 'unknown field "spec.predictor.minReplica"'),
        # As KServe 0.20 was seen to refuse them.
        (
            {"storageUris": [{"uri": "hf://a/b", "mountPath": "mnt/a"}]},
            "spec.predictor.storageUris[0].mountPath in body should match '^/.*'",
        ),
        (
            {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]},
            "spec.predictor.containers[0].env[1]: Duplicate value",
        ),
    ],
)
def test_field_that_the_schema_refuses_is_named(api: Api, namespace: str, predictor: dict[str, Any], said: str) -> None:
    install_crds(api)
    with pytest.raises(ApiError) as caught:
        api.create(make_service(namespace, **predictor))
    assert said in caught.value.message


def test_lists_are_merged_by_key_when_two_managers_apply(api: Api, namespace: str) -> None:
    install_crds(api)
    for manager, name in (("one", "A"), ("two", "B")):
        service = make_service(namespace)
        service["spec"]["predictor"]["model"]["env"] = [{"name": name, "value": "1"}]
        applied = api.apply(service, manager)
    assert [each["name"] for each in applied["spec"]["predictor"]["model"]["env"]] == ["A", "B"]


def test_status_is_changed_by_its_subresource_alone(api: Api, namespace: str) -> None:
    install_crds(api)
    service = api.create(make_service(namespace))
    api.patch(service, {"status": {"url": "http://x"}})
    assert "status" not in api.get(service)
    changed = api.patch(service, {"status": {"url": "http://x"}}, subresource="status")
    assert changed["status"] == {"url": "http://x"}
    assert changed["metadata"]["generation"] == 1


def test_removed_crds_take_their_objects_along(control_plane: ControlPlane, api: Api, namespace: str) -> None:
    assert control_plane.processes, "only where the cluster is our own"
    install_crds(api)
    service = api.create(make_service(namespace))
    remove_crds(api)
    with pytest.raises(ApiError):
        api.get(service)
    install_crds(api)
    assert api.find(service) is None
