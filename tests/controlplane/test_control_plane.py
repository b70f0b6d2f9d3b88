"""The control plane of the tests does what other tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.api import Api, ApiError, wait_for
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kubelet import GONE_AFTER, MESSAGE, OUTCOME, READY_AFTER

pytestmark = pytest.mark.cluster

ONE_WRITE_AT_A_TIME = ("--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1")
SLEEPER = """
import sys, time
from pathlib import Path
from tests.controlplane.processes import Processes

programs = Processes(Path(sys.argv[1]))
programs.start("sleep", "sleep", "1000")
print(programs.pid("sleep"), flush=True)
time.sleep(1000)
"""


def make_pod(namespace: str, name: str = "p", **annotations: str) -> dict[str, Any]:
    container = {"name": "c", "image": "example.com/vllm:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    metadata = {"name": name, "namespace": namespace, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def make_config_map(namespace: str, name: str = "c", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def container_of(api: Api, pod: dict[str, Any]) -> dict[str, Any]:
    statuses = wait_for(lambda: api.get(pod)["status"].get("containerStatuses"))
    found: dict[str, Any] = statuses[0]
    return found


def is_ready(api: Api, pod: dict[str, Any]) -> bool:
    conditions = api.get(pod)["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def test_pod_with_a_gpu_runs_and_one_too_many_is_unschedulable(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node(gpus=1)
    first = api.create(make_pod(namespace))
    wait_for(lambda: is_ready(api, first))
    second = api.create(make_pod(namespace, "q"))
    condition = wait_for(lambda: api.get(second)["status"].get("conditions"))[0]
    assert condition["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition["message"]


def test_pod_tolerates_no_taint_and_selects_mig_by_name(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node(gpus=8, taints=[{"key": "gpu", "value": "reserved", "effect": "NoSchedule"}])
    tainted = api.create(make_pod(namespace))
    add_node(gpus=0, resources={"nvidia.com/mig-1g.10gb": "7"})
    parted = make_pod(namespace, "mig")
    parted["spec"]["containers"][0]["resources"]["limits"] = {"nvidia.com/mig-1g.10gb": "1"}
    api.create(parted)
    wait_for(lambda: is_ready(api, parted))
    assert not is_ready(api, tainted)


@pytest.mark.parametrize(
    ("outcome", "phase", "reason", "ended"),
    [
        ("crash", "Running", "CrashLoopBackOff", 1),
        ("oom-killed", "Running", "CrashLoopBackOff", 137),
        ("image-pull", "Pending", "ImagePullBackOff", None),
        ("init-crash", "Pending", "PodInitializing", None),
    ],
)
def test_pod_fails_as_its_annotation_says(
    api: Api, namespace: str, add_node: AddNode, outcome: str, phase: str, reason: str, ended: int | None
) -> None:
    add_node()
    pod = make_pod(namespace, **{OUTCOME: outcome, MESSAGE: "no such flag"})
    pod["spec"]["initContainers"] = [{"name": "i", "image": "example.com/init:1"}]
    api.create(pod)
    found = container_of(api, pod)
    assert found["state"]["waiting"]["reason"] == reason
    assert found.get("lastState", {}).get("terminated", {}).get("exitCode") == ended
    assert api.get(pod)["status"]["phase"] == phase
    assert not is_ready(api, pod)
    initial = api.get(pod)["status"]["initContainerStatuses"][0]
    assert ("waiting" in initial["state"]) == (outcome == "init-crash")


def test_pod_that_fails_ends_with_its_message(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node()
    pod = api.create(make_pod(namespace, **{OUTCOME: "failed", MESSAGE: "vllm: error: no such flag"}))
    ended = container_of(api, pod)["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (1, "vllm: error: no such flag")
    assert api.get(pod)["status"]["phase"] == "Failed"


def test_slow_pod_runs_unready_then_is_ready_then_terminates(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node()
    pod = api.create(make_pod(namespace, **{READY_AFTER: "1s", GONE_AFTER: "1s"}))
    assert container_of(api, pod)["state"].get("running")
    assert not is_ready(api, pod)
    wait_for(lambda: is_ready(api, pod))
    api.delete(pod)
    assert api.get(pod)["metadata"]["deletionTimestamp"]
    wait_for(lambda: api.find(pod) is None)


def test_logs_are_those_that_the_test_sets(
    control_plane: ControlPlane, api: Api, namespace: str, add_node: AddNode
) -> None:
    add_node()
    pod = api.create(make_pod(namespace, **{OUTCOME: "crash"}))
    container_of(api, pod)
    control_plane.set_logs("starting\nready", "one\ntwo")
    assert api.request("GET", api.path(pod) + "/log") == "starting\nready\n"
    assert api.request("GET", api.path(pod) + "/log", tailLines=1, previous="true") == "two\n"


def test_requests_are_those_of_the_test_by_user_and_agent(control_plane: ControlPlane, namespace: str) -> None:
    mine = Api(control_plane.user_kubeconfig("alice", "system:masters"), user_agent="mine/1")
    control_plane.requests()
    mine.create(make_config_map(namespace))
    mine.request("POST", mine.collection("v1", "ConfigMap", namespace), make_config_map(namespace, "d"), dryRun="All")
    mine.list("v1", "ConfigMap", namespace)
    found = [each for each in control_plane.requests() if each.user == "alice" and each.resource]
    assert [(each.verb, each.writes) for each in found] == [("create", True), ("create", False), ("list", False)]
    assert {each.user_agent for each in found} == {"mine/1"}
    assert [each.code for each in found] == [201, 201, 200]


def bind(api: Api, namespace: str, role: str, subject: dict[str, str]) -> None:
    """Let it do in the namespace what a ClusterRole of Kubernetes says."""
    api.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"{subject['name']}-{role}", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        }
    )


@pytest.mark.parametrize("kind", ["User", "ServiceAccount"])
def test_user_and_service_account_may_only_what_rbac_says(
    control_plane: ControlPlane, api: Api, namespace: str, kind: str
) -> None:
    if kind == "User":
        bind(api, namespace, "view", {"kind": kind, "name": "bob"})
        them = Api(control_plane.user_kubeconfig("bob"))
    else:
        bind(api, namespace, "view", {"kind": kind, "name": "default", "namespace": namespace})
        them = Api(control_plane.service_account_kubeconfig(namespace, "default"))
    wait_for(lambda: _may(lambda: them.list("v1", "ConfigMap", namespace)))
    assert not _may(lambda: them.create(make_config_map(namespace)))


def _may(act: Callable[[], object]) -> bool:
    try:
        act()
    except ApiError as error:
        if error.reason != "Forbidden":
            raise
        return False
    return True


def test_restarted_api_server_remembers_and_forgotten_history_is_410(
    control_plane: ControlPlane, api: Api, namespace: str
) -> None:
    before = api.create(make_config_map(namespace))["metadata"]["resourceVersion"]
    api.patch(make_config_map(namespace), {"data": {"a": "b"}})
    control_plane.forget_history()
    assert api.get(make_config_map(namespace))["data"] == {"a": "b"}
    events = api.request(
        "GET", api.collection("v1", "ConfigMap", namespace), watch=1, resourceVersion=before, timeoutSeconds=5
    )
    assert events["object"]["code"] == 410


def test_api_server_that_is_busy_answers_429(control_plane: ControlPlane, api: Api, namespace: str) -> None:
    # An administrator's requests are always let in.
    bind(api, namespace, "edit", {"kind": "User", "name": "carol"})
    carol = Api(control_plane.user_kubeconfig("carol"))

    def code_of(number: int) -> int:
        try:
            carol.create(make_config_map(namespace, f"c-{number}"))
        except ApiError as error:
            return error.code
        return 201

    with control_plane.api_server_with(*ONE_WRITE_AT_A_TIME), ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(code_of, range(200)))
    assert codes == {201, 429}


def test_programs_end_with_the_test_process_though_it_is_killed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SLEEPER, tmp_path], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
