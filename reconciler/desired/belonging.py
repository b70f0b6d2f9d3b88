"""Documents of a namespace that belongs to other folders of the repository: for services they are not there. Pure.

A Secret is checked where it is read. A service elsewhere runs, but gets none of them (`keyring`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from reconciler.config.settings import TargetSettings
from reconciler.desired.context import SERVICE
from reconciler.manifests import CLUSTER_SCOPED, Manifest, Manifests
from reconciler.model import Reason, ReasonCode


def drop_misplaced(manifests: Manifests, target: TargetSettings) -> tuple[Manifests, tuple[Reason, ...]]:
    """The Secrets that apply here, and the reasons why others do not."""
    if not target.secrets.folders:
        return manifests, ()
    at_home = {_key(each, target) for each in manifests.of_kind(SERVICE) if not _owners(each, target)}
    misplaced = {
        each: owners
        for each in manifests.documents
        if (owners := _owners(each, target)) and (each.kind != SERVICE or _key(each, target) in at_home)
    }
    kept = tuple(each for each in manifests.documents if each not in misplaced)
    return replace(manifests, documents=kept), tuple(_reason(*each, target) for each in misplaced.items())


def _owners(document: Manifest, target: TargetSettings) -> tuple[str, ...]:
    """The folders that it should stand in; none where it may stand where it does."""
    namespace = _namespace(document, target)
    if document.kind in CLUSTER_SCOPED or document.kind in ("Host", "Secret"):
        return ()
    place = target.secrets.folder_of(document.place)
    if place is not None and namespace in place.namespaces:
        return ()
    return tuple(each.path for each in target.secrets.folders if namespace in each.namespaces)


def _key(document: Manifest, target: TargetSettings) -> tuple[str, str]:
    return _namespace(document, target), document.name


def _namespace(document: Manifest, target: TargetSettings) -> str:
    return document.namespace or target.default_namespace


def _reason(document: Manifest, owners: Iterable[str], target: TargetSettings) -> Reason:
    what = f"{document.kind} {document.name} of namespace {_namespace(document, target)}"
    text = (
        f"{what} is used only in {', '.join(owners)}, according to targets[].secrets.folders of {target.name}: "
        "services do not get it; move it, or allow its namespace here"
    )
    return Reason(ReasonCode.DOCUMENT_NOT_ALLOWED, text, document.origin)
