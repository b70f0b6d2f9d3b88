"""The tree as a whole → the services of one target, also those that cannot be used. Pure."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence

from reconciler.config import HostTarget
from reconciler.desired.deviations import of_document
from reconciler.desired.scene import SERVICE, DesiredCache, Scene, enter_scene
from reconciler.desired.service import describe, unusable
from reconciler.desired.support import Place
from reconciler.desired.unseen import (
    doubled_hosts,
    faults_without_services,
    find_host,
    is_prunable,
    own_file,
    skipped_files,
    unreadable_places,
)
from reconciler.manifests import Manifest, Manifests, cordon_of, find_duplicates
from reconciler.model import Desired, DesiredState, Origin, Reason, ServiceId, Snapshot
from reconciler.secrets import NO_SECRETS, SecretStore
from reconciler.secrets.disclosed import disclosed

_DOUBLES_NAMED = 3
_FRAMES = 10
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def build_desired(
    manifests: Manifests,
    target: HostTarget,
    snapshot: Snapshot,
    cache: DesiredCache | None = None,
    secrets: SecretStore = NO_SECRETS,
) -> DesiredState:
    """Every InferenceService of the target, also those that cannot be used: these say why.

    `secrets` are all that this host has, those in git included. Of the snapshot only its revision and what
    is refused or missing are looked at.
    """
    cache = cache or DesiredCache()
    services = manifests.of_kind(SERVICE)
    bad_names = [reason for each in services if (reason := _bad_name(each))]
    usable = [each for each in services if not _bad_name(each)]
    scene = enter_scene(manifests, target, snapshot, cache, secrets)
    known, cache.services = cache.services, {}
    for each in usable:
        cache.services[each] = known.get(each) or _describe_safely(each, scene, cache)
    host = find_host(manifests, target, snapshot)
    return DesiredState(
        target=target.name,
        revision=snapshot.revision,
        services=tuple(_without_doubles(cache.services, target)),
        unreadable=(*unreadable_places(manifests, snapshot), *bad_names, *doubled_hosts(manifests, target)),
        prunable=is_prunable(manifests, target, snapshot),
        notes=(*_notes(manifests, target, snapshot), *secrets.notes),
        refused=(*faults_without_services(manifests), *secrets.faults),
        cordon=cordon_of(host) if host else None,
        cordon_known=host is not None,
        skipped=skipped_files(manifests, snapshot),
        paths=target.paths,
        in_default_namespace=frozenset(
            ServiceId(target.default_namespace, each.name) for each in usable if each.namespace is None
        ),
    )


def _describe_safely(service: Manifest, scene: Scene, cache: DesiredCache) -> Desired:
    """A service that we fail on is one that cannot be used: what runs of it is kept, and the others go on."""
    try:
        return describe(service, scene)
    except MemoryError:
        # Whatever took it is still held: this is about the whole revision.
        raise
    except Exception as error:
        # Not its words: they may hold a Secret's.
        what = type(error).__name__
        cache.tracebacks.append(f"{service.origin}: {service.name}: {what}\n{_frames(error)}")
        text = (
            f"working out {service.name} failed ({what}): a bug in the reconciler; what runs of it is kept. "
            "Undo the last change of it or of its runtime, and report the traceback in the daemon's log"
        )
        key = ServiceId(service.namespace or scene.target.default_namespace, service.name)
        return Desired(key, service.origin, None, "", problems=(Reason("InternalError", text, service.origin),))


def _frames(error: Exception) -> str:
    """The first and the last: a recursion has a thousand."""
    frames = traceback.format_tb(error.__traceback__)
    return "".join(frames if len(frames) <= 2 * _FRAMES else [*frames[:_FRAMES], "  ...\n", *frames[-_FRAMES:]])


def _bad_name(service: Manifest) -> Reason | None:
    """Names become host names and folders: only what KServe accepts becomes a service at all."""
    if _LABEL.fullmatch(service.name):
        return None
    text = f"{service.name} cannot name a service; begin with a letter and use small letters, digits and -, 63 at most"
    return Reason("InvalidName", text, service.origin_of(("metadata", "name")))


def _without_doubles(described: dict[Manifest, Desired], target: HostTarget) -> Iterator[Desired]:
    doubles = {group[0]: group for group in find_duplicates(described, target.default_namespace)}
    hidden = {manifest for group in doubles.values() for manifest in group[1:]}
    for manifest, desired in described.items():
        if manifest in doubles:
            problems = tuple(_doubled(each, doubles[manifest]) for each in doubles[manifest])
            yield unusable(desired.id, manifest, problems)
        elif manifest not in hidden:
            yield desired


def _doubled(manifest: Manifest, group: Sequence[Manifest]) -> Reason:
    named = [str(each.origin) for each in group[: _DOUBLES_NAMED + 1] if each is not manifest][:_DOUBLES_NAMED]
    more = len(group) - 1 - len(named)
    others = " and ".join([*named, *([f"{more} more places"] if more else [])])
    return Reason(
        "Duplicate", f"{manifest.kind} {manifest.name} is also written at {others}; keep one", manifest.origin
    )


def _notes(manifests: Manifests, target: HostTarget, snapshot: Snapshot) -> Iterator[Reason]:
    yield from manifests.notes
    if not is_prunable(manifests, target, snapshot):
        file = own_file(target)
        text = f"{file} is missing or holds no Host document: nothing is pruned on {target.name}; restore it"
        yield Reason("NotPrunable", text, Origin(file, 1))
    for each in manifests.of_kind("Host"):
        if each.name != target.name:
            text = f"this file says host {each.name}, the config calls this target {target.name}"
            yield Reason("HostNameMismatch", text, each.origin_of(("metadata", "name")))
        if each.origin.file != own_file(target) and cordon_of(each):
            text = f"this file does not speak for {target.name}, {own_file(target)} does; not followed"
            yield Reason("HostElsewhere", text, each.origin_of(("spec", "unschedulable")))
    for each in manifests.documents:
        if each.kind != SERVICE and (found := of_document(each, Place.HOST)):
            yield found.reason
    others = [each for each in manifests.documents if each.kind != SERVICE]
    for group in find_duplicates(others, target.default_namespace):
        yield from (_doubled(each, group) for each in group)
    for each in others:
        yield from each.warnings
        yield from disclosed(each)
