"""What KServe's webhook refuses about a ServingRuntime or ClusterServingRuntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.predictor import env_value, unknown_gpu
from reconciler.kserve.runtime_selection import Runtime
from reconciler.kserve.validation import blocked_env

Document = Mapping[str, Any]


class _Problem(Exception):
    pass


class AppliedRuntimes:
    """The runtimes of one scope that were applied before, by name and by what their priorities are given for."""

    def __init__(self) -> None:
        self._by_name: dict[str, Runtime] = {}
        self._by_claim: dict[tuple[Any, ...], set[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def add(self, runtime: Runtime) -> None:
        """Also in place of one of the same name."""
        if known := self._by_name.get(runtime.name):
            for claim in _claims(known):
                self._by_claim[claim].discard(known.name)
        self._by_name[runtime.name] = runtime
        for claim in _claims(runtime):
            self._by_claim.setdefault(claim, set()).add(runtime.name)

    def get(self, name: str) -> Runtime | None:
        return self._by_name.get(name)

    def rivals(self, runtime: Runtime) -> list[Runtime]:
        """Others that share a claim, by name: to compare with all would take the square of their number."""
        sharing = (self._by_claim.get(claim, ()) for claim in _claims(runtime))
        found = {name for names in sharing for name in names} - {runtime.name}
        return [self._by_name[name] for name in sorted(found)]


def _claims(runtime: Runtime) -> Iterator[tuple[Any, ...]]:
    kind = runtime.spec.get("multiModel") is True
    for entry in _selectable(runtime.spec):
        if (priority := entry.get("priority")) is not None:
            name = entry.get("name", "").casefold()
            for protocol in runtime.spec.get("protocolVersions") or ():
                yield kind, protocol, name, entry.get("version"), priority


def runtime_refusal(runtime: Runtime, earlier: AppliedRuntimes, config: Config) -> str:
    """Why a runtime is refused, given those of its scope that were applied before it; empty when it is accepted."""
    if runtime.is_disabled:
        return ""
    if message := _priority_problem(runtime, earlier):
        return message
    what = f"the {runtime.kind} {runtime.name} is invalid: "
    before = earlier.get(runtime.name)
    try:
        if before and "workerSpec" in before.spec and "workerSpec" not in runtime.spec:
            raise _Problem("removing workerSpec where it already exists is not allowed")
        _check_multi_node(runtime.spec, config)
    except _Problem as problem:
        return what + str(problem)
    worker = runtime.spec.get("workerSpec") or {}
    for container in (*(runtime.spec.get("containers") or ()), *(worker.get("containers") or ())):
        if message := blocked_env(container):
            return f'the {runtime.kind} "{runtime.name}" is invalid: {message}'
    return ""


def _priority_problem(runtime: Runtime, earlier: AppliedRuntimes) -> str:
    """KServe compares with runtimes that exist: the first of a scope is never refused for its priorities."""
    scope = "clusterservingruntime" if runtime.kind == "ClusterServingRuntime" else "servingruntime"
    where = f" in namespace {runtime.namespace}" if runtime.namespace else ""
    if earlier and (name := _inconsistent(runtime.spec)):
        return f"different priorities assigned for the model format {name} under the {scope} {runtime.name}"
    for other in earlier.rivals(runtime):
        if name := _conflict(runtime.spec, other):
            text = f"same priority assigned for the model format {name}"
            return f"{text} in the {scope}s {other.name} and {runtime.name}{where}"
    return ""


def _selectable(spec: Document) -> list[Document]:
    return [entry for entry in spec.get("supportedModelFormats") or () if entry.get("autoSelect") is True]


def _inconsistent(spec: Document) -> str:
    """A format that stands there twice with different priorities."""
    known: dict[str, int | None] = {}
    for entry in _selectable(spec):
        name, priority = entry.get("name", ""), entry.get("priority")
        if None not in (known.get(name), priority) and known[name] != priority:
            return str(name)
        known.setdefault(name, priority)
    return ""


def _conflict(spec: Document, other: Runtime) -> str:
    """A format and version to which another runtime gives the same priority for the same listed protocol."""
    same_kind = (spec.get("multiModel") is True) == (other.spec.get("multiModel") is True)
    protocols = set(spec.get("protocolVersions") or ()) & set(other.spec.get("protocolVersions") or ())
    if not same_kind or other.is_disabled or not protocols:
        return ""
    for theirs in _selectable(other.spec):
        for mine in _selectable(spec):
            same = mine.get("name", "").casefold() == theirs.get("name", "").casefold()
            if (
                same
                and mine.get("version") == theirs.get("version")
                and None is not mine.get("priority") == theirs.get("priority")
            ):
                return str(mine.get("name", ""))
    return ""


def _check_multi_node(spec: Document, config: Config) -> None:
    worker = spec.get("workerSpec")
    if worker is None:
        return
    containers = worker.get("containers") or ()
    if len(containers) > 1:
        raise _Problem("setting multiple containers in workerSpec is not allowed")
    annotations = spec.get("annotations") or {}
    for container in spec.get("containers") or ():
        if container.get("name") == names.KSERVE_CONTAINER:
            for variable in ("PIPELINE_PARALLEL_SIZE", "TENSOR_PARALLEL_SIZE"):
                if env_value(container.get("env"), variable) is not None:
                    raise _Problem(f"setting {variable} in environment variables is not allowed")
            _check_gpus(container, annotations, config)
    if not containers:
        raise _Problem("KServe's webhook panics on a workerSpec without containers (index out of range)")
    if containers[0].get("name") == names.WORKER_CONTAINER:
        _check_gpus(containers[0], annotations, config)
    for key, title in (("pipelineParallelSize", "Pipeline"), ("tensorParallelSize", "Tensor")):
        if worker.get(key, 1) < 1:
            raise _Problem(f"the WorkerSpec.{title}ParallelSize cannot be less than 1({worker[key]})")


def _check_gpus(container: Document, annotations: Mapping[str, str], config: Config) -> None:
    if unknown_gpu(container.get("resources") or {}, annotations, config, _Problem):
        raise _Problem(f"unknown GPU resource type in a container({container.get('name', '')})")
