"""Objects that an API server refuses, keeps, or has in other versions: one clear error each, and the rest goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import yaml

from tests.cluster.daemon_rig import DaemonRig, running
from tests.cluster.rig import config_map
from tests.controlplane.api import ApiError, Object
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane, namespace: str) -> Iterator[DaemonRig]:
    """A daemon that has applied two ConfigMaps."""
    rig = DaemonRig(tmp_path_factory.mktemp("daemon") / "rig", control_plane, namespace)
    rig.push({"prod/a.yaml": config_map("a", x="1"), "prod/b.yaml": config_map("b", x="1")})
    with running(rig):
        rig.converge()
        yield rig


def _text(**body: object) -> str:
    return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", **body}, sort_keys=False)


def test_objects_that_cannot_be_applied_are_told_at_their_lines(rig: DaemonRig):
    hpa = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}},
    }
    rig.push(
        {
            "prod/name.yaml": _text(metadata={"name": "Bad_Name"}),
            "prod/generated.yaml": _text(metadata={"generateName": "g-"}),
            "prod/large.yaml": config_map("large", x="x" * 1_500_000),
            "prod/status.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: st}\n"
            "spec: {ports: [{port: 80}]}\nstatus: {loadBalancer: {}}\n",
            "prod/version.yaml": yaml.safe_dump(hpa),
            "prod/unknown.yaml": _text(metadata={"name": "u", "namespace": "default"}, specs={"x": "1"}),
            "prod/a.yaml": config_map("a", x="2"),
        }
    )
    rig.wait("what can be applied", lambda: rig.data("a") == {"x": "2"})
    told = rig.wait("what cannot", lambda: (t := rig.told()) and t["lastError"] and t)
    assert "prod/unknown.yaml:6: specs: field not declared in schema" in told["lastError"]
    refused = {one["file"]: one["message"] for one in (*told["refused"], *told["notes"])}
    assert "metadata.name is missing" in refused["prod/generated.yaml"]
    assert "invalid name" in refused["prod/name.yaml"]
    assert "more than source.max_file_bytes" in refused["prod/large.yaml"]
    rig.wait("a kind in another version", lambda: rig.api.find(_placed(rig, hpa)))
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "st"}}
    rig.wait("an object with a status", lambda: rig.api.find(_placed(rig, service)))


def _placed(rig: DaemonRig, body: Object) -> Object:
    return {**body, "metadata": {**body["metadata"], "namespace": rig.namespace}}


def test_finalizer_that_never_ends_is_told_and_holds_up_nothing(rig: DaemonRig):
    rig.api.patch(rig.config_map("b"), {"metadata": {"finalizers": ["example.com/never"]}})
    rig.push({"prod/b.yaml": None, "prod/a.yaml": config_map("a", x="2")})
    rig.wait("what can be applied", lambda: rig.data("a") == {"x": "2"})
    (leaving,) = rig.wait("b to be told", lambda: [o for o in rig.told()["objects"] if o["change"] == "delete"])
    assert leaving["name"] == "b"
    assert "ConfigMap/b" in rig.members()
    # It comes back to git while it is going.
    rig.push({"prod/b.yaml": config_map("b", x="5")})
    rig.wait("b to wait", lambda: [o for o in rig.told()["objects"] if o["name"] == "b" and o["change"] == "wait"])
    rig.api.patch(rig.config_map("b"), {"metadata": {"finalizers": None}})
    rig.converge()
    assert rig.data("b") == {"x": "5"}


def test_namespace_that_never_ends_is_told_and_holds_up_nothing(rig: DaemonRig):
    other = f"{rig.namespace}-other"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}}
    kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "k", "namespace": other}}
    rig.api.create(space)
    rig.api.create({**kept, "metadata": {**kept["metadata"], "finalizers": ["example.com/never"]}})
    rig.api.delete(space)
    rig.push({"prod/o.yaml": _text(metadata={"name": "o", "namespace": other}), "prod/a.yaml": config_map("a", x="2")})
    rig.wait("what can be applied", lambda: rig.data("a") == {"x": "2"})
    error = rig.wait("the error", lambda: rig.told()["lastError"])
    assert "its namespace is being deleted" in error
    rig.api.patch(kept, {"metadata": {"finalizers": None}})


def test_object_made_again_by_others_is_theirs_until_it_is_gone(rig: DaemonRig):
    before = rig.members()["ConfigMap/a"]
    rig.kill()
    rig.api.delete(rig.config_map("a"))
    rig.api.create({**rig.config_map("a"), "data": {"x": "theirs"}})
    rig.start()
    (told,) = rig.wait("a to be told", lambda: [o for o in rig.told().get("objects", ()) if o["reasons"]])
    assert (told["name"], told["reasons"][0]["code"]) == ("a", "NotOurs")
    assert rig.data("a") == {"x": "theirs"}

    rig.api.delete(rig.config_map("a"))
    rig.wait("git's value", lambda: rig.data("a") == {"x": "1"})
    rig.wait("its UID to be written down", lambda: rig.members()["ConfigMap/a"] not in ("", before))


def test_kind_that_is_deleted_while_git_has_objects_of_it_is_waited_for(rig: DaemonRig):
    group = f"{rig.namespace}.example.com"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": "Thing", "plural": "things"},
            "scope": "Namespaced",
            "versions": [
                {"name": "v1beta1", "served": True, "storage": False, "schema": schema},
                {"name": "v1", "served": True, "storage": True, "schema": schema},
            ],
        },
    }
    thing = {"apiVersion": f"{group}/v1beta1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {"size": 1}}
    rig.api.create(crd)
    try:
        rig.push({"prod/thing.yaml": yaml.safe_dump(thing)})
        rig.converge()
        assert rig.api.get(_placed(rig, thing))["spec"] == {"size": 1}

        rig.api.delete(crd)
        rig.push({"prod/a.yaml": config_map("a", x="2")})
        rig.wait("the rest to go on", lambda: rig.data("a") == {"x": "2"})
        rig.wait("it to be waited for", lambda: [o for o in rig.told()["objects"] if o["change"] == "wait"], 90)

        rig.wait("its kind to be gone", lambda: rig.api.find(crd) is None)
        rig.api.create(crd)
        rig.wait("it to be made again", lambda: _find(rig, _placed(rig, thing)), 90)
        rig.converge()
    finally:
        rig.api.delete(crd)


def _find(rig: DaemonRig, body: Object) -> Object | None:
    with contextlib.suppress(ApiError):
        return rig.api.find(body)
    return None
