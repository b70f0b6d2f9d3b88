"""What the API server, RBAC and the network can do to a daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.daemon_rig import DaemonRig, running
from tests.cluster.rig import config_map
from tests.controlplane.api import Object
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


RBAC = "rbac.authorization.k8s.io"
READS = ["get", "list", "watch"]


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane, namespace: str) -> Iterator[DaemonRig]:
    """A daemon that has applied two ConfigMaps, by rights of its own."""
    rig = DaemonRig(tmp_path_factory.mktemp("daemon") / "rig", control_plane, namespace, {"timeout": "2s"})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "d", "namespace": namespace}}
    rig.api.create(account)
    _grant(rig, {"apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"], "verbs": ["*"]})
    _grant(rig, {"apiGroups": [""], "resources": ["configmaps", "services"], "verbs": READS}, everywhere=True)
    rig.write_config(kubeconfig=str(rig.plane.service_account_kubeconfig(rig.namespace, "d")))
    rig.push({"prod/a.yaml": config_map("a", x="1"), "prod/b.yaml": config_map("b", x="1")})
    with running(rig):
        rig.converge()
        yield rig


def test_api_server_that_is_down_plans_nothing_and_is_followed_once_it_is_back(rig: DaemonRig):
    rig.plane.stop_api_server()
    try:
        rig.push({"prod/a.yaml": config_map("a", x="2"), "prod/b.yaml": None})
        head = rig.head()
        rig.wait("the new commit to be seen", lambda: rig.told()["revision"]["desired"] == head)
        rig.wait("an unreachable target", lambda: not rig.told()["reachable"], 120)
        assert "configmap test" in rig.told()["reason"].lower()
    finally:
        rig.plane.start_api_server()
        rig.plane.wait_until_ready()
    rig.converge()
    assert (rig.data("a"), rig.data("b")) == ({"x": "2"}, None)


def test_history_forgotten_under_a_watch_loses_nothing(rig: DaemonRig):
    rig.plane.forget_history()
    rig.api.delete(rig.config_map("a"))
    rig.wait("a to be made again", lambda: rig.data("a") == {"x": "1"}, 120)


def test_server_that_turns_requests_away_is_asked_again(rig: DaemonRig):
    flags = ("--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1")
    with rig.plane.api_server_with(*flags):
        rig.plane.requests()
        rig.push({f"prod/n{n}.yaml": config_map(f"n{n}", x="1") for n in range(60)})
        rig.converge()
        assert [each for each in rig.plane.requests() if each.code == 429]


def test_right_lost_midway_is_one_error_and_the_rest_goes_on(rig: DaemonRig):
    right = {"apiGroups": [""], "resources": ["services"], "verbs": ["*"]}
    given = _grant(rig, right, "services")
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}], selector: {a: '1'}}\n"
    rig.push({"prod/s.yaml": service})
    rig.converge()

    rig.api.delete(given)
    rig.push({"prod/s.yaml": service.replace("'1'", "'2'"), "prod/a.yaml": config_map("a", x="2")})
    rig.wait("what is allowed", lambda: rig.data("a") == {"x": "2"})
    error = rig.wait("the error", lambda: rig.told()["lastError"])
    assert "cannot patch services" in error

    _grant(rig, right, "services")
    rig.converge()


def _grant(rig: DaemonRig, rule: Object, name: str = "own", *, everywhere: bool = False) -> Object:
    """A right of the daemon; the binding that takes it away when it is deleted."""
    kind, name = ("ClusterRole", f"{rig.namespace}-{name}") if everywhere else ("Role", name)
    metadata = {"name": name} if everywhere else {"name": name, "namespace": rig.namespace}
    rig.api.apply({"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": metadata, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": "d", "namespace": rig.namespace}
    ref = {"apiGroup": RBAC, "kind": kind, "name": name}
    binding = {"apiVersion": f"{RBAC}/v1", "kind": f"{kind}Binding", "metadata": metadata}
    return rig.api.apply({**binding, "roleRef": ref, "subjects": [subject]})
