"""What a real API server does to what we apply, and what others do to it, is understood."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from reconciler.cluster.api.trimming import trimmed
from reconciler.cluster.objects.compare import Changed, Drifted, InSync, TakeOver, Unconfirmed, applied, compare
from reconciler.cluster.objects.differences import FieldChange
from reconciler.cluster.objects.ignore import NO_RULES, IgnoreRule, Rules, applied_body
from reconciler.cluster.objects.inventory import ClusterInventory, Member, inventory_body, read_inventory
from reconciler.cluster.objects.owners import taken_over
from reconciler.cluster.objects.paths import parse_path
from reconciler.model import DesiredObject, KubeObject, ObjectId
from tests.cluster.objects.parts import desired
from tests.controlplane.api import Api, ApiError, Object, wait_for
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

POD = {
    "containers": [
        {
            "name": "c",
            "image": "a:1",
            "args": ["--port", "8080"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}],
            "ports": [{"containerPort": 53, "protocol": "UDP", "name": "b"}, {"containerPort": 53, "name": "a"}],
            "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"nvidia.com/gpu": 1}},
            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        }
    ],
    "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "2048Mi"}}, {"name": "empty", "emptyDir": {}}],
    "nodeSelector": {"gpu": "yes"},
    "securityContext": {},
}
DEPLOYMENT: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"a.b/c": "1"}},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": POD},
    },
}
SERVICE: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "name": "b"}]},
}
SERVICE["spec"]["ports"][0]["name"] = "a"
CONFIG: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"a": "1", "b": ""}}
SECRET: Object = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "web"},
    "stringData": {"token": "t"},
    "data": {"key": "eA=="},
}
CLAIM: Object = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "web"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1024Gi"}}},
}
ROLE: Object = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "web"},
    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
}
POLICY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "web"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]},
}
INFERENCE_SERVICE: Object = {
    "apiVersion": "serving.example.com/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "web"},
    "spec": {
        "predictor": {
            "minReplicas": 1,
            "model": {
                "modelFormat": {"name": "vllm"},
                "args": ["--max-model-len=4096"],
                "resources": {"limits": {"cpu": 1, "memory": "1024Mi"}},
            },
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        }
    },
}
KINDS = [DEPLOYMENT, SERVICE, CONFIG, SECRET, CLAIM, ROLE, POLICY, INFERENCE_SERVICE]
OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
MODEL = {**OPEN, "properties": {"protocol": {"type": "string", "default": "v1"}}}
PREDICTOR = {**OPEN, "properties": {"minReplicas": {"type": "integer"}, "model": MODEL}}
SCHEMA = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"predictor": PREDICTOR}}}}
CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "inferenceservices.serving.example.com"},
    "spec": {
        "group": "serving.example.com",
        "scope": "Namespaced",
        "names": {"kind": "InferenceService", "plural": "inferenceservices"},
        "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": SCHEMA}}],
    },
}


@pytest.fixture(scope="module")
def crd(control_plane: ControlPlane) -> None:
    """A kind that is partly typed and partly not, as KServe's are."""
    api = control_plane.api
    api.apply(CRD)
    probe = {"apiVersion": "serving.example.com/v1beta1", "kind": "InferenceService"}

    def is_served() -> bool:
        try:
            return api.list(probe["apiVersion"], probe["kind"]) == []
        except (ApiError, KeyError):
            return False

    wait_for(is_served, what="the CRD is served")


@pytest.fixture
def in_git(namespace: str, crd: None) -> Callable[..., DesiredObject]:
    """An object of git's in the test's namespace; `change` is merged into it."""

    def made(body: Object, change: Object | None = None) -> DesiredObject:
        found = _merged(copy.deepcopy(body), change or {})
        return desired(_merged(found, {"metadata": {"namespace": namespace}}))

    return made


def _merged(one: Object, other: Object) -> Object:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(one.get(key), dict):
            _merged(one[key], value)
        elif value is None:
            one.pop(key, None)
        else:
            one[key] = value
    return one


def seen(api: Api, want: DesiredObject) -> KubeObject:
    """As the wing sees it."""
    return trimmed(api.get(want.body))


def apply(api: Api, want: DesiredObject, rules: Rules = NO_RULES, force: bool = False) -> Any:
    """What is remembered of an apply."""
    there = api.find(want.body)
    answer = api.apply(dict(applied_body(want, there and trimmed(there), rules)), "reconciler", force)
    return applied(want, trimmed(answer), rules)


each_kind = pytest.mark.parametrize("body", KINDS, ids=lambda body: body["kind"])


@each_kind
def test_applied_object_is_in_sync(api: Api, in_git, body: Object) -> None:
    want = in_git(body)
    remembered = apply(api, want)
    there = seen(api, want)
    found = compare(want, there, remembered, NO_RULES)
    assert isinstance(found, InSync)
    assert compare(want, there, None, NO_RULES) == Unconfirmed()
    assert compare(want, there, applied(want, there, NO_RULES), NO_RULES) == InSync(applied(want, there, NO_RULES))
    # The apply that settles it writes nothing.
    again = apply(api, want)
    assert again.projection == remembered.projection
    assert isinstance(compare(want, seen(api, want), again, NO_RULES), InSync)


EDITS = [
    (DEPLOYMENT, {"spec": {"replicas": 3}}, "spec.replicas"),
    (DEPLOYMENT, {"metadata": {"labels": {"app": "x"}}}, "metadata.labels.app"),
    (DEPLOYMENT, {"metadata": {"annotations": {"a.b/c": "2"}}}, "metadata.annotations.a.b/c"),
    (DEPLOYMENT, {"spec": {"template": {"spec": {"nodeSelector": {"more": "x"}}}}}, "spec.template.spec.nodeSelector"),
    (SERVICE, {"spec": {"selector": {"app": "x"}}}, "spec.selector"),
    (CONFIG, {"data": {"a": "2"}}, "data.a"),
    (SECRET, {"data": {"token": "eQ=="}}, "data.token"),
    (SECRET, {"stringData": {"token": "y"}}, "data.token"),
    (ROLE, {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]}, "rules"),
    (POLICY, {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}, "spec.podSelector"),
    (INFERENCE_SERVICE, {"spec": {"predictor": {"minReplicas": 0}}}, "spec.predictor.minReplicas"),
    (INFERENCE_SERVICE, {"spec": {"predictor": {"model": {"args": ["--x", "y"]}}}}, "spec.predictor.model.args"),
    (
        INFERENCE_SERVICE,
        {"spec": {"predictor": {"model": {"resources": {"limits": {"cpu": 2}}}}}},
        "spec.predictor.model.resources.limits.cpu",
    ),
]


@pytest.mark.parametrize(("body", "edit", "path"), EDITS)
def test_edit_of_our_field_is_drift_and_is_repaired(api: Api, in_git, body: Object, edit: Object, path: str) -> None:
    want = in_git(body)
    remembered = apply(api, want)
    api.patch(want.body, edit, manager="kubectl-edit")
    found = compare(want, seen(api, want), remembered, NO_RULES)
    assert isinstance(found, Drifted)
    assert found.force
    [change] = found.changes
    assert (change.path.startswith(path), change.manager) == (True, "kubectl-edit")
    repaired = apply(api, want, force=True)
    assert isinstance(compare(want, seen(api, want), repaired, NO_RULES), InSync)
    assert repaired.projection == remembered.projection


@pytest.mark.parametrize(
    ("body", "edit"),
    [
        (DEPLOYMENT, {"metadata": {"labels": {"more": "x"}, "annotations": {"more": "x"}}}),
        (DEPLOYMENT, {"spec": {"template": {"spec": {"priorityClassName": "", "hostNetwork": False}}}}),
        (DEPLOYMENT, {"spec": {"paused": True}}),
        (CONFIG, {"data": {"c": "3"}}),
        (SECRET, {"data": {"more": "eQ=="}}),
        (SERVICE, {"spec": {"sessionAffinity": "ClientIP"}}),
        (INFERENCE_SERVICE, {"spec": {"predictor": {"maxReplicas": 3, "model": {"protocol": "v2"}}}}),
    ],
)
def test_edit_of_other_fields_is_no_drift(api: Api, in_git, body: Object, edit: Object) -> None:
    want = in_git(body)
    remembered = apply(api, want)
    api.patch(want.body, edit, manager="kubectl-edit")
    assert isinstance(compare(want, seen(api, want), remembered, NO_RULES), InSync)


def test_container_that_others_add_is_no_drift(api: Api, in_git) -> None:
    want = in_git(DEPLOYMENT)
    remembered = apply(api, want)
    sidecar = {"spec": {"template": {"spec": {"containers": [{"name": "sidecar", "image": "b:1"}]}}}}
    api.request(
        "PATCH", api.path(want.body), sidecar, "application/strategic-merge-patch+json", fieldManager="injector"
    )
    assert len(seen(api, want)["spec"]["template"]["spec"]["containers"]) == 2
    assert isinstance(compare(want, seen(api, want), remembered, NO_RULES), InSync)


@pytest.mark.parametrize(
    ("body", "path"), [(CONFIG, ("data", "a")), (DEPLOYMENT, ("metadata", "annotations", "a.b/c"))]
)
def test_field_that_others_remove_is_drift(api: Api, in_git, body: Object, path: tuple[str, ...]) -> None:
    want = in_git(body)
    remembered = apply(api, want)
    change: Any = None
    for name in reversed(path):
        change = {name: change}
    api.patch(want.body, change, manager="kubectl-edit")
    found = compare(want, seen(api, want), remembered, NO_RULES)
    assert isinstance(found, Drifted)
    assert found.changes[0].path in (".".join(path), ".".join(path[:-1]))
    repaired = apply(api, want)
    assert isinstance(compare(want, seen(api, want), repaired, NO_RULES), InSync)


def test_field_that_git_removes_is_a_change_and_goes(api: Api, in_git) -> None:
    remembered = apply(api, in_git(DEPLOYMENT))
    after = in_git(DEPLOYMENT, {"metadata": {"annotations": None}, "spec": {"strategy": None}})
    found = compare(after, seen(api, after), remembered, NO_RULES)
    assert isinstance(found, Changed)
    assert {each.path.split(".")[1] for each in found.changes} == {"annotations", "strategy"}
    repaired = apply(api, after)
    assert isinstance(compare(after, seen(api, after), repaired, NO_RULES), InSync)
    assert "a.b/c" not in seen(api, after)["metadata"].get("annotations", {})


def test_field_of_who_applies_is_a_conflict_that_is_not_forced(api: Api, in_git) -> None:
    want = in_git(CONFIG)
    remembered = apply(api, want)
    other = in_git(CONFIG, {"data": {"a": "2", "b": None}})
    api.apply(dict(other.body), "argocd-controller", force=True)
    found = compare(want, seen(api, want), remembered, NO_RULES)
    assert found == Drifted((FieldChange("data.a", "2", "1", "argocd-controller", True),), force=False)
    with pytest.raises(ApiError) as caught:
        apply(api, want)
    assert caught.value.code == 409
    assert "argocd-controller" in caught.value.message


def test_replicas_of_an_autoscaler_are_left_alone(api: Api, in_git) -> None:
    want = in_git(DEPLOYMENT)
    remembered = apply(api, want)
    api.patch(want.body, {"spec": {"replicas": 4}}, "scale", "kube-controller-manager")
    assert compare(want, seen(api, want), remembered, NO_RULES) == Unconfirmed()
    settled = apply(api, want)
    assert seen(api, want)["spec"]["replicas"] == 4
    assert isinstance(compare(want, seen(api, want), settled, NO_RULES), InSync)
    api.patch(want.body, {"spec": {"replicas": 5}}, "scale", "kube-controller-manager")
    assert isinstance(compare(want, seen(api, want), settled, NO_RULES), InSync)


def test_ignored_field_keeps_its_value_through_changes_of_git(api: Api, in_git) -> None:
    rules = Rules((IgnoreRule((parse_path("spec.replicas"),)),))
    apply(api, in_git(DEPLOYMENT), rules)
    after = in_git(DEPLOYMENT, {"spec": {"replicas": 9, "minReadySeconds": 5}})
    settled = apply(api, after, rules)
    assert seen(api, after)["spec"]["replicas"] == 1
    assert isinstance(compare(after, seen(api, after), settled, rules), InSync)


# ---------------------------------------------------------------- take-over


def kubectl(plane: ControlPlane, *words: str, **body: Any) -> str:
    argv = [str(plane.programs["kubectl"]), "--kubeconfig", str(plane.kubeconfig), *words]
    environment = {**os.environ, "KUBECTL_APPLYSET": "true"}
    given = json.dumps(body["body"]) if body else ""
    done = subprocess.run(argv, input=given, capture_output=True, text=True, env=environment, timeout=60, check=False)
    return done.stdout + done.stderr


def take_over(api: Api, want: DesiredObject) -> Any:
    """As the wing does it; tried again where a controller was faster."""

    def is_ours() -> bool:
        there = seen(api, want)
        metadata = {"managedFields": taken_over(there), "resourceVersion": there["metadata"]["resourceVersion"]}
        try:
            api.patch(want.body, {"metadata": metadata}, manager="reconciler")
        except ApiError as error:
            if error.code != 409:
                raise
            return False
        return True

    wait_for(is_ours, what="the object is ours")
    return apply(api, want)


def owners_after(api: Api, want: DesiredObject) -> set[str]:
    return {each["manager"] for each in api.get(want.body)["metadata"]["managedFields"] if not each.get("subresource")}


def test_take_over_from_kubectl_apply_leaves_nothing_behind(control_plane: ControlPlane, api: Api, in_git) -> None:
    before, want = in_git(CONFIG, {"data": {"old": "x"}}), in_git(CONFIG)
    kubectl(control_plane, "apply", "-f", "-", body=dict(before.body))
    found = compare(want, seen(api, want), None, NO_RULES)
    assert isinstance(found, TakeOver)
    assert found.owners == ("kubectl apply",)
    assert [each.path for each in found.changes if each.after is None] == [LAST_APPLIED, "data.old"]
    remembered = take_over(api, want)
    there = seen(api, want)
    assert (there["data"], there["metadata"].get("annotations")) == (CONFIG["data"], None)
    assert owners_after(api, want) == {"reconciler"}
    assert isinstance(compare(want, there, remembered, NO_RULES), InSync)


LAST_APPLIED = "metadata.annotations.kubectl.kubernetes.io/last-applied-configuration"
ARGO = {"annotations": {"argocd.argoproj.io/tracking-id": "models:apps/Deployment:x/web"}}
FLUX = {"labels": {"kustomize.toolkit.fluxcd.io/name": "models", "kustomize.toolkit.fluxcd.io/namespace": "flux"}}


@pytest.mark.parametrize(
    ("manager", "marks", "owner"),
    [
        ("argocd-controller", ARGO, "Argo CD application models"),
        ("kustomize-controller", FLUX, "Flux Kustomization models"),
    ],
)
def test_take_over_from_other_tools_keeps_the_pods(api: Api, in_git, manager: str, marks: Object, owner: str) -> None:
    api.apply(dict(in_git(DEPLOYMENT, {"metadata": marks}).body), manager)
    want = in_git(DEPLOYMENT)
    api.patch(want.body, {"spec": {"replicas": 4}}, "scale", "kube-controller-manager")
    spec = seen(api, want)["spec"]
    found = compare(want, seen(api, want), None, NO_RULES)
    assert isinstance(found, TakeOver)
    assert found.owners == (owner,)
    assert {each.path.split(".")[1] for each in found.changes} == marks.keys()
    remembered = take_over(api, want)
    there = seen(api, want)
    assert isinstance(compare(want, there, remembered, NO_RULES), InSync)
    assert there["spec"] == spec
    assert spec["replicas"] == 4
    assert manager not in owners_after(api, want)
    assert not {**marks.get("labels", {}), **marks.get("annotations", {})}.keys() & {
        *there["metadata"].get("labels", {}),
        *there["metadata"].get("annotations", {}),
    }


# ---------------------------------------------------------------- inventory


@pytest.fixture
def inventory(namespace: str) -> ClusterInventory:
    members = {ObjectId("", "ConfigMap", namespace, "web"): Member("u1", "web.yaml", "hash")}
    return ClusterInventory("inventory", namespace, "prod", members)


def test_inventory_on_the_cluster_is_read_as_written(api: Api, inventory: ClusterInventory) -> None:
    made = trimmed(api.apply(dict(inventory_body(inventory)), "reconciler"))
    again = read_inventory(inventory.name, inventory.namespace, "prod", made)
    assert again.members == inventory.members
    api.apply(dict(inventory_body(again)), "reconciler")
    api.patch(made, {"metadata": {"labels": {"touched": "yes"}}})
    # Another daemon was faster: the API server refuses what was read before.
    with pytest.raises(ApiError, match="409 Conflict"):
        api.apply(dict(inventory_body(again)), "reconciler")


def test_inventory_is_known_to_kubectl_as_another_tools_applyset(control_plane, api, in_git, inventory) -> None:
    api.apply(dict(inventory_body(inventory)), "reconciler")
    words = ("apply", "-n", inventory.namespace, "--prune", "--applyset=configmap/inventory", "-f", "-")
    said = kubectl(control_plane, *words, body=dict(in_git(CONFIG).body))
    assert 'already exists and is managed by tooling "reconciler"' in said


def test_inventory_handed_to_kubectl_prunes_exactly_its_members(control_plane, api, in_git, inventory) -> None:
    rules = Rules(applyset=inventory.applyset)
    for name in ("web", "old"):
        apply(api, in_git(CONFIG, {"metadata": {"name": name}}), rules)
    apply(api, in_git(CONFIG, {"metadata": {"name": "foreign"}}))
    body = copy.deepcopy(dict(inventory_body(inventory)))
    body["metadata"]["annotations"]["applyset.kubernetes.io/tooling"] = "kubectl/v1.36"
    api.apply(body, "reconciler")
    words = ("apply", "-n", inventory.namespace, "--prune", "--applyset=configmap/inventory", "-f", "-")
    said = kubectl(control_plane, *words, body=dict(in_git(CONFIG).body))
    left = {each["metadata"]["name"] for each in api.list("v1", "ConfigMap", inventory.namespace)}
    assert left - {"kube-root-ca.crt"} == {"web", "foreign", "inventory"}, said
