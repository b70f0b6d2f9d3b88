"""One pod, as a kubelet or scheduler shows it: its phase, its problem, and whose fault that is."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.cluster.health.pods import PodContext, PodState, pod_state
from reconciler.cluster.health.problems import Fault, HealthLimits, Phase
from reconciler.model import ReasonCode
from tests.cluster.health.recorded import START, condition, stamp

LIMITS = HealthLimits()
PLACED = condition("PodScheduled", "True", 10)


def pod(**status: Any) -> dict[str, Any]:
    """A pod of that status, created at 0 s and placed at 10 s."""
    return {
        "metadata": {"name": "p", "creationTimestamp": stamp(0)},
        "spec": {},
        "status": {"phase": "Pending", "conditions": [PLACED]} | status,
    }


def unschedulable(message: str) -> dict[str, Any]:
    return pod(conditions=[condition("PodScheduled", f"False Unschedulable: {message}", 0)])


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    """The status of the model's container while it waits."""
    return {
        "name": "kserve-container",
        "image": "r/i:1",
        "state": {"waiting": {"reason": reason, "message": message}},
    } | more


def ended(exit_code: int, reason: str = "Error", message: str = "", at: float = 60) -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": stamp(at)}}


def running(at: float) -> dict[str, Any]:
    return {"running": {"startedAt": stamp(at)}}


def event(reason: str, message: str = "", at: float = 20) -> dict[str, Any]:
    about = {"kind": "Pod", "namespace": "", "name": "p"}
    return {"involvedObject": about, "reason": reason, "message": message, "lastTimestamp": stamp(at)}


def state(body: dict[str, Any], *events: dict[str, Any], now: float = 100, log: tuple[str, ...] = ()) -> PodState:
    """How the pod stands `now` seconds after it was created."""
    return pod_state(body, PodContext.of(events, {"p": log}, START + now, LIMITS))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("0/4 nodes are available: 4 Insufficient nvidia.com/gpu.", ReasonCode.INSUFFICIENT_GPU),
        (
            "0/4 nodes are available: 1 Insufficient cpu, 3 Insufficient nvidia.com/mig-1g.5gb",
            ReasonCode.INSUFFICIENT_GPU,
        ),
        ("0/4 nodes are available: 4 Insufficient amd.com/gpu.", ReasonCode.INSUFFICIENT_GPU),
        ("0/4 nodes are available: 4 Insufficient habana.ai/gaudi.", ReasonCode.INSUFFICIENT_ACCELERATOR),
        ("0/4 nodes are available: 4 Insufficient memory.", ReasonCode.INSUFFICIENT_MEMORY),
        ("0/4 nodes are available: 4 Insufficient cpu.", ReasonCode.INSUFFICIENT_CPU),
        ("0/4 nodes are available: 4 Insufficient ephemeral-storage.", ReasonCode.UNSCHEDULABLE),
        ("0/4 nodes are available: 4 node(s) had untolerated taint {gpu: true}.", ReasonCode.UNSCHEDULABLE),
        ('persistentvolumeclaim "models" not found', ReasonCode.UNSCHEDULABLE),
    ],
)
def test_pod_that_no_node_takes_names_what_lacks_and_blames_no_commit(message: str, code: ReasonCode) -> None:
    found = state(unschedulable(message))
    assert found.phase is Phase.SCHEDULING
    assert found.problem
    assert (found.problem.code, found.problem.fault, found.problem.lasting) == (code, Fault.CLUSTER, False)
    assert message.removesuffix(".") in found.problem.message
    assert found.due == START + LIMITS.scheduling


def test_pod_waiting_for_a_new_node_has_longer() -> None:
    body = unschedulable("0/4 nodes are available: 4 Insufficient nvidia.com/gpu.")
    found = state(body, event("TriggeredScaleUp", at=50), now=LIMITS.scheduling + 60)
    assert found.due == START + 50 + LIMITS.scale_up
    assert found.problem
    assert "the cluster autoscaler adds a node" in found.problem.message


def test_pod_for_which_no_node_is_added_says_so() -> None:
    body = unschedulable("0/4 nodes are available: 4 Insufficient nvidia.com/gpu.")
    refused = event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached", at=60)
    found = state(body, event("TriggeredScaleUp", at=50), refused)
    assert found.due == START + LIMITS.scheduling
    assert found.problem
    assert "max node group size reached" in found.problem.message


@pytest.mark.parametrize(
    ("reason", "message", "fault", "lasting"),
    [
        ("ErrImagePull", 'failed to pull image "r/i:1": r/i:1: not found', Fault.COMMIT, False),
        ("ImagePullBackOff", 'Back-off pulling image "r/i:1": ErrImagePull: manifest unknown', Fault.COMMIT, True),
        ("InvalidImageName", "couldn't parse image name", Fault.COMMIT, True),
        ("ImagePullBackOff", "failed to pull: dial tcp: connection refused", Fault.CLUSTER, True),
        ("ErrImagePull", "rpc error: code = Unknown desc = 429 Too Many Requests", Fault.CLUSTER, False),
        ("ImagePullBackOff", "failed to pull: unauthorized: authentication required", Fault.CLUSTER, True),
    ],
)
def test_image_that_cannot_be_pulled_is_the_commits_only_if_it_is_not_there(
    reason: str, message: str, fault: Fault, lasting: bool
) -> None:
    found = state(pod(containerStatuses=[waiting(reason, message)]))
    assert found.phase is Phase.PULLING
    assert found.problem
    assert (found.problem.code, found.problem.fault) == (ReasonCode.IMAGE_PULL_FAILED, fault)
    assert found.problem.lasting == lasting
    assert "r/i:1" in found.problem.message


def test_image_pull_back_off_says_what_the_event_says() -> None:
    body = pod(containerStatuses=[waiting("ImagePullBackOff", 'Back-off pulling image "r/i:1"')])
    found = state(body, event("Failed", 'Failed to pull image "r/i:1": manifest unknown'))
    assert found.problem
    assert "manifest unknown" in found.problem.message
    assert found.problem.fault is Fault.COMMIT


def test_image_pull_that_backs_off_does_not_flap_between_tries() -> None:
    body = pod(containerStatuses=[waiting("ErrImagePull", "failed to pull: timeout")])
    found = state(body, event("BackOff", "Back-off pulling image"))
    assert found.problem
    assert found.problem.lasting


@pytest.mark.parametrize(
    ("reason", "message", "code", "fault"),
    [
        ("CreateContainerConfigError", 'secret "hf-token" not found', ReasonCode.SECRET_NOT_FOUND, Fault.CLUSTER),
        ("CreateContainerConfigError", 'configmap "c" not found', ReasonCode.CONFIG_MAP_NOT_FOUND, Fault.CLUSTER),
        ("CreateContainerConfigError", "container has runAsNonRoot", ReasonCode.FAILED_CREATE, Fault.CLUSTER),
        ("RunContainerError", 'exec: "vlm": executable file not found in $PATH', ReasonCode.CANNOT_START, Fault.COMMIT),
        ("CreateContainerError", "nvidia-container-cli: initialization error", ReasonCode.CANNOT_START, Fault.CLUSTER),
    ],
)
def test_container_that_cannot_be_made_says_why(reason: str, message: str, code: ReasonCode, fault: Fault) -> None:
    found = state(pod(containerStatuses=[waiting(reason, message)]))
    assert found.problem
    assert (found.problem.code, found.problem.fault, found.problem.lasting) == (code, fault, True)
    assert message in found.problem.message


def test_crash_shows_its_exit_code_and_what_the_log_says_last() -> None:
    body = pod(containerStatuses=[waiting("CrashLoopBackOff", lastState=ended(1), restartCount=2)])
    log = ("INFO starting", "api_server.py: error: unrecognized arguments: --bad")
    found = state(body, log=log)
    assert (found.phase, found.crashes) == (Phase.LOADING, 2)
    assert found.problem
    assert (found.problem.code, found.problem.fault) == (ReasonCode.CRASH_LOOP_BACKOFF, Fault.COMMIT)
    assert "exit code 1: api_server.py: error: unrecognized arguments: --bad" in found.problem.message


@pytest.mark.parametrize("line", ["OSError: No space left on device", "OSError: Address already in use"])
def test_crash_that_another_commit_would_not_mend_is_the_clusters(line: str) -> None:
    found = state(pod(containerStatuses=[waiting("CrashLoopBackOff", lastState=ended(1))]), log=(line,))
    assert found.problem
    assert found.problem.fault is Fault.CLUSTER


def test_server_that_ends_again_and_again_without_an_error_crashes_too() -> None:
    found = state(pod(containerStatuses=[waiting("CrashLoopBackOff", lastState=ended(0, "Completed"), restartCount=4)]))
    assert found.problem
    assert (found.problem.code, found.crashes) == (ReasonCode.CRASH_LOOP_BACKOFF, 4)


def test_container_over_its_memory_limit_is_told_as_that() -> None:
    body = pod(containerStatuses=[waiting("CrashLoopBackOff", lastState=ended(137, "OOMKilled"))])
    found = state(body)
    assert found.problem
    assert (found.problem.code, found.problem.fault) == (ReasonCode.OOM_KILLED, Fault.COMMIT)


def test_container_up_again_after_one_crash_may_yet_succeed() -> None:
    again = {"name": "kserve-container", "state": running(80), "lastState": ended(1), "restartCount": 1}
    found = state(pod(phase="Running", containerStatuses=[again]))
    assert (found.phase, found.since, found.crashes) == (Phase.LOADING, START + 80, 1)
    assert found.problem
    assert (found.problem.code, found.problem.lasting) == (ReasonCode.CRASHED, False)


def test_container_that_crashes_often_does_not_look_well_between_crashes() -> None:
    again = {"name": "kserve-container", "state": running(80), "lastState": ended(1), "restartCount": 3}
    found = state(pod(phase="Running", containerStatuses=[again]))
    assert found.problem
    assert found.problem.lasting
    long_after = state(pod(phase="Running", containerStatuses=[again]), now=2000)
    assert long_after.problem
    assert not long_after.problem.lasting


@pytest.mark.parametrize(
    ("written", "code", "fault"),
    [
        ("False ContainersNotReady", ReasonCode.HUNG, Fault.COMMIT),
        ("False", ReasonCode.NODE_LOST, Fault.CLUSTER),
    ],
)
def test_pod_that_was_ready_and_is_not_any_more_is_not_loading(written: str, code: ReasonCode, fault: Fault) -> None:
    main = {"name": "kserve-container", "state": running(20)}
    lost = condition("Ready", written, 5000)
    found = state(pod(phase="Running", conditions=[PLACED, lost], containerStatuses=[main]), now=5010)
    assert found.problem
    assert (found.problem.code, found.problem.fault) == (code, fault)
    assert found.due == START + 5000 + LIMITS.patience
    starting = condition("Ready", "False ContainersNotReady", 10)
    found = state(pod(phase="Running", conditions=[PLACED, starting], containerStatuses=[main]))
    assert (found.problem, found.due) == (None, START + 20 + LIMITS.loading)


def test_failing_download_is_told_as_one_and_blames_no_commit() -> None:
    init = {"name": "storage-initializer", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended(1)}
    found = state(pod(initContainerStatuses=[init], containerStatuses=[waiting("PodInitializing")]))
    assert found.phase is Phase.DOWNLOADING
    assert found.problem
    assert (found.problem.code, found.problem.fault) == (ReasonCode.STAGING_FAILED, Fault.CLUSTER)


def test_download_that_failed_once_and_is_done_is_no_problem() -> None:
    init = {"name": "storage-initializer", "state": ended(0, "Completed"), "lastState": ended(1), "restartCount": 1}
    main = {"name": "kserve-container", "state": running(90)}
    found = state(pod(phase="Running", initContainerStatuses=[init], containerStatuses=[main]))
    assert (found.phase, found.since, found.problem) == (Phase.LOADING, START + 90, None)


@pytest.mark.parametrize(
    ("status", "phase", "since"),
    [
        ({"conditions": []}, Phase.SCHEDULING, 0),
        ({}, Phase.PULLING, 10),
        ({"containerStatuses": [waiting("ContainerCreating")]}, Phase.PULLING, 10),
        ({"initContainerStatuses": [{"name": "storage-initializer", "state": running(30)}]}, Phase.DOWNLOADING, 30),
        ({"initContainerStatuses": [{"name": "storage-initializer", "state": ended(0)}]}, Phase.PULLING, 60),
        ({"containerStatuses": [{"name": "kserve-container", "state": running(70)}]}, Phase.LOADING, 70),
        ({"conditions": [PLACED, condition("Ready", "True", 90)]}, Phase.READY, 90),
    ],
)
def test_pod_on_its_way_has_a_phase_with_its_own_deadline(status: dict[str, Any], phase: Phase, since: float) -> None:
    found = state(pod(**status))
    assert (found.phase, found.since, found.problem) == (phase, START + since, None)
    assert found.due == (None if phase is Phase.READY else START + since + LIMITS.of(phase))
    assert found.serves == (phase is Phase.READY)


def test_image_that_arrived_is_progress() -> None:
    found = state(pod(containerStatuses=[waiting("ContainerCreating")]), event("Pulled", at=80))
    assert (found.since, found.due) == (START + 80, START + 80 + LIMITS.pulling)


def test_init_container_that_stays_is_no_download() -> None:
    body = pod(initContainerStatuses=[{"name": "modelcar", "state": running(30)}])
    body["spec"]["initContainers"] = [{"name": "modelcar", "restartPolicy": "Always"}]
    assert state(body).phase is Phase.PULLING


@pytest.mark.parametrize(
    ("reason", "message", "code"),
    [
        ("FailedMount", 'MountVolume.SetUp failed: secret "s" not found', ReasonCode.SECRET_NOT_FOUND),
        ("FailedMount", 'MountVolume.SetUp failed: configmap "c" not found', ReasonCode.CONFIG_MAP_NOT_FOUND),
        ("FailedAttachVolume", "Multi-Attach error for volume", ReasonCode.FAILED_MOUNT),
        ("FailedCreatePodSandBox", "failed to set up network", ReasonCode.CANNOT_START),
    ],
)
def test_pod_held_up_before_its_containers_says_by_what(reason: str, message: str, code: ReasonCode) -> None:
    found = state(pod(containerStatuses=[waiting("ContainerCreating")]), event(reason, message))
    assert found.problem
    assert (found.problem.code, found.problem.lasting) == (code, False)
    assert message in found.problem.message
