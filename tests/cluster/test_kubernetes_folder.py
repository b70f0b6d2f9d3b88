"""deploy/kubernetes/ on a real API server: it takes every object, and gives the daemon the rights that it needs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.rig import ClusterRig
from tests.controlplane.api import Api, wait_for
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve.installation import KServe
from tests.support.kubernetes_folder import COMPONENTS, build

pytestmark = pytest.mark.cluster

READS, CHANGES = ("get", "list", "watch"), ("create", "patch", "delete")
# Kinds of which the test cluster has no definition.
_FOREIGN = "PodMonitor"
_RBAC = "rbac.authorization.k8s.io/v1"
_LOOKED_AT = (("", "pods"), ("", "nodes"), ("", "events"))


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The base, until the end of the module, but for its pods: there is no image. Returns the folder where it lies."""
    folder, api = tmp_path_factory.mktemp("installed"), control_plane.api
    objects = [one for one in build(control_plane.programs["kubectl"], folder) if one["kind"] != "Deployment"]
    for one in objects:
        api.apply(one)
    wait_for(lambda: can(api, "list", "serving.kserve.io", "inferenceservices"), what="the roles are put together")
    yield folder
    remove(api, objects)


def remove(api: Api, objects: list[dict[str, Any]]) -> None:
    """The namespace stays: it would end some time later, while another test uses it."""
    for one in reversed(objects):
        if one["kind"] != "Namespace":
            api.delete(one)


_RUNTIME = {
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
                "args": ["--port=8080", "--model=/mnt/models"],
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            }
        ],
    },
}
_MODEL = {"modelFormat": {"name": "vLLM"}, "runtime": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
_SERVICE = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "a", "annotations": {"serving.kserve.io/autoscalerClass": "none"}},
    "spec": {"predictor": {"minReplicas": 1, "model": _MODEL}},
}


def placed(objects: list[dict[str, Any]], namespace: str) -> list[dict[str, Any]]:
    """With this namespace as the one of models."""
    for one in objects:
        if one["metadata"].get("namespace") == "models":
            one["metadata"]["namespace"] = namespace
    return objects


def can(api: Api, verb: str, group: str, resource: str, namespace: str = "", subresource: str = "") -> bool:
    """May the daemon's service account do this? In all namespaces unless one is named."""
    asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": {"user": "system:serviceaccount:reconciler:reconciler", "resourceAttributes": asked},
    }
    return bool(api.create(review)["status"]["allowed"])


@pytest.mark.parametrize("component", ["", *COMPONENTS])
def test_api_server_takes_the_base_with_each_component(
    component: str, installed: Path, api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    objects = build(control_plane.programs["kubectl"], tmp_path, [component] if component else [])
    for one in placed(objects, namespace):
        if one["kind"] != _FOREIGN:
            query = {"fieldManager": "tests", "dryRun": "All", "fieldValidation": "Strict"}
            api.request("PATCH", api.path(one), one, "application/apply-patch+yaml", **query)


def test_pods_are_within_what_their_namespace_allows(installed: Path, control_plane: ControlPlane) -> None:
    """It enforces the profile `restricted`; the API server warns of what is beyond it."""
    kubectl, mine = str(control_plane.programs["kubectl"]), str(installed / "mine")
    command = [kubectl, f"--kubeconfig={control_plane.kubeconfig}", "apply", "--server-side", "--dry-run=server", "-k"]
    command += [mine, "--field-manager=tests"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "deployment.apps/reconciler serverside-applied" in done.stdout


def test_daemon_may_do_what_it_does(installed: Path, api: Api) -> None:
    for resource in ("inferenceservices", "servingruntimes", "clusterservingruntimes"):
        assert all(can(api, verb, "serving.kserve.io", resource) for verb in (*READS, *CHANGES))
    for group, resource in (("apps", "deployments"), ("apps", "replicasets"), *_LOOKED_AT):
        assert all(can(api, verb, group, resource) for verb in READS)
    assert can(api, "get", "", "pods", subresource="log")
    own = {"configmaps": (*READS, "create", "patch"), "secrets": (*READS, *CHANGES)}
    assert all(can(api, verb, "", resource, "reconciler") for resource, verbs in own.items() for verb in verbs)
    assert all(can(api, verb, "coordination.k8s.io", "leases", "reconciler") for verb in ("get", "create", "update"))


@pytest.mark.parametrize(
    ("group", "resource"),
    [
        ("", "secrets"),
        ("", "configmaps"),
        ("", "serviceaccounts"),
        ("coordination.k8s.io", "leases"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ],
)
def test_daemon_can_not_touch_what_it_does_not_manage(installed: Path, api: Api, group: str, resource: str) -> None:
    assert not [verb for verb in (*READS, *CHANGES, "update") if can(api, verb, group, resource)]


@pytest.mark.parametrize(("group", "resource"), [*_LOOKED_AT, ("apps", "deployments")])
def test_daemon_changes_nothing_that_it_only_looks_at(installed: Path, api: Api, group: str, resource: str) -> None:
    assert not [verb for verb in (*CHANGES, "update", "deletecollection") if can(api, verb, group, resource)]
    assert not can(api, "create", "", "pods", subresource="exec")


def test_daemon_with_exactly_these_rights_is_refused_nothing(
    installed: Path, control_plane: ControlPlane, namespace: str, kserve: KServe, add_node: AddNode, tmp_path: Path
) -> None:
    """From the first apply over a restored good spec to the deletion."""
    add_node(gpus=2)
    account = control_plane.service_account_kubeconfig("reconciler", "reconciler")
    rig = ClusterRig(
        tmp_path / "rig", control_plane, namespace, {"kubeconfig": str(account), "namespace": "reconciler"}
    )
    control_plane.requests()
    rig.push({"prod/runtime.yaml": yaml.safe_dump(_RUNTIME), "prod/a.yaml": yaml.safe_dump(_SERVICE)})
    assert rig.sync(60)["revision"]["fullyApplied"]
    rig.push({"prod/a.yaml": None, "prod/runtime.yaml": None})
    assert rig.sync(60)["revision"]["fullyApplied"]
    found = control_plane.requests()
    mine = [each for each in found if each.user == "system:serviceaccount:reconciler:reconciler"]
    assert {"patch", "delete", "watch"} <= {each.verb for each in mine}
    assert [each for each in mine if each.code == 403] == []


def test_chosen_namespaces_are_the_only_ones_that_are_changed(
    api: Api, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    objects = build(control_plane.programs["kubectl"], tmp_path, ["chosen-namespaces"])
    objects = [one for one in placed(objects, namespace) if one["kind"] != "Deployment"]
    # What another test had bound is not there any more.
    api.delete({"apiVersion": _RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": "reconciler-write"}})
    for one in objects:
        api.apply(one)
    services = "serving.kserve.io", "inferenceservices"
    wait_for(lambda: can(api, "patch", *services, namespace), what="the roles are put together")
    wait_for(lambda: not can(api, "patch", *services), what="the binding is gone")
    assert can(api, "watch", *services)
    assert not can(api, "patch", *services, "default")
    remove(api, objects)
