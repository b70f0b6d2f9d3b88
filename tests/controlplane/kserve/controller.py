"""A controller that does with InferenceServices what KServe 0.20 was seen to do.

KServe's own is not to be had as a Go module. This one makes the same objects (mode Standard): a Deployment, a Service,
an Ingress and an HPA. What becomes of them is up to Kubernetes' own controllers; the status follows from that. One
thing differs: a runtime that appears is found within a second, where KServe waits longer after each try.

It runs as KServe's does: with its user and its name of a field manager.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import urllib3

from reconciler.kserve.resolve import ClusterObjects, Resolved, resolve
from tests.controlplane.api import Api, ApiError, wait_for
from tests.controlplane.kserve import children, status

Document = dict[str, Any]
Key = tuple[str, str]
BETA, ALPHA = "serving.kserve.io/v1beta1", "serving.kserve.io/v1alpha1"
MANAGER = "manager"
FINALIZER = "inferenceservice.finalizers"
LABEL = "serving.kserve.io/inferenceservice"
_STOP, _NO_AUTO_UPDATE = "serving.kserve.io/stop", "serving.kserve.io/disable-auto-update"
_RETRY_SECONDS = 0.5
_WATCH_SECONDS = 30
_BROKEN = (ApiError, urllib3.exceptions.HTTPError, ValueError, KeyError)


class Controller:
    """Works in threads of its own from `start` to `stop`; whatever the API server does meanwhile, it goes on."""

    def __init__(self, api: Api, *, creates_ingress: bool = True, progress_deadline: int = 600) -> None:
        self._api = api
        self._creates_ingress = creates_ingress
        self._deadline = progress_deadline
        self._due: queue.Queue[Key] = queue.Queue()
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._generations: dict[Key, int] = {}
        self._versions: dict[str, str] = {}
        self._busy_at = time.monotonic()

    def start(self) -> None:
        for version, kind, labels in (
            (BETA, "InferenceService", ""),
            ("apps/v1", "Deployment", LABEL),
            ("v1", "Pod", LABEL),
            (ALPHA, "ServingRuntime", ""),
            (ALPHA, "ClusterServingRuntime", ""),
        ):
            self._run(self._watch, version, kind, labels)
        self._run(self._work)

    def stop(self) -> None:
        """Nothing is written any more once this returns."""
        self._is_over.set()
        self._threads[-1].join()

    def wait_until_idle(self) -> None:
        """Until nothing has woken it for a while; a service that is tried again and again does so less often."""
        wait_for(lambda: time.monotonic() - self._busy_at > 0.3, what="nothing happens to any service")

    def _run(self, target: Any, *args: str) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _watch(self, version: str, kind: str, labels: str) -> None:
        while not self._is_over.is_set():
            try:
                for event in self._api.watch(version, kind, labels=labels, seconds=_WATCH_SECONDS):
                    self._notice(kind, event)
            except _BROKEN:
                time.sleep(0.1)

    def _notice(self, kind: str, event: Mapping[str, Any]) -> None:
        metadata = event["object"]["metadata"]
        is_known = self._versions.get(metadata["uid"]) == metadata["resourceVersion"]
        self._versions[metadata["uid"]] = metadata["resourceVersion"]
        # A watch that begins again tells all there is, and KServe would look only at what has changed.
        if is_known:
            return
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        if kind == "InferenceService":
            self._due.put((namespace, name))
        elif kind in ("Deployment", "Pod"):
            self._due.put((namespace, metadata["labels"][LABEL]))
        else:
            before = self._generations.get((namespace, name))
            self._generations[namespace, name] = metadata["generation"]
            # Neither a new runtime nor a deleted one wakes a service, only an edited one.
            if before not in (None, metadata["generation"]):
                self._wake_users(kind, namespace, name)

    def _wake_users(self, kind: str, namespace: str, name: str) -> None:
        field = "servingRuntimeName" if kind == "ServingRuntime" else "clusterServingRuntimeName"
        for service in self._api.list(BETA, "InferenceService", namespace or None):
            if (service.get("status") or {}).get(field) == name:
                self._due.put((service["metadata"]["namespace"], service["metadata"]["name"]))

    def _work(self) -> None:
        while not self._is_over.is_set():
            for key in self._take():
                self._busy_at = time.monotonic()
                try:
                    again = self._reconcile(*key)
                except _BROKEN:
                    again = True
                if again:
                    later = threading.Timer(_RETRY_SECONDS, self._due.put, [key])
                    later.daemon = True
                    later.start()

    def _take(self) -> set[Key]:
        """All that is due now, once each; waits a little for the first."""
        found: set[Key] = set()
        with contextlib.suppress(queue.Empty):
            found.add(self._due.get(timeout=0.1))
            while True:
                found.add(self._due.get_nowait())
        return found

    # ---------------------------------------------------------------------------------------------- one service

    def _reconcile(self, namespace: str, name: str) -> bool:
        """Whether it is to be looked at again soon."""
        service = self._api.find(service_at(namespace, name))
        if service is None or self._is_left_alone(service):
            return False
        if service["metadata"].get("deletionTimestamp"):
            self._set_finalizers(service, [])
            return False
        if FINALIZER not in service["metadata"].get("finalizers", ()):
            service = self._set_finalizers(service, [FINALIZER])
        before = service.get("status") or {}
        objects = read_objects(self._api, namespace)
        resolved = resolve(service, objects, may_use_secrets=False)
        if resolved.model_status.get("transitionStatus") == "InvalidSpec":
            self._write(service, status.invalid(before, resolved.model_status["lastFailureInfo"]))
            self._event(service, "Warning", "InternalError", resolved.errors[0].message)
            return True
        if not resolved.pod:
            self._write(service, status.unknown(before))
            self._event(service, "Warning", "InternalError", resolved.errors[0].message)
            return True
        if str(service["metadata"].get("annotations", {}).get(_STOP)).lower() == "true":
            self._remove(service, list(children.KINDS))
            self._write(service, status.stopped(before, _runtime(resolved)))
            return False
        return self._serve(service, resolved, objects)

    @staticmethod
    def _is_left_alone(service: Document) -> bool:
        annotations = service["metadata"].get("annotations") or {}
        if annotations.get("serving.kserve.io/deploymentMode", "Standard") not in ("Standard", "RawDeployment"):
            return True
        is_ready = status.condition(service.get("status") or {}, "Ready").get("status") == "True"
        return is_ready and annotations.get(_NO_AUTO_UPDATE) == "true"

    def _set_finalizers(self, service: Document, finalizers: list[str]) -> Document:
        others = [each for each in service["metadata"].get("finalizers", ()) if each != FINALIZER]
        change = {"metadata": {"finalizers": [*others, *finalizers]}}
        return self._api.patch(service, change, manager=MANAGER)

    def _serve(self, service: Document, resolved: Resolved, objects: ClusterObjects) -> bool:
        before = service.get("status") or {}
        template = resolve(children.without_storage(service), objects, may_use_secrets=False).pod
        made = children.make_children(service, template, self._deadline)
        try:
            applied = {kind: self._api.apply(child, MANAGER, force=True) for kind, child in made.items()}
        except ApiError as error:
            if error.code not in (400, 422):
                raise
            self._write(service, status.refused(before, _runtime(resolved), error.message))
            return True
        deployment = applied["Deployment"]
        if self._creates_ingress and status.predictor_ready(deployment)["status"] == "True":
            self._api.apply(children.make_ingress(service), MANAGER, force=True)
        self._remove(service, [kind for kind in children.BY_SCALER if kind not in made])
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        pods = self._api.list("v1", "Pod", namespace, f"{LABEL}={name}")
        urls = children.urls_of(service)
        now = status.serving(before, _runtime(resolved), deployment, pods, urls, self._creates_ingress)
        self._write(service, now)
        return False

    def _remove(self, service: Document, kinds: Sequence[str]) -> None:
        for kind in kinds:
            self._api.delete(children.place_of(service, kind), propagationPolicy="Background")

    def _write(self, service: Document, now: Document) -> None:
        """Where it changes, the change wakes us again, and KServe as well."""
        before = service.get("status") or {}
        now = _timed(now, before)
        if now == before:
            return
        path = self._api.path(service) + "/status"
        self._api.request("PUT", path, {**service, "status": now}, fieldManager=MANAGER)
        self._tell_readiness(service, before, now)

    def _tell_readiness(self, service: Document, before: Document, now: Document) -> None:
        was, is_now = (status.condition(each, "Ready").get("status") == "True" for each in (before, now))
        name = service["metadata"]["name"]
        if is_now and not was:
            self._event(service, "Normal", "InferenceServiceReady", f"InferenceService [{name}] is Ready")
        elif was and not is_now:
            bad = ", ".join(each["type"] for each in now["conditions"] if each["status"] != "True")
            text = f"InferenceService [{name}] is no longer Ready because of: {bad}"
            self._event(service, "Warning", "InferenceServiceNotReady", text)

    def _event(self, service: Document, kind: str, reason: str, message: str) -> None:
        metadata = service["metadata"]
        about = {key: metadata[key] for key in ("name", "namespace", "uid")}
        now = _now()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.{reason.lower()}", "namespace": metadata["namespace"]},
            "involvedObject": {"apiVersion": BETA, "kind": "InferenceService", **about},
            "type": kind,
            "reason": reason,
            "message": message,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": "v1beta1Controllers"},
        }
        with contextlib.suppress(ApiError):
            self._api.apply(event, MANAGER, force=True)


def read_objects(api: Api, namespace: str) -> ClusterObjects:
    """What KServe reads beside a service. It knows no display names."""
    found: list[Document] = [*api.list(ALPHA, "ServingRuntime", namespace), *api.list(ALPHA, "ClusterServingRuntime")]
    for each in found:
        each["metadata"].get("annotations", {}).pop("openshift.io/display-name", None)
    for kind in ("Secret", "ServiceAccount"):
        found += api.list("v1", kind, namespace)
    return ClusterObjects.build(found, default_namespace=namespace, default_mode="Standard")


def service_at(namespace: str, name: str) -> Document:
    """Enough of an InferenceService to find it."""
    return {"apiVersion": BETA, "kind": "InferenceService", "metadata": {"name": name, "namespace": namespace}}


def _runtime(resolved: Resolved) -> dict[str, str]:
    """As the status names it."""
    if resolved.runtime is None:
        return {}
    field = "servingRuntimeName" if resolved.runtime.kind == "ServingRuntime" else "clusterServingRuntimeName"
    return {field: resolved.runtime.name}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _timed(now: Document, before: Document) -> Document:
    """With the times at which conditions and failures came to be."""
    conditions = []
    for each in now["conditions"]:
        plain = {key: value for key, value in each.items() if key != "lastTransitionTime"}
        last = status.condition(before, each["type"])
        is_same = last.get("status") == each["status"]
        conditions.append({**plain, "lastTransitionTime": last["lastTransitionTime"] if is_same else _now()})
    model = dict(now["modelStatus"])
    if failure := model.get("lastFailureInfo"):
        old = (before.get("modelStatus") or {}).get("lastFailureInfo") or {}
        is_same = {**failure, "time": 0} == {**old, "time": 0}
        model["lastFailureInfo"] = old if is_same else {**failure, "time": _now()}
    return {**now, "conditions": conditions, "modelStatus": model}
