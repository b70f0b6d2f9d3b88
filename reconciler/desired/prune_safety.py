"""What of the tree cannot be seen, and what must therefore not be concluded from it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.config.settings import TargetSettings
from reconciler.manifests import IGNORE_FILE, SUFFIXES, Manifest, Manifests
from reconciler.model import Origin, Reason, ReasonCode, Snapshot

HOST_FILE = "host.yaml"


def unreadable_places(manifests: Manifests, snapshot: Snapshot) -> Iterator[Reason]:
    """Files, and folders with a `/` at the end, whose services are kept as they are."""
    for reason in (each.reason for each in manifests.unreadable if each.may_hide_services):
        yield reason
        if reason.origin and not reason.origin.file.endswith(SUFFIXES):
            # A link or a submodule may stand where a folder was, and an ignore file may close its own.
            folder = reason.origin.file.removesuffix(f"/{IGNORE_FILE}")
            yield Reason(reason.code, reason.message, Origin(f"{folder}/", 1))
    yield from _missing(snapshot, "what came from there is kept")


def faults_without_services(manifests: Manifests) -> Iterator[Reason]:
    """What cannot be read, but clearly is not a service: nothing has to be kept for it."""
    yield from (each.reason for each in manifests.unreadable if not each.may_hide_services)


def skipped_files(manifests: Manifests, snapshot: Snapshot) -> dict[str, Reason]:
    """Files in git that hold no supported document, and why."""
    heard = {each.origin.file for each in manifests.documents}
    heard |= {reason.origin.file for reason in manifests.errors if reason.origin}
    hollow = {note.origin.file: note for note in reversed(manifests.notes) if note.origin}
    return {file: note for file, note in hollow.items() if file not in heard} | dict(snapshot.skipped)


def possible_runtimes(manifests: Manifests, snapshot: Snapshot) -> Iterator[Reason]:
    """What may hold a runtime that we cannot see: then another one must not be taken in its place."""
    for each in manifests.unreadable:
        if each.kind in ("", "ServingRuntime", "ClusterServingRuntime"):
            yield each.reason
    yield from _missing(snapshot, "runtimes may be among what is missing")


def _missing(snapshot: Snapshot, so_what: str) -> Iterator[Reason]:
    for path in snapshot.missing:
        yield Reason(ReasonCode.PATH_NOT_FOUND, f"{path}/ is missing from git; {so_what}", Origin(f"{path}/", 1))


def own_file(target: TargetSettings) -> str:
    """The file that shows that a target's folder is really there."""
    return "/".join(filter(None, (target.own_path, HOST_FILE)))


def is_prunable(manifests: Manifests, target: TargetSettings, snapshot: Snapshot) -> bool:
    """Empty is not missing: only a folder that still shows its own file may delete services by not naming them."""
    if target.own_path in snapshot.missing:
        return False
    return bool(own_hosts(manifests, target))


def own_hosts(manifests: Manifests, target: TargetSettings) -> list[Manifest]:
    """The Host documents in a target's own file: one, where all is well."""
    return [each for each in manifests.of_kind("Host") if each.origin.file == own_file(target)]


def find_host(manifests: Manifests, target: TargetSettings, snapshot: Snapshot) -> Manifest | None:
    """The one document that describes the whole host; None if it is missing or ambiguous."""
    if target.own_path in snapshot.missing:
        return None
    file = own_file(target)
    if any(reason.origin and reason.origin.file == file for reason in manifests.errors):
        return None
    hosts = own_hosts(manifests, target)
    return hosts[0] if len(hosts) == 1 else None


def doubled_hosts(manifests: Manifests, target: TargetSettings) -> Iterator[Reason]:
    """Two documents about one host may contradict each other: neither is followed."""
    hosts = own_hosts(manifests, target)
    for each in hosts[1:]:
        text = f"a second Host document; the first is in line {hosts[0].origin.line}; keep one"
        yield Reason(ReasonCode.DUPLICATE_HOST, text, each.origin)
