"""`reconciler doctor` of a cluster, on a real API server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from reconciler.cli import run
from reconciler.cluster.doctor import examine
from reconciler.report.findings import CheckResult, Level
from tests.cluster.rig import ClusterRig, config_map
from tests.controlplane.api import Api, wait_for
from tests.controlplane.certificates import Authority
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve.crds import install_crds, remove_crds
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster

TOPICS = ["api", "user", "clock", "rights", "namespace", "kserve", "kserve", "webhooks", "gpus", "inventory", "lease"]


@pytest.fixture
def rig(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> ClusterRig:
    return ClusterRig(tmp_path / "rig", control_plane, namespace)


@pytest.fixture
def controller(api: Api, namespace: str) -> Iterator[None]:
    """A Deployment like that of KServe's controller, whose pod runs on some node."""
    labels = {"control-plane": "kserve-controller-manager"}
    pod = {"containers": [{"name": "manager", "image": "kserve/kserve-controller:v0.20.0"}]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "kserve-controller-manager", "namespace": namespace, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }
    api.create(deployment)
    wait_for(lambda: (api.get(deployment).get("status") or {}).get("availableReplicas"), what="the controller runs")
    yield
    api.delete(deployment)


def findings(rig: ClusterRig) -> list[CheckResult]:
    (target,) = rig.settings.clusters
    found = list(examine(target))
    assert all(bool(one.fix) is (one.level is not Level.OK) for one in found)
    return found


def about(rig: ClusterRig, topic: str) -> list[CheckResult]:
    return [one for one in findings(rig) if one.topic == topic]


def only(rig: ClusterRig, topic: str) -> CheckResult:
    (found,) = about(rig, topic)
    return found


def stranger(rig: ClusterRig, name: str) -> None:
    """From now on we are a user without any rights of its own."""
    rig.write_config(kubeconfig=str(rig.plane.user_kubeconfig(name)))


def test_cluster_that_is_fit_gets_no_warning(
    rig: ClusterRig, kserve: KServe, add_node: AddNode, request: pytest.FixtureRequest
) -> None:
    add_node(gpus=8)
    request.getfixturevalue("controller")
    rig.writes()
    found = findings(rig)
    assert [one for one in found if one.level is not Level.OK] == []
    assert [one.topic for one in found] == TOPICS
    said = {one.topic: one.message for one in found}
    assert "is Kubernetes v1.36" in said["api"]
    assert (said["user"], said["gpus"]) == ("admin", "1 of 1 nodes have 8 nvidia.com/gpu")
    assert said["kserve"].endswith("is available (kserve/kserve-controller:v0.20.0)")


def test_doctor_leaves_nothing_behind(rig: ClusterRig, kserve_crds: None) -> None:
    rig.plane.requests()
    findings(rig)
    asked = [one for one in rig.plane.requests() if one.user_agent.startswith("reconciler")]
    assert [one.resource for one in asked if one.writes] == []
    assert {one.resource for one in asked if one.dry_run} == {"configmaps", "inferenceservices"}


def test_every_missing_right_is_named_with_its_rule(rig: ClusterRig, kserve_crds: None) -> None:
    stranger(rig, "nobody-yet")
    found = about(rig, "rights")
    problems = {one.message: one.fix for one in found if one.level is Level.PROBLEM}
    pods = "nobody-yet cannot get, list, watch pods in the whole cluster"
    assert problems[pods].endswith('{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}')
    services = (
        f"nobody-yet cannot create, patch, delete inferenceservices.serving.kserve.io in the namespace {rig.namespace}"
    )
    assert "add to its Role: " in problems[services]
    assert (
        f"nobody-yet cannot get, create, update leases.coordination.k8s.io in the namespace {rig.namespace}" in problems
    )
    assert [one.topic for one in findings(rig) if one.level is Level.PROBLEM] == ["rights"] * len(problems)


def test_rights_in_chosen_namespaces_are_enough(rig: ClusterRig, kserve_crds: None, api: Api) -> None:
    """All of deploy/kubernetes/rbac.yaml, but that KServe's kinds are written in one namespace."""
    stranger(rig, "chosen")
    base = Path(__file__).parents[2] / "deploy" / "kubernetes" / "rbac.yaml"
    rules = {one["metadata"]["name"]: one["rules"] for one in yaml.safe_load_all(base.read_text()) if "rules" in one}
    grant(api, "chosen", rules["reconciler-read-kserve"])
    grant(api, "chosen", rules["reconciler-write-kserve"], rig.namespace)
    grant(api, "chosen", rules["reconciler"], rig.namespace, "own")
    wait_for(lambda: len(about(rig, "rights")) == 1, what="the rights hold")
    found = only(rig, "rights")
    assert (found.level, found.message.partition(" cannot ")[2]) == (
        Level.WARNING,
        "create, patch, delete clusterservingruntimes.serving.kserve.io in the whole cluster",
    )


def grant(api: Api, user: str, rules: Any, namespace: str = "", name: str = "write") -> None:
    prefix, metadata = "" if namespace else "Cluster", {"name": f"{user}-{name}" if namespace else f"{user}-read"}
    if namespace:
        metadata["namespace"] = namespace
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": f"{prefix}Role", "metadata": metadata}
    api.apply({**role, "rules": rules})
    binding = {
        "roleRef": {"apiGroup": group, "kind": role["kind"], "name": metadata["name"]},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    api.apply({**role, "kind": f"{prefix}RoleBinding", **binding})


def test_cluster_without_kserve_is_told_to_install_it(rig: ClusterRig, api: Api) -> None:
    remove_crds(api)
    try:
        found = findings(rig)
    finally:
        # Others count on them.
        install_crds(api)
    (kserve,) = [one for one in found if one.topic == "kserve"]
    assert (kserve.level, kserve.fix) == (Level.PROBLEM, "install KServe with its CRDs")
    assert "InferenceService v1beta1" in kserve.message
    assert [one for one in found if one.topic == "webhooks"] == []


def test_kinds_without_webhooks_are_a_warning(rig: ClusterRig, kserve_crds: None) -> None:
    found = only(rig, "webhooks")
    assert (found.level, found.message[:24]) == (Level.WARNING, "no webhook refuses an In")


def test_webhook_that_is_not_reached_is_a_problem(rig: ClusterRig, kserve_crds: None, api: Api) -> None:
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "unreachable"},
        "webhooks": [
            {
                "name": "inferenceservice.kserve-webhook-server.validator",
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": [
                    {
                        "apiGroups": ["serving.kserve.io"],
                        "apiVersions": ["*"],
                        "operations": ["CREATE"],
                        "resources": ["inferenceservices"],
                    }
                ],
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
            }
        ],
    }
    api.create(configuration)
    try:
        wait_for(lambda: only(rig, "webhooks").level is Level.PROBLEM, what="the webhook is asked")
        assert "inferenceservice.kserve-webhook-server.validator could not be asked" in only(rig, "webhooks").message
    finally:
        api.delete(configuration)


def test_certificate_of_another_ca_is_the_only_finding(rig: ClusterRig, tmp_path: Path) -> None:
    kubeconfig = yaml.safe_load(rig.plane.kubeconfig.read_text())
    kubeconfig["clusters"][0]["cluster"]["certificate-authority"] = str(Authority(tmp_path / "other").certificate)
    path = tmp_path / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(kubeconfig))
    rig.write_config(kubeconfig=str(path))
    (found,) = findings(rig)
    assert (found.topic, found.level, found.target) == ("api", Level.PROBLEM, "prod")
    assert "certificate is not accepted" in found.message
    assert found.fix.startswith("see the CA")


def test_namespace_that_is_not_there_is_a_problem(rig: ClusterRig, kserve_crds: None) -> None:
    rig.write_config(namespace="not-there", default_namespace="nor-there")
    found = {one.topic: one for one in findings(rig)}
    assert found["namespace"].level is Level.PROBLEM
    assert found["namespace"].fix.startswith("kubectl create namespace not-there")
    assert (found["webhooks"].level, "nor-there does not exist" in found["webhooks"].message) == (Level.WARNING, True)


def test_nodes_without_gpus_are_a_warning(rig: ClusterRig, add_node: AddNode) -> None:
    add_node(gpus=0)
    found = only(rig, "gpus")
    assert (found.level, found.message[:29]) == (Level.WARNING, "no node has GPUs (nodes: 1), ")


@pytest.mark.parametrize(("seconds", "words"), [(100, "ahead of"), (-100, "behind")])
def test_clock_that_differs_is_a_warning(
    seconds: int, words: str, rig: ClusterRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = SimpleNamespace(time=lambda: time.time() + seconds)
    monkeypatch.setattr("reconciler.cluster.doctor.clock.time", wrong)
    found = only(rig, "clock")
    assert (found.level, words in found.message) == (Level.WARNING, True)


def test_inventory_and_lease_say_what_is_ours_and_who_leads(rig: ClusterRig, api: Api) -> None:
    assert "nothing was applied" in only(rig, "inventory").message
    rig.push({"prod/a.yaml": config_map("a", k="v")})
    rig.sync()
    assert only(rig, "inventory").message.endswith("lists 1 objects as ours")
    assert only(rig, "lease").message == "nobody leads: no daemon acts for this target now"
    inventory = {"apiVersion": "v1", "kind": "ConfigMap"}
    inventory |= {"metadata": {"name": "reconciler-prod", "namespace": rig.namespace}}
    api.patch(inventory, {"data": {"members": "damaged"}})
    found = only(rig, "inventory")
    assert (found.level, "is damaged" in found.message) == (Level.PROBLEM, True)


def test_lease_that_nobody_renews_is_a_warning(rig: ClusterRig, api: Api) -> None:
    spec = {"holderIdentity": "gone_1", "renewTime": "2020-01-01T00:00:00.000000Z", "leaseDurationSeconds": 10}
    metadata = {"name": "reconciler-prod", "namespace": rig.namespace}
    api.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
    found = only(rig, "lease")
    assert (found.level, found.message[:23]) == (Level.WARNING, "gone_1 leads, but renew")


def test_preflights_are_tried_where_they_are_wanted(rig: ClusterRig) -> None:
    assert about(rig, "preflight") == []
    rig.write_config(preflight=True)
    assert only(rig, "preflight").level is Level.OK


def test_command_checks_the_config_and_each_cluster(
    rig: ClusterRig, kserve_crds: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--config", str(rig.config)]) == 0
    out = capsys.readouterr().out
    assert "ok       git: git " in out
    assert "ok       prod user: admin\n" in out
    assert " systemd: " not in out
    stranger(rig, "nobody-yet")
    assert run(["doctor", "--config", str(rig.config), "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["fit"]) == ("reconciler.doctor/v1", False)
    assert all(set(one) == {"target", "topic", "level", "message", "fix"} for one in document["findings"])
    assert {one["target"] for one in document["findings"]} == {"", "prod"}
