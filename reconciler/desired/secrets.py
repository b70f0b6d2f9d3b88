"""Why a service cannot have a Secret that it needs on this host, and what helps. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from reconciler.config.settings import EngineSettings, HostSettings
from reconciler.desired.origins import Origins
from reconciler.kserve.credentials import Secret
from reconciler.kserve.names import CONNECTION_TYPE, CONNECTIONS
from reconciler.kserve.resolve import Issue
from reconciler.manifests import Manifest
from reconciler.model import EffectiveSpec, EnvVar, Mount, Origin, Reason, ReasonCode, SecretMount
from reconciler.model.model_sources import shown
from reconciler.secrets import NO_SECRETS, SecretStore
from reconciler.secrets.store import ALL, SecretRef, as_text, is_there, secret_part, secret_ref


@dataclass(frozen=True, slots=True)
class Keyring:
    """The Secrets that one service may use: those of its namespace."""

    namespace: str
    store: SecretStore
    target: HostSettings
    closed: str = ""
    """Why it may use none of them."""
    unread: Reason | None = None
    """A document in git that may be one of them."""

    def is_missing(self, ref: SecretRef) -> bool:
        """Does it stand in the way? An optional Secret does where it may be there and cannot be used.

        As with the kubelet, only one that is certainly absent is left out: it may be the key that protects the engine.
        """
        if self.closed:
            return True
        is_needed = not ref.optional or self.may_hold(ref.secret)
        return is_needed and not is_there(ref, self.namespace, self.store)

    def may_hold(self, secret: str) -> bool:
        """May a Secret that is not for use be there all the same?"""
        place = (self.namespace, secret)
        unseen = bool(self.store.unavailable or self.unread)
        return not self.closed and place not in self.store.secrets and (place in self.store.refused or unseen)

    def missing(self, ref: SecretRef, who: str, origin: Origin) -> Reason:
        """The blocker for a missing Secret, or a missing key of it, that `who` needs."""
        part = "" if ref.key == ALL else f'key "{ref.key}" of '
        code, why = self._why(ref)
        return Reason(code, f"{who} needs {part}Secret {ref.secret}, {why}", origin)

    def _why(self, ref: SecretRef) -> tuple[ReasonCode, str]:
        """Code and text."""
        if self.closed:
            return ReasonCode.SECRET_NOT_ALLOWED, self.closed
        place = (self.namespace, ref.secret)
        if place in self.store.secrets:
            found = self.store.secrets[place]
            keys = ", ".join(sorted(found.data)) or "none"
            return ReasonCode.SECRET_NOT_FOUND, f"which has no such key (it has: {keys}); add it at {found.origin}"
        if refused := self.store.refused.get(place):
            code = (
                ReasonCode.SECRETS_UNREADABLE
                if refused.code is ReasonCode.SECRETS_UNREADABLE
                else ReasonCode.SECRET_NOT_FOUND
            )
            return code, f"which is refused: {refused}"
        if self.store.unavailable:
            return (
                ReasonCode.SECRETS_UNREADABLE,
                f"and it is unknown whether it exists: {self.store.unavailable[0]}",
            )
        if self.unread:
            return ReasonCode.SECRET_NOT_FOUND, f"which may be what cannot be read: {self.unread}"
        home = self.target.secrets.directory or f"a folder that targets[].secrets.directory of {self.target.name} names"
        text = f"which this host does not have in namespace {self.namespace}; put a manifest of it into {home}"
        return ReasonCode.SECRET_NOT_FOUND, f"{text}, or encrypt it into git with SOPS"


def keyring(
    namespace: str, service: Manifest, store: SecretStore, target: HostSettings, unread: Reason | None = None
) -> Keyring:
    """The Secrets that a service may use: other documents that affect it are in the place of its namespace."""
    owners = [each.path for each in target.secrets.folders if namespace in each.namespaces]
    place = target.secrets.folder_of(service.place)
    if owners and (place is None or namespace not in place.namespaces):
        text = f"which only documents in {', '.join(owners)} may use (targets[].secrets.folders of {target.name})"
        return Keyring(namespace, NO_SECRETS, target, f"{text}; {service.kind} {service.name} is at {service.origin}")
    return Keyring(namespace, store, target, unread=unread)


def as_kserve_sees(store: SecretStore) -> dict[tuple[str, str], Secret]:
    """The Secrets for KServe's own rules, which read settings of storage in them."""
    return {key: as_text(secret) for key, secret in store.secrets.items()}


def missing_secret(issue: Issue, origins: Origins, ring: Keyring) -> Reason | None:
    """The blocker in an error of KServe's that is about a Secret that is not there, and no fault of the spec."""
    if issue.absent is None:
        return None
    ref = SecretRef(issue.absent.name, issue.absent.key or origins.storage_key() or ALL)
    if CONNECTIONS in issue.path:
        return _without_connection(ref.secret, issue, origins, ring, "Or write where the model is, as storageUri")
    key = origins.storage_key()
    if (ring.namespace, key) in ring.store.refused:
        ref = SecretRef(key, ALL)
    reason = ring.missing(ref, "the model's storage", origins.of_storage(""))
    if not key or ring.closed or ref.secret == key:
        return reason
    text = f"{reason.message}. A data connection of OpenShift AI will do as well: a Secret {key} with the annotation"
    return replace(reason, message=f"{text} {CONNECTION_TYPE}: s3")


def absent_connection(issue: Issue, origins: Origins, ring: Keyring) -> Reason | None:
    """The warning about a missing connection of a service that sets its own model source."""
    if issue.absent is None or CONNECTIONS not in issue.path:
        return None
    hint = "Until then it adds nothing: the service's own settings are used"
    return _without_connection(issue.absent.name, issue, origins, ring, hint)


def doubtful_connection(issue: Issue, origins: Origins, ring: Keyring) -> Reason | None:
    """The problem that a connection may be there, and cannot be used: without it, the service is another one."""
    if issue.absent is None or CONNECTIONS not in issue.path or not ring.may_hold(issue.absent.name):
        return None
    return _without_connection(issue.absent.name, issue, origins, ring, "What runs is kept until it can be used")


def _without_connection(secret: str, issue: Issue, origins: Origins, ring: Keyring, hint: str) -> Reason:
    reason = ring.missing(SecretRef(secret, ALL), f"{CONNECTIONS}: {secret}", origins.of_field(issue.path))
    return replace(reason, message=f"{reason.message}. {hint}")


def missing_secrets(
    spec: EffectiveSpec, engine: EngineSettings | None, ring: Keyring, origins: Origins
) -> Iterator[Reason]:
    """What variables and mounts of the container need. A variable of the host's own settings needs nothing."""
    given = engine.env if engine else {}
    for variable in spec.env:
        ref = secret_ref(variable)
        if ref and variable.name not in given and ring.is_missing(ref):
            who = "the container's envFrom" if ref.key == ALL else f"variable {variable.name}"
            yield ring.missing(ref, who, origins.of_variable(variable.name, variable.source))
    for fetched in spec.mounts:
        yield from _missing_for(fetched, ring, origins)
    for where, mount in _mounted(spec):
        for key in [key for key, _ in mount.items] or [ALL]:
            ref = SecretRef(mount.secret, key, mount.optional)
            if ring.is_missing(ref):
                yield ring.missing(ref, f"the folder {where}", origins.of_volume_mount(where))


def _mounted(spec: EffectiveSpec) -> Iterator[tuple[str, SecretMount]]:
    """Each Secret, or part of one, that is mounted, and where."""
    yield from ((each.path, each) for each in spec.secrets)
    for volume in spec.files:
        yield from ((volume.path, part) for file in volume.files if (part := secret_part(file)) is not None)


def _missing_for(mount: Mount, ring: Keyring, origins: Origins) -> Iterator[Reason]:
    """What fetching a model needs, each Secret once."""
    given = ring.target.storage.env
    needed = [secret_ref(each) for each in mount.env if each.name not in given]
    needed += [secret_ref(EnvVar(each.path, source=each.source)) for each in mount.files]
    for ref in dict.fromkeys(needed):
        if ref and ring.is_missing(ref):
            yield ring.missing(ref, f"fetching {shown(mount.uri)}", origins.of_storage(mount.uri))
