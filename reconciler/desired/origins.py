"""Which line of git is to blame: arguments, variables, fields, and what KServe's rules complain of. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

from reconciler.kserve.issues import Issue
from reconciler.kserve.names import CONNECTIONS, FRAMEWORKS, RUNTIME_KINDS
from reconciler.kserve.resolve import Resolved
from reconciler.manifests import FieldPath, Manifest, Manifests
from reconciler.model import Argument, Origin

CONTAINER = "kserve-container"
_PREDICTOR: FieldPath = ("spec", "predictor")
# By what entries of a container's lists are merged.
_KEYS = {"volumeMounts": "mountPath", "env": "name", "ports": "containerPort"}
# Where a service may hold the fields of its container: `model`, or one of the older fields named by a framework.
_IMPLEMENTATIONS = frozenset({"model", *FRAMEWORKS})


@dataclass(frozen=True, slots=True)
class Origins:
    """A service's document, and that of its runtime where there is one."""

    service: Manifest
    runtime: Manifest | None = None

    def of_field(self, path: FieldPath) -> Origin:
        """Where the service writes a field, or the nearest field around it."""
        return self.service.origin_of(path)

    def of_issue(self, issue: Issue, pod: Mapping[str, Any]) -> Origin:
        """Where what an issue is about is written. `pod` is what it became."""
        if issue.pod_path:
            return self._of_pod_element(issue.pod_path, pod) or self.of_field(issue.path)
        return self.of_field(issue.path) if issue.path else self.service.origin

    def _of_pod_element(self, path: FieldPath, pod: Mapping[str, Any]) -> Origin | None:
        kind, *rest = path
        if kind not in ("volumes", "containers", "initContainers") or not rest:
            return self.of_pod_field(path)
        element = _step(pod.get(str(kind)), rest[0])
        if kind != "containers" or element.get("name") != CONTAINER:
            return self.find_entry(str(kind), str(element.get("name")))
        key, *more = rest[1:] or ("name",)
        if key in _KEYS and more:
            return self._find_item(str(key), _step(element.get(str(key)), more[0]).get(_KEYS[str(key)]))
        return self.of_container_field(key, *more)

    def arguments(self, merged: Iterable[str]) -> tuple[Argument, ...]:
        """The container's args, each with its line: KServe appends the service's to the runtime's, and then its own."""
        lines = chain(self._lines_of_args("runtime"), self._lines_of_args("service"), repeat(self.service.origin))
        return tuple(map(Argument, merged, lines))

    def _lines_of_args(self, source: str) -> tuple[Origin, ...]:
        manifest, containers = self._containers(source)
        return _lines_of_items(manifest, (*containers[0], "args")) if containers else ()

    def command(self, merged: Iterable[str]) -> tuple[Argument, ...]:
        """The container's command, each argument with its line: the service's, else the runtime's."""
        for source in ("service", "runtime"):
            manifest, containers = self._containers(source)
            for container in containers:
                if "command" in at(manifest, container):
                    lines = _lines_of_items(manifest, (*container, "command"))
                    return tuple(map(Argument, merged, chain(lines, repeat(self.service.origin))))
        return tuple(Argument(each, self.service.origin) for each in merged)

    def of_variable(self, name: str, source: str = "") -> Origin:
        """Where an environment variable is written, or what brings it along: of a whole map or Secret, its entry.

        The service's entry comes last, so it is looked up first.
        """
        for document in ("service", "runtime"):
            manifest, containers = self._containers(document)
            for path in containers:
                if (index := _variables(manifest, path).get(name)) is not None:
                    return manifest.origin_of((*path, "env", index))
        return self._find_whole(source) or self.of_container_field("envFrom")

    def _find_whole(self, source: str) -> Origin | None:
        kind, _, what = source.partition(" ")
        key, holder = {"secret": "secretRef", "configmap": "configMapRef"}.get(kind, ""), what.partition("/")[0]
        for manifest, container in reversed([*self.written_containers()]):
            for index, each in enumerate(_items(at(manifest, container).get("envFrom"))):
                reference = each.get(key) if isinstance(each, dict) else None
                if isinstance(reference, dict) and reference.get("name") == holder:
                    return manifest.origin_of((*container, "envFrom", index))
        return None

    def of_container_field(self, *path: str | int) -> Origin:
        """Where a field of the container (`image`, `resources`…) is written: by the service, else by the runtime."""
        written = [
            (_depth(manifest, (*container, *path)) - len(container), manifest, (*container, *path))
            for manifest, container in reversed([*self.written_containers()])
        ]
        # What both write is merged key by key: the one that has the whole path wrote it.
        for least in (len(path), 1):
            for depth, manifest, where in written:
                if depth >= least:
                    return manifest.origin_of(where)
        return self.service.origin

    def of_limit(self, name: str) -> Origin:
        """Where the container's resources name one of them: by the service, else by the runtime."""
        for source in ("service", "runtime"):
            manifest, containers = self._containers(source)
            for container in containers:
                for key in ("limits", "requests"):
                    path = (*container, "resources", key)
                    if name in at(manifest, path):
                        return manifest.origin_of((*path, name))
        return self.of_container_field("resources")

    def of_volume_mount(self, path: str) -> Origin:
        """Where the container mounts something at a path: by the service, else by the runtime."""
        return self._find_item("volumeMounts", path) or self.of_container_field("volumeMounts")

    def _find_item(self, key: str, value: Any) -> Origin | None:
        for manifest, container in reversed([*self.written_containers()]):
            index = _index_of(at(manifest, container).get(key), _KEYS[key], value)
            if index is not None:
                return manifest.origin_of((*container, key, index))
        return None

    def of_mount(self, path: str, uri: str) -> Origin:
        """Where a folder is mounted: by the container, else as what the model comes from."""
        return self._find_item("volumeMounts", path) or self.of_storage(uri)

    def of_entry(self, key: str, name: str) -> Origin:
        """Where an entry of the pod's `volumes`, `containers`… is written: by the service, else by the runtime."""
        return self.find_entry(key, name) or self.service.origin

    def find_entry(self, key: str, name: str) -> Origin | None:
        """The same; None for what KServe added."""
        for manifest, path in ((self.service, _PREDICTOR), (self.runtime or self.service, ("spec",))):
            if (index := _index_of(at(manifest, path).get(key), "name", name)) is not None:
                return manifest.origin_of((*path, key, index))
        return None

    def of_annotation(self, key: str) -> Origin:
        """Where an annotation of the pod is written: by the predictor, else the service, else the runtime's spec."""
        for path in ((*_PREDICTOR, "annotations"), ("metadata", "annotations")):
            if key in at(self.service, path):
                return self.service.origin_of((*path, key))
        if self.runtime and key in at(self.runtime, ("spec", "annotations")):
            return self.runtime.origin_of(("spec", "annotations", key))
        return self.service.origin

    def of_storage(self, uri: str) -> Origin:
        """Where the service says where its model comes from."""
        for path in _service_containers(self.service):
            for key in ("storageUri", "storage"):
                if at(self.service, path).get(key):
                    return self.service.origin_of((*path, key))
        for index, each in enumerate(_items(at(self.service, _PREDICTOR).get("storageUris"))):
            if isinstance(each, dict) and each.get("uri") == uri:
                return self.service.origin_of((*_PREDICTOR, "storageUris", index, "uri"))
        for path in _service_containers(self.service):
            if (place := _variables(self.service, path).get("STORAGE_URI")) is not None:
                return self.service.origin_of((*path, "env", place))
        if CONNECTIONS in at(self.service, ("metadata", "annotations")):
            return self.service.origin_of(("metadata", "annotations", CONNECTIONS))
        return self.service.origin

    def of_pod_field(self, path: FieldPath) -> Origin:
        """Where a field of the pod is written: by the service, else by the runtime, whose fields are beneath."""
        service = (*_PREDICTOR, *path)
        if self.runtime and _depth(self.runtime, ("spec", *path)) > _depth(self.service, service) - 1:
            return self.runtime.origin_of(("spec", *path))
        return self.service.origin_of(service)

    def storage_key(self) -> str:
        """The `storage.key` that the service names, or nothing."""
        for path in _service_containers(self.service):
            storage = at(self.service, (*path, "storage"))
            if storage.get("key"):
                return str(storage["key"])
        return ""

    def written_containers(self) -> Iterator[tuple[Manifest, FieldPath]]:
        """Every place where fields of the model's container are written, the runtime's first."""
        for source in ("runtime", "service"):
            manifest, containers = self._containers(source)
            yield from ((manifest, path) for path in containers)

    def _containers(self, source: str) -> tuple[Manifest, list[FieldPath]]:
        if source == "service":
            return self.service, list(_service_containers(self.service))
        if source != "runtime" or self.runtime is None:
            return self.service, []
        return self.runtime, list(_named_container(self.runtime, ("spec",)))


def _service_containers(service: Manifest) -> Iterator[FieldPath]:
    predictor = at(service, _PREDICTOR)
    for key in _IMPLEMENTATIONS & predictor.keys():
        if isinstance(predictor[key], dict):
            yield (*_PREDICTOR, key)
    yield from _named_container(service, _PREDICTOR)


def _named_container(manifest: Manifest, around: FieldPath) -> Iterator[FieldPath]:
    """The container that KServe takes for the model's: the one with its name, else the first."""
    containers = _items(at(manifest, around).get("containers"))
    named = [i for i, each in enumerate(containers) if isinstance(each, dict) and each.get("name") == CONTAINER]
    for index in named or ([0] if containers and isinstance(containers[0], dict) else []):
        yield (*around, "containers", index)


@lru_cache(16)
def _lines_of_items(manifest: Manifest, path: FieldPath) -> tuple[Origin, ...]:
    """Where each item of a list stands. Many services share a runtime's."""
    items = _items(at(manifest, path[:-1]).get(str(path[-1])))
    return tuple(manifest.origin_of((*path, index)) for index in range(len(items)))


@lru_cache(16)
def _variables(manifest: Manifest, container: FieldPath) -> Mapping[str, int]:
    """Where each variable stands first. A container may have thousands, and each of them is asked for."""
    found: dict[str, int] = {}
    for index, entry in enumerate(_items(at(manifest, container).get("env"))):
        if isinstance(entry, dict) and isinstance(name := entry.get("name"), str):
            found.setdefault(name, index)
    return found


def _depth(manifest: Manifest, path: FieldPath) -> int:
    """How many steps of a path are written down."""
    value: Any = manifest.data
    for number, step in enumerate(path):
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return number
    return len(path)


def at(manifest: Manifest, path: FieldPath) -> dict[str, Any]:
    """The mapping at a path of a document; empty where there is none."""
    value: Any = manifest.data
    for step in path:
        if isinstance(value, dict):
            value = value.get(str(step))
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return {}
    return value if isinstance(value, dict) else {}


def _step(items: Any, index: Any) -> Mapping[str, Any]:
    found = items[index] if isinstance(items, list | tuple) and isinstance(index, int) and index < len(items) else {}
    return found if isinstance(found, Mapping) else {}


def _index_of(entries: Any, key: str, value: Any) -> int | None:
    """Where in a list the entry with this value stands."""
    found = (index for index, each in enumerate(_items(entries)) if isinstance(each, dict) and each.get(key) == value)
    return next(found, None)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def locator(manifests: Manifests, default_namespace: str = "default") -> Callable[[Manifest, Resolved, Issue], Origin]:
    """Finds the line of an issue about a service, which is given with what it became."""
    runtimes = {
        (each.kind, each.namespace or default_namespace if each.kind == "ServingRuntime" else "", each.name): each
        for each in manifests.of_kind(*RUNTIME_KINDS)
    }

    def locate(service: Manifest, resolved: Resolved, issue: Issue) -> Origin:
        ref = resolved.runtime
        runtime = runtimes.get((ref.kind, ref.namespace, ref.name)) if ref else None
        origins = Origins(service, runtime)
        match issue.pod_path:
            case ("containers", int(number), "args", int(index)) if args := _arguments(resolved, number, index):
                return origins.arguments(args)[index].origin or service.origin
        return origins.of_issue(issue, resolved.pod)

    return locate


def _arguments(resolved: Resolved, number: int, index: int) -> tuple[str, ...]:
    """All of the model's container, if it has one of that index: of these alone some are the runtime's."""
    containers = resolved.pod.get("containers") or ()
    if number >= len(containers) or containers[number].get("name") != CONTAINER:
        return ()
    args = tuple(map(str, containers[number].get("args") or ()))
    return args if index < len(args) else ()
