"""Whose a live object is that we did not make, and how its fields become ours. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from reconciler.cluster.api.trimming import OUR_MANAGER
from reconciler.cluster.objects.options import annotations_of
from reconciler.cluster.objects.owned import Fields, Manager, managers_of
from reconciler.kserve import names
from reconciler.model import KubeObject, ObjectId

# Labels and annotations by which tools track what is theirs, and how the value names the owner.
_TRACKING: Final = {
    "argocd.argoproj.io/tracking-id": "Argo CD application {}",
    "argocd.argoproj.io/instance": "Argo CD application {}",
    "kustomize.toolkit.fluxcd.io/name": "Flux Kustomization {}",
    "helm.toolkit.fluxcd.io/name": "Flux HelmRelease {}",
    "meta.helm.sh/release-name": "Helm release {}",
    "fleet.cattle.io/bundle-id": "Fleet bundle {}",
    "kapp.k14s.io/app": "kapp app {}",
    "applyset.kubernetes.io/part-of": "ApplySet {}",
}
# The same tools' other marks.
_MARKS: Final = (
    *_TRACKING,
    "argocd.argoproj.io/installation-id",
    "kustomize.toolkit.fluxcd.io/namespace",
    "helm.toolkit.fluxcd.io/namespace",
    "meta.helm.sh/release-namespace",
)
# Field managers of tools that state what they want as a whole: what they set is what git had there.
_TOOLS: Final = {
    "argocd-controller": "Argo CD",
    "kustomize-controller": "Flux's kustomize-controller",
    "helm-controller": "Flux's helm-controller",
    "helm": "Helm",
    "kubectl": "kubectl apply --server-side",
    "kubectl-client-side-apply": "kubectl apply",
    "kubectl-create": "kubectl create",
    "kubectl-edit": "kubectl edit",
    "kubectl-patch": "kubectl patch",
    "kubectl-replace": "kubectl replace",
    "before-first-apply": "kubectl apply",
}
_LONGEST = 100


def owners_of(live: KubeObject) -> tuple[str, ...]:
    """By labels, annotations, and the object above it; else by who set its fields. Never empty."""
    found = dict.fromkeys([*_controllers(live), *_tracked(live)])
    if not found:
        found = dict.fromkeys(friendly_name(each.name) for each in managers_of(live) if not _is_about_status(each))
    return tuple(found) or ("nobody who says so",)


def friendly_name(manager: str) -> str:
    """What people call the program behind a field manager."""
    return _TOOLS.get(manager, f"field manager {manager[:_LONGEST]}")


def _controllers(live: KubeObject) -> Iterator[str]:
    for owner in live["metadata"].get("ownerReferences") or ():
        yield f"{owner.get('kind', '')} {owner.get('name', '')}".strip()


def _tracked(live: KubeObject) -> Iterator[str]:
    written = {**(live["metadata"].get("labels") or {}), **annotations_of(live)}
    for key, text in _TRACKING.items():
        if isinstance(value := written.get(key), str) and value:
            yield text.format(_named(key, value)[:_LONGEST])


def _named(key: str, value: str) -> str:
    # `APP:GROUP/KIND:NAMESPACE/NAME`
    return value.partition(":")[0] if key.endswith("/tracking-id") else value


def _is_about_status(manager: Manager) -> bool:
    return manager.subresource == "status"


def taken_over(live: KubeObject) -> list[dict[str, Any]]:
    """managedFields that give us what the tools before us own: then one apply makes the object what git says, with
    nothing left behind, and their labels go. What controllers and autoscalers own stays theirs; status is left out,
    for whoever writes it owns it again. Marks that reach pods stay, owned by nobody: without one, all would restart."""
    entries = [entry for entry in live["metadata"].get("managedFields") or () if entry.get("fieldsV1")]
    ours = [entry for entry in entries if _is_to_be_ours(entry)]
    if not ours:
        return entries
    merged: Fields = {}
    for entry in ours:
        merged = _united(merged, entry["fieldsV1"])
    if _reaches_pods(live):
        merged = _without_marks(merged)
    newest = ours[-1]
    mine = {"manager": OUR_MANAGER, "operation": "Apply", "apiVersion": newest["apiVersion"], "fieldsType": "FieldsV1"}
    mine |= {"time": newest["time"]} if "time" in newest else {}
    return [mine | {"fieldsV1": merged}, *(entry for entry in entries if entry not in ours)]


def _reaches_pods(live: KubeObject) -> bool:
    found = ObjectId.of(live)
    return (found.group, found.kind) in names.METADATA_REACHES_PODS


def _without_marks(fields: Fields) -> Fields:
    metadata = dict(fields.get("f:metadata") or {})
    for kind in ("f:labels", "f:annotations"):
        if kind in metadata:
            marks = {f"f:{mark}" for mark in _MARKS}
            metadata[kind] = {key: sub for key, sub in metadata[kind].items() if key not in marks}
    return {**fields, "f:metadata": metadata} if "f:metadata" in fields else fields


def as_taken_over(live: KubeObject) -> KubeObject:
    """The live object as it is once its fields are ours."""
    return {**live, "metadata": {**live["metadata"], "managedFields": taken_over(live)}}


def _is_to_be_ours(entry: dict[str, Any]) -> bool:
    is_known = entry.get("manager") == OUR_MANAGER or entry.get("manager") in _TOOLS
    return is_known and not entry.get("subresource")


def _united(one: Fields, other: Fields) -> Fields:
    """Both sets of fields."""
    return {**one, **{key: _united(one.get(key, {}), sub) for key, sub in other.items()}}
