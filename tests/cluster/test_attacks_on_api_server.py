"""What a push and an extension of the API server can break of others, on a real control plane."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cluster.rig import ClusterRig
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture
def rig(tmp_path: Path, control_plane: ControlPlane, namespace: str) -> ClusterRig:
    return ClusterRig(tmp_path / "rig", control_plane, namespace)


def config_map(name: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{x: '1'}}\n"


def autoscaler(name: str, version: str) -> str:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}
    body = {
        "apiVersion": f"autoscaling/{version}",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {"maxReplicas": 2, "scaleTargetRef": target},
    }
    return yaml.safe_dump(body)


def test_extension_that_is_down_stops_only_its_own_objects(rig: ClusterRig):
    group = f"{rig.namespace}.example.com"
    down = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1.{group}"},
        "spec": {
            "group": group,
            "version": "v1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"namespace": rig.namespace, "name": "nobody"},
        },
    }
    rig.api.create(down)
    try:
        odd = f"apiVersion: {group}/v1\nkind: Odd\nmetadata: {{name: o}}\n"
        rig.push({"prod/odd.yaml": odd, "prod/a.yaml": config_map("a")})
        rig.sync(5)
        metadata = {"name": "a", "namespace": rig.namespace}
        assert rig.api.get({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})["data"] == {"x": "1"}
    finally:
        rig.api.delete(down)


def test_version_that_is_not_served_hides_nothing_of_its_kind(rig: ClusterRig):
    rig.push({"prod/a.yaml": autoscaler("a", "v2"), "prod/b.yaml": autoscaler("b", "v2")})
    rig.sync()
    rig.push({"prod/a.yaml": autoscaler("a", "v9"), "prod/b.yaml": None})
    rig.sync(5)
    # It is held up by `a`, and not forgotten.
    assert rig.changes()["HorizontalPodAutoscaler/b"] == "delete"


def test_namespace_of_a_kind_without_one_takes_nothing_over(rig: ClusterRig):
    theirs = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": f"{rig.namespace}-theirs"},
        "value": 7,
    }
    rig.api.create(theirs)
    ours = theirs | {"metadata": {**theirs["metadata"], "namespace": rig.namespace, "labels": {"pushed": "true"}}}
    rig.push({"prod/p.yaml": yaml.safe_dump(ours)})
    rig.sync(5)
    assert "pushed" not in (rig.api.get(theirs)["metadata"].get("labels") or {})
    (said,) = rig.plan()["objects"]
    assert (said["namespace"], [reason["code"] for reason in said["reasons"]]) == ("", ["NotOurs"])
    rig.api.delete(theirs)
