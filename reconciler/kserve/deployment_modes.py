"""What differs in mode Knative, and for services that span several nodes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.merge import merge_containers
from reconciler.kserve.pod import Container, Pod, set_env
from reconciler.kserve.quantity import amount
from reconciler.model import ReasonCode

_AUTOSCALING = "autoscaling.knative.dev"
_INITIAL_SCALE = f"{_AUTOSCALING}/initial-scale"
# These belong to the Knative service, not to its revisions.
_OF_THE_SERVICE = ("serving.knative.dev/rollout-duration", "serving.knative.openshift.io/enablePassthrough")
_VISIBILITY = "networking.knative.dev/visibility"


def make_revision(pod: Pod, predictor: Mapping[str, Any], config: Config) -> None:
    """Annotations and labels of the revision's template."""
    notes = pod.annotations
    notes.setdefault(names.KNATIVE_AUTOSCALING_CLASS, f"kpa.{_AUTOSCALING}")
    for key, field in (("target", "scaleTarget"), ("metric", "scaleMetric"), ("max-scale", "maxReplicas")):
        if field in predictor:
            notes[f"{_AUTOSCALING}/{key}"] = str(predictor[field])
    notes[f"{_AUTOSCALING}/min-scale"] = str(predictor.get("minReplicas", 1))
    for key in _OF_THE_SERVICE:
        notes.pop(key, None)
    if not _is_positive(notes.get(_INITIAL_SCALE, "1")):
        del notes[_INITIAL_SCALE]
    disallowed = {_VISIBILITY, *config.disallowed_labels}
    pod.labels = {key: value for key, value in pod.labels.items() if key not in disallowed}


def _is_positive(text: str) -> bool:
    """Knative starts with no pod only where its own settings allow it; KServe drops what it would refuse."""
    return text.isascii() and text.isdigit() and int(text[:9]) > 0


Document = Mapping[str, Any]


class MultiNodeError(Exception):
    """KServe cannot deploy this; `reason` is set where KServe calls the spec invalid."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def add_head(pod: Pod, service_name: str, predictor: Document, runtime: Document, gpu_types: tuple[str, ...]) -> None:
    """Give the head pod its variables and GPUs. Raises MultiNodeError."""
    worker = _worker(predictor["workerSpec"], runtime)
    head = pod.container(names.KSERVE_CONTAINER) or pod.containers[0]
    sizes = [_size(predictor["workerSpec"], runtime["workerSpec"], key) for key in ("pipeline", "tensor")]
    pipeline, tensor = sizes
    if (runtime.get("annotations") or {}).get(names.EXECUTOR_BACKEND) == "mp":
        nodes, gpus = pipeline, tensor
    else:
        nodes, gpus = _ray_nodes(tensor * pipeline, _gpus(head, gpu_types), _gpus(worker, gpu_types))
    variables = {
        "PIPELINE_PARALLEL_SIZE": pipeline,
        "TENSOR_PARALLEL_SIZE": tensor,
        "RAY_NODE_COUNT": nodes,
        "REQUEST_GPU_COUNT": gpus,
        "MODEL_NAME": service_name,
    }
    for name, value in variables.items():
        set_env(head, name, str(value))
    if pod.annotations.get(names.SOURCE_URI, "").split("://")[0] in ("pvc", "oci"):
        set_env(head, "MODEL_DIR", names.MODEL_MOUNT)
    _give_gpus(head, gpus, gpu_types)


def _worker(own: Document, runtime: Document) -> Container:
    if "workerSpec" not in runtime:
        # KServe's controller panics here and tries again forever.
        raise MultiNodeError(
            "you cannot set WorkerSpec in the InferenceService if the ServingRuntime does not have a WorkerSpec"
        )
    containers = runtime["workerSpec"].get("containers") or ()
    if not containers:
        raise MultiNodeError(
            "No workerSpec container configuration found in selected serving runtime", ReasonCode.INVALID_PREDICTOR_SPEC
        )
    base = next((each for each in containers if each.get("name") == names.WORKER_CONTAINER), None)
    if base is None:
        message = f"failed to find {names.WORKER_CONTAINER} in ServingRuntime containers"
        raise MultiNodeError(message, ReasonCode.INVALID_PREDICTOR_SPEC)
    given: Sequence[Document] = own.get("containers") or ({},)
    return merge_containers(base, given[0])


def _size(own: Document, runtime: Document, which: str) -> int:
    key = f"{which}ParallelSize"
    return int(own.get(key, runtime.get(key, 1)))


def _gpus(container: Document, gpu_types: tuple[str, ...]) -> int:
    requests = (container.get("resources") or {}).get("requests") or {}
    return next((math.ceil(amount(requests[kind])) for kind in gpu_types if kind in requests), 0)


def _ray_nodes(total: int, head: int, worker: int) -> tuple[int, int]:
    """Nodes of the Ray cluster and GPUs of its head."""
    if worker > 0:
        nodes = math.ceil(total / worker)
        if head > 0 and math.ceil(total / head) == 1:
            nodes = 1
        head = head or total - worker * (nodes - 1)
        if nodes == 1:
            worker, head = 0, total
    elif head > 0:
        worker, nodes = 1, max(total - head, 0) + 1
    else:
        return total, 1
    if total > head + worker * (nodes - 1):
        raise MultiNodeError(
            f"the total required number of GPUs({total}) is less than the number of GPUs assigned to the "
            f"head node({head}) + worker node({worker * (nodes - 1)})"
        )
    return nodes, head


def _give_gpus(container: Container, count: int, gpu_types: tuple[str, ...]) -> None:
    resources = container.get("resources") or {}
    limits, requests = dict(resources.get("limits") or {}), dict(resources.get("requests") or {})
    kind = "nvidia.com/gpu"
    for each in gpu_types:
        if any(each in amounts and amount(amounts[each]) for amounts in (limits, requests)):
            kind = each
            break
    limits[kind] = requests[kind] = str(count)
    container["resources"] = {**resources, "limits": limits, "requests": requests}
