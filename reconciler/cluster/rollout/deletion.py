"""How a service leaves a cluster: stopped first, so that its pods drain, and then deleted by its UID. Pure.

Nothing is remembered: each pass looks at the InferenceService and its pods, and does what comes next. What is not ours
to end, such as another controller's finalizer, is reported with its name and holds up nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.kserve import names
from reconciler.model import KubeObject

_STOP_FIELD = f"f:{names.STOP}"
_CONTROLLERS: Mapping[str, str] = {
    "inferenceservice.finalizers": "KServe's controller",
    "foregroundDeletion": "Kubernetes' garbage collector",
    "orphan": "Kubernetes' garbage collector",
    "resources-finalizer.argocd.argoproj.io": "Argo CD",
    "finalizers.fluxcd.io": "Flux",
    "odh.inferenceservice.finalizers": "OpenShift AI's controller",
}
"""Who ends which finalizer, by its name or by how its name begins."""


@dataclass(frozen=True, slots=True)
class SetStopAnnotation:
    """Set the annotation by which KServe ends what runs for the service. `patch` is a merge patch."""

    reason: str
    uid: str

    @property
    def patch(self) -> Mapping[str, Any]:
        return {"metadata": {"uid": self.uid, "annotations": {names.STOP: "true"}}}


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Delete the object, if it is still the one with this UID."""

    reason: str
    uid: str


@dataclass(frozen=True, slots=True)
class AwaitPods:
    """Its pods drain; look again at `until`, or when one of them changes."""

    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class AwaitFinalizers:
    """It is deleted, and others have not let go of it. `late`: for longer than it should take."""

    reason: str
    finalizers: tuple[str, ...]
    late: bool
    until: float


@dataclass(frozen=True, slots=True)
class Deleted:
    """Nothing is left of it."""


Step = SetStopAnnotation | DeleteService | AwaitPods | AwaitFinalizers | Deleted


@dataclass(frozen=True, slots=True)
class Leaving:
    """A service that git does not name any more, as it is seen now.

    `service` is its InferenceService, and `pods` those that KServe made for it. `uid` is the one that our inventory
    holds: an object with another UID is another one, and is not ours to delete. `drains` is False where git asks that
    deletes do not drain first.
    """

    service: KubeObject | None
    pods: Sequence[KubeObject]
    uid: str
    now: float
    drains: bool = True
    longest_finalizer: float = 120.0
    margin: float = 15.0


def next_step(leaving: Leaving) -> Step:
    """What is done now. Each step brings it nearer to Deleted, and each wait has an end."""
    service = leaving.service
    if service is None or service["metadata"].get("uid") != leaving.uid:
        return Deleted()
    if service["metadata"].get("deletionTimestamp"):
        return _await_finalizers(leaving, service)
    running = [pod for pod in leaving.pods if _runs(pod)]
    if not leaving.drains or not running:
        return DeleteService("deleted in git" if not running else "deleted in git; git asks for no drain", leaving.uid)
    if not _is_stopped(service):
        return SetStopAnnotation(f"deleted in git; {_pods(running, 'drain')} first", leaving.uid)
    return _after_stop(leaving, service, running)


def _after_stop(leaving: Leaving, service: KubeObject, running: Sequence[KubeObject]) -> Step:
    if is_stop_ignored(service):
        # KServe looks for a runtime first, and without one it stops nothing.
        text = "deleted in git; KServe cannot stop it, for its spec is invalid"
        return DeleteService(f"{text}: {_pods(running, 'end')} with it", leaving.uid)
    since = _stopped_at(service)
    due = since + _grace(running) + leaving.margin if since is not None else leaving.now
    if leaving.now < due:
        return AwaitPods(_pods(running, "drain"), due)
    return DeleteService(f"deleted in git; {_pods(running, 'run')} on after the grace period", leaving.uid)


def is_stop_ignored(service: KubeObject) -> bool:
    """Has KServe found no runtime for it? Then its annotation has no effect, and what runs runs on."""
    status = service.get("status") or {}
    return (status.get("modelStatus") or {}).get("transitionStatus") == "InvalidSpec"


def _await_finalizers(leaving: Leaving, service: KubeObject) -> AwaitFinalizers:
    metadata = service["metadata"]
    since, grace = _moment(metadata["deletionTimestamp"]), metadata.get("deletionGracePeriodSeconds") or 0
    due = (since if since is not None else leaving.now) + grace + leaving.longest_finalizer
    finalizers = tuple(metadata.get("finalizers") or ())
    late = leaving.now >= due
    if not late:
        return AwaitFinalizers(f"is being deleted; it waits for {_those(finalizers)}", finalizers, late, due)
    text = f"is not gone {leaving.longest_finalizer:g} s after it was deleted: {_those(finalizers)} did not let go"
    text = f"{text}; see why that controller does not run, or take the finalizer away with kubectl"
    return AwaitFinalizers(text, finalizers, late, leaving.now + leaving.longest_finalizer)


# ---------------------------------------------------------------- what is seen


def _runs(pod: KubeObject) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _is_stopped(service: KubeObject) -> bool:
    annotations = service["metadata"].get("annotations") or {}
    return str(annotations.get(names.STOP)).lower() == "true"


def _stopped_at(service: KubeObject) -> float | None:
    """When the annotation was written, as the API server noted; None: long ago, for that is forgotten with others."""
    times = []
    for entry in service["metadata"].get("managedFields") or ():
        annotations = ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if _STOP_FIELD in annotations and (at := _moment(entry.get("time"))) is not None:
            times.append(at)
    return max(times, default=None)


def _grace(pods: Sequence[KubeObject]) -> float:
    """What the pod with the longest grace period has, counted from when it was told to end."""
    return max(float((pod.get("spec") or {}).get("terminationGracePeriodSeconds", 30)) for pod in pods)


def _moment(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


# ---------------------------------------------------------------- text


def _pods(pods: Sequence[KubeObject], verb: str) -> str:
    return f"its pod {verb}s" if len(pods) == 1 else f"its {len(pods)} pods {verb}"


def _those(finalizers: Sequence[str]) -> str:
    if not finalizers:
        return "the API server"
    return ", ".join(f"finalizer {name} ({controller_of(name)})" for name in finalizers)


def controller_of(finalizer: str) -> str:
    """Who has to end a finalizer, as far as its name tells."""
    known = next((who for prefix, who in _CONTROLLERS.items() if finalizer.startswith(prefix)), "")
    domain, slash, _ = finalizer.partition("/")
    return known or (f"a controller of {domain}" if slash else "an unknown controller")
