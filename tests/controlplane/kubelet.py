"""What kwok reports of pods, beside its own stages, which make every pod ready at once.

Annotations of a pod choose (`predictor.annotations` of an InferenceService become such):

- `fake-kubelet/outcome`: `crash`, `oom-killed`, `not-ready`, `image-pull`, `init-crash`, or `failed`, which ends it;
- `fake-kubelet/message`: what it says about the end of its container; by default it ran out of GPU memory;
- `fake-kubelet/ready-after`: such as `2s`: init containers run until then, or where there are none, the container does
  without being ready;
- `fake-kubelet/gone-after`: such as `2s`: how long it is Terminating after its deletion.
"""

from __future__ import annotations

from typing import Any

OUTCOME = "fake-kubelet/outcome"
MESSAGE = "fake-kubelet/message"
READY_AFTER = "fake-kubelet/ready-after"
GONE_AFTER = "fake-kubelet/gone-after"
LOG_TIME = "2026-01-01T00:00:00.000000000Z"

_MESSAGE = f'{{{{ or (index .metadata.annotations "{MESSAGE}") "CUDA out of memory" | Quote }}}}'
_TIMES = "startedAt: {{ Now | Quote }}, finishedAt: {{ Now | Quote }}"
_RESTARTING = 'waiting: {reason: CrashLoopBackOff, message: "back-off 40s restarting failed container"}'
_RUNNING = "running: {startedAt: {{ Now | Quote }}}"
_NOT_STARTED = "waiting: {reason: PodInitializing}"
_COMPLETED = f"terminated: {{exitCode: 0, reason: Completed, {_TIMES}}}"
_PULLING = 'waiting: {reason: ImagePullBackOff, message: "Back-off pulling image: not found"}'


def make_stages() -> list[dict[str, Any]]:
    """Stages of kwok, as its config file has them. A weight above 0 goes before those of its own."""
    crash = f"exitCode: 1, reason: Error, message: {_MESSAGE}, {_TIMES}"
    oom = f"exitCode: 137, reason: OOMKilled, {_TIMES}"
    init_done = _containers("initContainer", _COMPLETED, ready=True)
    return [
        _outcome("crash", "Running", init_done + _restarting("container", crash)),
        _outcome("oom-killed", "Running", init_done + _restarting("container", oom)),
        _outcome("not-ready", "Running", init_done + _containers("container", _RUNNING)),
        _outcome("image-pull", "Pending", init_done + _containers("container", _PULLING)),
        _outcome("failed", "Failed", init_done + _containers("container", f"terminated: {{{crash}}}")),
        _outcome(
            "init-crash",
            "Pending",
            _restarting("initContainer", crash) + _containers("container", _NOT_STARTED),
            initialized=False,
        ),
        *_slow(),
        _stage(
            "pod-delete-later",
            [_exists(".metadata.deletionTimestamp"), _exists(_annotation(GONE_AFTER))],
            {"delete": True},
            delay=GONE_AFTER,
        ),
    ]


def make_logs(current: str, previous: str) -> dict[str, Any]:
    """Every container's log is this file, and that of its last run the other one; both as a kubelet writes them."""
    spec = {"logs": [{"logsFile": current, "previousLogsFile": previous}]}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "ClusterLogs", "metadata": {"name": "logs"}, "spec": spec}


def format_log(text: str) -> str:
    """Lines as a kubelet writes them to a container's log file."""
    return "".join(f"{LOG_TIME} stdout F {line}\n" for line in text.splitlines())


def _slow() -> list[dict[str, Any]]:
    """First what runs meanwhile, then, after the time, ready."""
    asked = [_alive(), _exists(_annotation(READY_AFTER)), _absent(_annotation(OUTCOME))]
    initializing = _containers("initContainer", _RUNNING) + _containers("container", _NOT_STARTED)
    begun = (
        f"{{{{ if .spec.initContainers }}}}\n{_status('Pending', initializing, initialized=False)}\n{{{{ else }}}}\n"
    )
    begun += f"{_status('Running', _containers('container', _RUNNING))}\n{{{{ end }}}}\n"
    done = _containers("initContainer", _COMPLETED, ready=True) + _containers("container", _RUNNING, ready=True)
    conditions = '.status.conditions.[] | select( .type == "Ready" )'
    return [
        _stage("pod-slow", [*asked, _absent(".status.startTime")], {"statusTemplate": begun}),
        _stage(
            "pod-slow-ready",
            [*asked, _exists(".status.startTime"), _equals(f"{conditions} | .status", "False")],
            {"statusTemplate": _status("Running", done, ready=True)},
            delay=READY_AFTER,
        ),
    ]


def _outcome(name: str, phase: str, containers: str, initialized: bool = True) -> dict[str, Any]:
    match = [_alive(), _equals(_annotation(OUTCOME), name), _absent(".status.startTime")]
    return _stage(f"pod-{name}", match, {"statusTemplate": _status(phase, containers, initialized)})


def _stage(name: str, match: list[dict[str, Any]], then: dict[str, Any], delay: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {
        "weight": 1,
        "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
        "selector": {"matchExpressions": match},
        "next": then,
    }
    if delay:
        spec["delay"] = {"durationMilliseconds": 1000, "durationFrom": {"expressionFrom": _annotation(delay)}}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


def _status(phase: str, containers: str, initialized: bool = True, ready: bool = False) -> str:
    reason = "" if ready else ", reason: ContainersNotReady"
    conditions = {"Initialized": (initialized, ""), "Ready": (ready, reason), "ContainersReady": (ready, reason)}
    lines = ["conditions:"]
    lines += [
        f'- {{type: {kind}, status: "{status}", lastTransitionTime: {{{{ Now | Quote }}}}{rest}}}'
        for kind, (status, rest) in conditions.items()
    ]
    return "\n".join([*lines, f"phase: {phase}", "startTime: {{ Now | Quote }}", _IPS, containers])


_IPS = "podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}"


def _restarting(kind: str, ended: str) -> str:
    return _containers(kind, _RESTARTING, f"\n  restartCount: 3\n  lastState: {{terminated: {{{ended}}}}}")


def _containers(kind: str, state: str, more: str = "\n  restartCount: 0", ready: bool = False) -> str:
    lines = [
        f"{kind}Statuses:",
        f"{{{{ range .spec.{kind}s }}}}",
        "- name: {{ .name | Quote }}",
        "  image: {{ .image | Quote }}",
        f"  ready: {str(ready).lower()}",
        f"  state: {{{state}}}{more}",
        "{{ end }}",
    ]
    # Inside the loop `.` is the container.
    return "\n".join(lines).replace("index .metadata", "index $.metadata") + "\n"


def _annotation(name: str) -> str:
    return f'.metadata.annotations["{name}"]'


def _alive() -> dict[str, Any]:
    return _absent(".metadata.deletionTimestamp")


def _exists(path: str) -> dict[str, Any]:
    return {"key": path, "operator": "Exists"}


def _equals(path: str, value: str) -> dict[str, Any]:
    return {"key": path, "operator": "In", "values": [value]}


def _absent(path: str) -> dict[str, Any]:
    return {"key": path, "operator": "DoesNotExist"}
