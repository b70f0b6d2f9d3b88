"""Passes over a real API server: apply, nothing to do, drift, prune, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.forge.plan_comment import plan_section
from reconciler.loop.once import preview
from reconciler.report.planned import plan_document
from tests.cluster.rig import ClusterRig, config_map
from tests.controlplane.api import ApiError
from tests.controlplane.control_plane import ControlPlane
from tests.support.secret_files import age_key, encrypt

pytestmark = pytest.mark.cluster
MakeRig = Callable[..., ClusterRig]


@pytest.fixture
def make_cluster(tmp_path: Path, control_plane: ControlPlane, namespace: str) -> MakeRig:
    def make(**target: Any) -> ClusterRig:
        return ClusterRig(tmp_path / "rig", control_plane, namespace, target)

    return make


def _config_map(rig: ClusterRig, name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": rig.namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def test_objects_in_git_are_applied_and_a_second_sync_writes_nothing(make_cluster: MakeRig):
    rig = make_cluster()
    rig.push({"prod/a.yaml": config_map("a", x="1"), "prod/b.yaml": config_map("b", y="2")})
    assert rig.changes() == {"ConfigMap/a": "create", "ConfigMap/b": "create"}

    status = rig.sync()

    assert status["revision"]["fullyApplied"]
    assert rig.api.get(_config_map(rig, "a"))["data"] == {"x": "1"}
    rig.writes()
    rig.sync()
    assert rig.writes() == []
    assert rig.changes() == {}


def test_drift_is_shown_and_repaired_and_a_field_of_others_stays(make_cluster: MakeRig):
    rig = make_cluster()
    rig.push({"prod/a.yaml": config_map("a", x="1")})
    rig.sync()
    rig.api.patch(_config_map(rig, "a"), {"data": {"x": "9", "theirs": "7"}}, manager="kubectl-edit")

    (shown,) = rig.plan()["objects"]
    assert shown["change"] == "repair"
    assert "kubectl-edit changed data.x" in shown["why"] or "kubectl edit changed data.x" in shown["why"]
    assert shown["differences"] == ["data.x: 9 → 1"]

    rig.sync()
    assert rig.api.get(_config_map(rig, "a"))["data"] == {"x": "1", "theirs": "7"}


def test_field_that_another_tool_applies_is_a_conflict_at_its_line(make_cluster: MakeRig):
    rig = make_cluster()
    rig.api.apply({**_config_map(rig, "a"), "data": {"x": "theirs"}}, manager="other-tool")
    rig.push({"prod/a.yaml": "# first\n" + config_map("a", x="ours")})
    rig.write_config(take_over=True)

    status = rig.sync()

    (held,) = status["targets"][0]["revision"]["heldUpBy"]
    assert held["code"] == "FieldConflict"
    assert (held["file"], held["line"]) == ("prod/a.yaml", 4)
    assert "other-tool" in held["message"]
    assert rig.api.get(_config_map(rig, "a"))["data"] == {"x": "theirs"}

    forced = yaml.safe_load(config_map("a", x="ours"))
    forced["metadata"]["annotations"] = {"reconciler/force-conflicts": "true"}
    rig.push({"prod/a.yaml": yaml.safe_dump(forced)})
    assert rig.sync()["revision"]["fullyApplied"]
    assert rig.api.get(_config_map(rig, "a"))["data"] == {"x": "ours"}


def test_object_that_others_made_is_taken_over_only_when_git_says_so(make_cluster: MakeRig):
    rig = make_cluster()
    rig.api.apply({**_config_map(rig, "a"), "data": {"theirs": "1"}}, manager="argocd-controller")
    rig.push({"prod/a.yaml": config_map("a", x="1")})

    (held,) = rig.sync()["targets"][0]["revision"]["heldUpBy"]
    assert held["code"] == "NotOurs"
    assert "Argo CD" in held["message"]
    assert rig.api.get(_config_map(rig, "a"))["data"] == {"theirs": "1"}

    mine = yaml.safe_load(config_map("a", x="1"))
    mine["metadata"]["annotations"] = {"reconciler/take-over": "true"}
    rig.push({"prod/a.yaml": yaml.safe_dump(mine)})
    assert rig.changes() == {"ConfigMap/a": "take over"}
    assert rig.sync()["revision"]["fullyApplied"]
    # What the other tool had from its git is ours now, and git does not have it.
    assert rig.api.get(_config_map(rig, "a"))["data"] == {"x": "1"}


def test_object_that_git_drops_is_deleted_and_others_are_not(make_cluster: MakeRig):
    rig = make_cluster()
    rig.api.create({**_config_map(rig, "theirs"), "data": {"x": "1"}})
    rig.push({"prod/a.yaml": config_map("a", x="1"), "prod/b.yaml": config_map("b", x="1")})
    rig.sync()
    rig.push({"prod/b.yaml": None})
    assert rig.changes() == {"ConfigMap/b": "delete"}

    assert rig.sync()["revision"]["fullyApplied"]

    assert rig.api.find(_config_map(rig, "b")) is None
    assert rig.api.find(_config_map(rig, "a")) is not None
    assert rig.api.find(_config_map(rig, "theirs")) is not None


def test_objects_that_git_drops_go_in_reverse_order(make_cluster: MakeRig):
    rig = make_cluster()
    later = yaml.safe_load(config_map("later", x="1"))
    later["metadata"] |= {"finalizers": ["example.com/drains"], "annotations": {"argocd.argoproj.io/sync-wave": "1"}}
    rig.push({"prod/a.yaml": config_map("a", x="1"), "prod/later.yaml": yaml.safe_dump(later)})
    rig.sync()
    rig.push({"prod/a.yaml": None, "prod/later.yaml": None})

    rig.sync(3)
    assert rig.api.find(_config_map(rig, "a")) is not None
    waiting = {one["name"]: one["why"] for one in rig.plan()["objects"]}
    assert "it goes once ConfigMap" in waiting["a"]
    assert "finalizer example.com/drains" in waiting["later"]

    rig.api.patch(_config_map(rig, "later"), {"metadata": {"finalizers": None}})
    rig.sync()
    assert rig.api.find(_config_map(rig, "a")) is None


def _secret(rig: ClusterRig, *recipients: str, **data: str) -> str:
    metadata = {"name": "token", "namespace": rig.namespace}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
    return encrypt(yaml.safe_dump(body), *recipients)


def test_encrypted_secret_is_applied_and_compared_without_its_value(make_cluster: MakeRig, tmp_path: Path):
    recipient = age_key(tmp_path / "age.key")
    rig = make_cluster(secrets={"age_key_file": str(tmp_path / "age.key")})
    rig.push({"prod/token.yaml": _secret(rig, recipient, token="first")})
    rig.sync()
    there = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": rig.namespace}}
    assert rig.api.get(there)["data"] == {"token": "Zmlyc3Q="}
    rig.writes()
    rig.sync()
    assert rig.writes() == []

    rig.push({"prod/token.yaml": _secret(rig, recipient, token="second")})
    (shown,) = rig.plan()["objects"]
    assert shown["differences"] == ["data.token: *** → ***"]
    rig.sync()
    assert rig.api.get(there)["data"] == {"token": "c2Vjb25k"}

    rig.api.patch(there, {"stringData": {"token": "edited"}}, manager="kubectl-edit")
    assert rig.changes() == {"Secret/token": "repair"}
    rig.sync()
    assert rig.api.get(there)["data"] == {"token": "c2Vjb25k"}


def test_proposed_revision_is_planned_without_opening_its_secrets(make_cluster: MakeRig, tmp_path: Path):
    recipient = age_key(tmp_path / "age.key")
    rig = make_cluster(secrets={"age_key_file": str(tmp_path / "age.key")})
    rig.push({"prod/token.yaml": _secret(rig, recipient, token="first"), "prod/a.yaml": config_map("a", x="1")})
    rig.sync()
    rig.writes()
    proposed = rig.push({"prod/a.yaml": config_map("a", x="2"), "prod/b.yaml": config_map("b", y="3")})
    (tmp_path / "age.key").unlink()

    found = preview(rig.settings, None, proposed, lambda _: None, is_proposed=True)
    (target,) = plan_document(found.status, found.plans)["targets"]

    assert {one["name"]: one["change"] for one in target["objects"]} == {"a": "change", "b": "create"}
    text = plan_section(target, 7).text
    assert "1 object changed, 1 object created" in text
    assert "data.x: 1 → 2" in text
    # Asked by a dry run, with nothing in place of the Secret's values.
    ours = [one for one in rig.plane.requests() if one.user_agent.startswith("reconciler")]
    assert {f"{one.resource}/{one.name}" for one in ours if one.dry_run} == {"configmaps/a", "configmaps/b"}
    assert not [one for one in ours if one.writes and not one.dry_run]
    assert rig.api.get(_config_map(rig, "a"))["data"] == {"x": "1"}


def test_secret_in_git_without_encryption_is_not_applied_and_not_pruned(make_cluster: MakeRig, tmp_path: Path):
    recipient = age_key(tmp_path / "age.key")
    rig = make_cluster(secrets={"age_key_file": str(tmp_path / "age.key")})
    rig.push({"prod/token.yaml": _secret(rig, recipient, token="first")})
    rig.sync()

    metadata = {"name": "token", "namespace": rig.namespace}
    plain = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": "open"}}
    rig.push({"prod/token.yaml": yaml.safe_dump(plain)})
    (shown,) = rig.sync()["targets"][0]["objects"]
    assert (shown["change"], [one["code"] for one in shown["reasons"]]) == ("keep", ["PlaintextSecret"])
    assert rig.api.get(plain)["data"] == {"token": "Zmlyc3Q="}

    rig.write_config(secrets={"allow_plaintext": True})
    assert rig.sync()["revision"]["fullyApplied"]
    assert rig.api.get(plain)["data"] == {"token": "b3Blbg=="}


def test_missing_cluster_file_and_unreadable_documents_prune_nothing(make_cluster: MakeRig):
    rig = make_cluster()
    rig.push({"prod/a.yaml": config_map("a", x="1"), "prod/b.yaml": config_map("b", x="1")})
    rig.sync()

    rig.push({"prod/a.yaml": "kind: ConfigMap\n  oops: [", "prod/b.yaml": None})
    rig.sync()
    rig.push({"prod/cluster.yaml": None, "prod/a.yaml": None})
    rig.sync()

    assert rig.api.find(_config_map(rig, "a")) is not None
    assert rig.api.find(_config_map(rig, "b")) is not None


def test_much_deletion_at_once_waits_for_an_approval(make_cluster: MakeRig):
    rig = make_cluster(prune={"max_services": 2})
    rig.push({f"prod/{name}.yaml": config_map(name, x="1") for name in "abcdef"})
    rig.sync()
    rig.push({f"prod/{name}.yaml": None for name in "abcd"})

    status = rig.sync()

    held = status["targets"][0]["deletions"]["held"]
    assert len(held["subjects"]) == 4
    assert all(rig.api.find(_config_map(rig, name)) for name in "abcd")

    rig.push({"prod/e.yaml": config_map("e", x="2")}, "Really", f"Reconciler-Approve: {held['hash']}")
    rig.sync()
    assert not any(rig.api.find(_config_map(rig, name)) for name in "abcd")


def test_object_of_a_kind_that_comes_later_waits_and_is_applied_then(make_cluster: MakeRig):
    rig = make_cluster()
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "latecomers.example.com"},
        "spec": {
            "group": "example.com",
            "names": {"kind": "Latecomer", "plural": "latecomers"},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }
    late = {"apiVersion": "example.com/v1", "kind": "Latecomer", "metadata": {"name": "x"}, "spec": {"size": 1}}
    rig.push({"prod/late.yaml": yaml.safe_dump(late), "prod/a.yaml": config_map("a", x="1")})
    assert rig.changes() == {"ConfigMap/a": "create", "Latecomer/x": "wait"}
    try:
        rig.push({"prod/crd.yaml": yaml.safe_dump(crd)})
        assert rig.sync()["revision"]["fullyApplied"]
        late["metadata"] = {"name": "x", "namespace": rig.namespace}
        assert rig.api.get(late)["spec"] == {"size": 1}
    finally:
        rig.api.delete(crd)


def test_object_that_the_api_server_refuses_is_an_error_at_its_line(make_cluster: MakeRig):
    rig = make_cluster()
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 99999999}], "selector": {"a": "b"}},
    }
    rig.push({"prod/s.yaml": yaml.safe_dump(service, sort_keys=False), "prod/a.yaml": config_map("a", x="1")})

    (planned,) = [one for one in rig.plan()["objects"] if one["name"] == "s"]
    assert {(one["file"], one["line"]) for one in planned["reasons"]} == {("prod/s.yaml", 7)}, planned

    status = rig.sync(10)

    error = status["targets"][0]["lastError"] or str(status["targets"][0]["lastFailure"])
    assert "prod/s.yaml:7" in error
    assert rig.api.find(_config_map(rig, "a")) is not None
    with pytest.raises(ApiError):
        rig.api.get({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": rig.namespace}})


def test_object_in_an_older_version_of_its_kind_stays_in_sync(make_cluster: MakeRig):
    rig = make_cluster()
    scaler = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"},
            "maxReplicas": 2,
            "targetCPUUtilizationPercentage": 50,
        },
    }
    rig.push({"prod/a.yaml": yaml.safe_dump(scaler)})
    rig.sync()
    rig.writes()
    place = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
    metadata = {"name": "a", "namespace": rig.namespace}
    rig.api.patch(place | {"metadata": metadata}, {"status": {"desiredReplicas": 1}}, subresource="status")
    rig.sync()
    assert rig.writes() == []
