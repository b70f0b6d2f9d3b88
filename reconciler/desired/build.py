"""The tree as a whole → the services of one target, also those that cannot be used. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from reconciler.config.settings import HostSettings
from reconciler.desired.context import (
    SERVICE,
    DesiredCache,
    DesiredContext,
    context_of,
    doubled_hosts,
    drop_misplaced,
    faults_without_services,
    find_host,
    is_prunable,
    not_prunable,
    own_file,
    skipped_files,
    unreadable_places,
)
from reconciler.desired.deviations import of_document
from reconciler.desired.limits import (
    MAX_NOTES,
    are_too_large,
    check_documents,
    desired_size,
    first,
    refusal,
    shortened,
    with_few_findings,
)
from reconciler.desired.service import describe, service_id, unusable
from reconciler.desired.support import TargetKind
from reconciler.fault_isolation import caught
from reconciler.manifests import Manifest, Manifests, cordon_of, drain_of, duplicate_of, find_duplicates
from reconciler.model import NO_ORIGIN, Desired, DesiredState, NoOrigin, Origin, Reason, ReasonCode, ServiceId, Snapshot
from reconciler.secrets import NO_SECRETS, SecretStore
from reconciler.secrets.disclosed import disclosed

_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def build_desired(
    manifests: Manifests,
    target: HostSettings,
    snapshot: Snapshot,
    cache: DesiredCache | None = None,
    secrets: SecretStore = NO_SECRETS,
) -> DesiredState:
    """Every InferenceService of the target, also the unusable ones, with the reason.

    `secrets` are all that this host has, those in git included. Of the snapshot only its revision and what
    is refused, missing or skipped are looked at. Raises NotUnderstood where it is too much.
    """
    cache = cache or DesiredCache()
    check_documents(manifests, snapshot, target.name)
    manifests, misplaced = drop_misplaced(manifests, target)
    services = manifests.of_kind(SERVICE)
    usable = [each for each in services if not _bad_name(each)]
    _describe_all(usable, partial(context_of, manifests, target, snapshot, cache, secrets), target, cache)
    host = find_host(manifests, target, snapshot)
    return DesiredState(
        target=target.name,
        revision=snapshot.revision,
        services=tuple(_without_doubles(cache.services, target)),
        unreadable=tuple(map(shortened, _unreadable(manifests, snapshot, target))),
        prunable=is_prunable(manifests, target, snapshot),
        notes=first((*_notes_safely(manifests, target, snapshot, cache), *secrets.notes), MAX_NOTES),
        refused=first(
            (*faults_without_services(manifests), *_refused_documents(cache), *secrets.faults, *misplaced), MAX_NOTES
        ),
        drain=drain_of(host) if host else None,
        unschedulable=cordon_of(host) if host else None,
        host_known=host is not None,
        skipped=skipped_files(manifests, snapshot),
        paths=target.paths,
        in_default_namespace=frozenset(
            ServiceId(target.default_namespace, each.name) for each in usable if each.namespace is None
        ),
    )


def _unreadable(manifests: Manifests, snapshot: Snapshot, target: HostSettings) -> Iterator[Reason]:
    yield from unreadable_places(manifests, snapshot)
    yield from (reason for each in manifests.of_kind(SERVICE) if (reason := _bad_name(each)))
    yield from doubled_hosts(manifests, target)


def _refused_documents(cache: DesiredCache) -> Iterator[Reason]:
    yield from cache.context.refused.reasons if cache.context else ()


def _describe_all(
    services: Sequence[Manifest], enter: Callable[[], DesiredContext], target: HostSettings, cache: DesiredCache
) -> None:
    """Each service into the cache; none can be used where we fail on what they share."""
    try:
        context = enter()
    except MemoryError:
        raise
    except Exception as error:
        reason = _noted(error, f"reading what the services of {target.name} share", NO_ORIGIN, cache)
        cache.key = ()
        cache.services = {each: unusable(service_id(each, target), each, (reason,)) for each in services}
        return
    known, sizes = cache.services, cache.sizes
    cache.services, cache.sizes = {}, {}
    values = total = 0
    for each in services:
        one = known.get(each) or with_few_findings(_describe_safely(each, context, cache))
        size = sizes.get(each) or desired_size(one)
        cache.services[each], cache.sizes[each] = one, size
        values, total = values + size.values, total + size.bytes
        if are_too_large(values, total):
            raise refusal(target.name, list(zip(cache.services.values(), cache.sizes.values(), strict=True)))


def _describe_safely(service: Manifest, context: DesiredContext, cache: DesiredCache) -> Desired:
    """A service that we fail on is one that cannot be used: what runs of it is kept, and the others go on."""
    try:
        return describe(service, context)
    except MemoryError:
        # Whatever took it is still held: this is about the whole revision.
        raise
    except Exception as error:
        reason = _noted(error, f"working out {service.name}", service.origin, cache)
        return Desired(service_id(service, context.target), service.origin, None, "", problems=(reason,))


def _notes_safely(
    manifests: Manifests, target: HostSettings, snapshot: Snapshot, cache: DesiredCache
) -> tuple[Reason, ...]:
    try:
        return tuple(_notes(manifests, target, snapshot))
    except MemoryError:
        raise
    except Exception as error:
        return (_noted(error, f"looking for what to note on {target.name}", NO_ORIGIN, cache),)


def _noted(error: Exception, doing: str, origin: Origin | NoOrigin, cache: DesiredCache) -> Reason:
    reason, bug = caught(error, doing, origin)
    where = f"{origin}: " if origin else ""
    cache.tracebacks.append(f"{where}{bug.subject}: {bug.traceback}")
    return reason


def _bad_name(service: Manifest) -> Reason | None:
    """Names become host names and folders: only what KServe accepts becomes a service at all."""
    if _LABEL.fullmatch(service.name):
        return None
    text = f"{service.name} is not a valid service name; use at most 63 lowercase letters, digits and -, first a letter"
    return Reason(ReasonCode.INVALID_NAME, text, service.origin_of(("metadata", "name")))


def _without_doubles(described: dict[Manifest, Desired], target: HostSettings) -> Iterator[Desired]:
    doubles = {group[0]: group for group in find_duplicates(described, target.default_namespace)}
    hidden = {manifest for group in doubles.values() for manifest in group[1:]}
    for manifest, desired in described.items():
        if manifest in doubles:
            problems = tuple(duplicate_of(each, doubles[manifest]) for each in doubles[manifest])
            yield unusable(desired.id, manifest, problems)
        elif manifest not in hidden:
            yield desired


def _notes(manifests: Manifests, target: HostSettings, snapshot: Snapshot) -> Iterator[Reason]:
    # The plan reads this one again: it may not be left out.
    if not is_prunable(manifests, target, snapshot):
        yield not_prunable(own_file(target), "Host", target.name)
    for each in manifests.of_kind("Host"):
        if each.name != target.name:
            text = f"this file is for host {each.name}, the config names this target {target.name}"
            yield Reason(ReasonCode.HOST_NAME_MISMATCH, text, each.origin_of(("metadata", "name")))
        if each.origin.file != own_file(target) and (said := drain_of(each) or cordon_of(each)):
            text = f"this file is not about {target.name}, {own_file(target)} does; not followed"
            yield Reason(ReasonCode.HOST_DOCUMENT_IGNORED, text, said.origin)
    for each in manifests.documents:
        if each.kind != SERVICE and (found := of_document(each, TargetKind.HOST)):
            yield found.reason
    others = [each for each in manifests.documents if each.kind != SERVICE]
    for group in find_duplicates(others, target.default_namespace):
        yield from (duplicate_of(each, group) for each in group)
    yield from manifests.notes
    for each in others:
        yield from each.warnings
        yield from disclosed(each)
