"""Objects of kubectl, Argo CD, Flux and Helm become ours: said by the plan first, without an outage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.rig import ClusterRig
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster
APPLY, UPDATE = "Apply", "Update"


@pytest.fixture
def rig(tmp_path: Path, control_plane: ControlPlane, namespace: str) -> ClusterRig:
    return ClusterRig(tmp_path / "rig", control_plane, namespace, {"take_over": True})


def deployment(image: str = "a:1", **metadata: Any) -> dict[str, Any]:
    pod = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    spec = {"replicas": 2, "minReadySeconds": 0, "selector": {"matchLabels": {"app": "web"}}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", **metadata}, "spec": spec}


ARGO = {
    "annotations": {"argocd.argoproj.io/tracking-id": "models:apps/Deployment:x/web"},
    "labels": {"argocd.argoproj.io/instance": "models"},
}
FLUX = {"labels": {"kustomize.toolkit.fluxcd.io/name": "models", "kustomize.toolkit.fluxcd.io/namespace": "flux"}}
HELM = {
    "annotations": {"meta.helm.sh/release-name": "models", "meta.helm.sh/release-namespace": "x"},
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
}


def made_by(rig: ClusterRig, manager: str, how: str, marks: dict[str, Any]) -> dict[str, Any]:
    """A Deployment with a field that git does not have, as another tool has made it."""
    body = deployment(namespace=rig.namespace, **marks)
    body["spec"] |= {"revisionHistoryLimit": 3, "minReadySeconds": 5}
    if how == APPLY:
        return rig.api.apply(body, manager)
    path = rig.api.collection("apps/v1", "Deployment", rig.namespace)
    made: dict[str, Any] = rig.api.request("POST", path, body, fieldManager=manager)
    return made


Tool = tuple[str, str, dict[str, Any], str]
TOOLS: list[Tool] = [
    ("argocd-controller", APPLY, ARGO, "Argo CD application models"),
    ("argocd-controller", UPDATE, ARGO, "Argo CD application models"),
    ("kustomize-controller", APPLY, FLUX, "Flux Kustomization models"),
    ("helm", UPDATE, HELM, "Helm release models"),
    ("kubectl-client-side-apply", UPDATE, {}, "kubectl apply"),
    ("kubectl", APPLY, {}, "kubectl apply --server-side"),
]


@pytest.mark.parametrize(("manager", "how", "marks", "owner"), TOOLS)
def test_take_over_is_planned_and_then_follows_git(rig: ClusterRig, manager, how, marks, owner: str) -> None:
    made = made_by(rig, manager, how, marks)
    rig.push({"prod/web.yaml": yaml.safe_dump(deployment())})

    (shown,) = rig.plan()["objects"]
    assert shown["change"] == "take over"
    assert owner in shown["why"]
    assert {"spec.revisionHistoryLimit: 3 → (none)", "spec.minReadySeconds: 5 → 0"} <= set(shown["differences"])
    assert not shown["reasons"]
    assert rig.api.get(made)["metadata"].get("labels", {}) == marks.get("labels", {})

    rig.sync()
    there = rig.api.get(made)
    marked = {*marks.get("labels", {}), *marks.get("annotations", {})}
    assert not marked & {*there["metadata"].get("labels", {}), *there["metadata"].get("annotations", {})}
    assert there["spec"]["revisionHistoryLimit"] == 10
    assert there["metadata"]["uid"] == made["metadata"]["uid"]
    assert there["spec"]["template"] == made["spec"]["template"]

    # What they owned is no conflict later, and a sync without news writes nothing.
    rig.writes()
    rig.sync()
    assert rig.writes() == []
    rig.push({"prod/web.yaml": yaml.safe_dump(deployment("a:2"))})
    rig.sync()
    assert rig.api.get(made)["spec"]["template"]["spec"]["containers"][0]["image"] == "a:2"


def test_take_over_waits_until_git_or_the_config_says_so(rig: ClusterRig) -> None:
    made = made_by(rig, "helm", UPDATE, HELM)
    rig.write_config(take_over=False)
    rig.push({"prod/web.yaml": yaml.safe_dump(deployment())})
    rig.sync()
    assert rig.api.get(made)["metadata"]["labels"] == HELM["labels"]
    rig.push({"prod/web.yaml": yaml.safe_dump(deployment(annotations={"reconciler/take-over": "true"}))})
    rig.sync()
    assert not HELM["labels"].keys() & rig.api.get(made)["metadata"]["labels"].keys()


def test_take_over_leaves_replicas_to_the_autoscaler(rig: ClusterRig) -> None:
    made = made_by(rig, "kustomize-controller", APPLY, FLUX)
    rig.api.patch(made, {"spec": {"replicas": 5}}, "scale", "kube-controller-manager")
    rig.push({"prod/web.yaml": yaml.safe_dump(deployment())})
    rig.sync()
    assert rig.api.get(made)["spec"]["replicas"] == 5


def test_taken_over_object_is_pruned_like_all_that_is_ours(rig: ClusterRig) -> None:
    made = made_by(rig, "kubectl-client-side-apply", UPDATE, {})
    rig.push({"prod/web.yaml": yaml.safe_dump(deployment())})
    rig.sync()
    rig.push({"prod/web.yaml": None})
    rig.sync()
    assert rig.api.find(made) is None
