"""Secrets that were read, frozen, and what a spec wants of them. Pure.

Values go to the process that is started and nowhere else. Nothing that is kept or shown may hold what these return.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Final

from reconciler.errors import Retryable
from reconciler.kserve.credentials import Secret
from reconciler.kserve.openshift_ai import STORAGE_CONFIG, connections_to_s3, storage_entry
from reconciler.model import EffectiveSpec, EnvVar, NoOrigin, Origin, Reason, ReasonCode, SecretMount, VolumeFile

# `tokens` alone is a count here (`max_tokens`), a `tokenizer` is a folder, and a path is no secret (`token_file`).
_NAME = re.compile(
    r"(?i)(password|passwd|secret|authorization|credential|cookie|api[-_]?key|private[-_]?key|token(?!s|iz))"
)
_PATH_NAME = re.compile(r"(?i)[-_.](file|path|dir|uri|url)$")
# What services hand out begins like this.
WELL_KNOWN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|nvapi-[\w-]{20,}"
    r"|sk-[A-Za-z0-9_-]{0,20}[A-Za-z0-9]{20,}|AIza[\w-]{35}|xox[abeprs]-[A-Za-z0-9-]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{40,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----(?:[^-]{0,9000}-----END)?"
)
# A URL that gives access to anyone who has it.
SIGNED = re.compile(r"(?<=[?&])((?:sig|X-Amz-Signature|X-Goog-Signature|access_token|token)=)[^&\s'\"]{8,}")


def is_secret_name(name: str) -> bool:
    """Would a value under this name be confidential?"""
    return bool(_NAME.search(name)) and not _PATH_NAME.search(name)


Key = tuple[str, str]
# The code of whatever lies with this machine and its files: on another one it may be different.


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One Secret; `data` is decoded, with stringData over data as the API server merges them. Its repr hides values."""

    namespace: str
    name: str
    origin: Origin
    data: Mapping[str, bytes] = field(repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> Key:
        return self.namespace, self.name


@dataclass(frozen=True, slots=True, eq=False)
class SecretStore:
    """All Secrets of one target at one time; compared by identity.

    `refused` are Secrets that are there but may not or cannot be used. `unavailable` are whole places and files that
    could not be read: a Secret that seems to be missing may be there. `notes` are no faults. `misplaced` stand where
    they may not: for all others they are not there.
    """

    secrets: Mapping[Key, StoredSecret] = field(default_factory=dict, repr=False)
    refused: Mapping[Key, Reason] = field(default_factory=dict)
    unavailable: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()
    misplaced: tuple[Reason, ...] = ()

    def data(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The decoded keys of one Secret, or None where there is none that can be used."""
        found = self.secrets.get((namespace, name))
        return None if found is None else found.data

    def why_refused(self, namespace: str, name: str, metadata: Origin | NoOrigin) -> Reason | None:
        """Why a Secret of git may not be used; `metadata` is the line of that field of its document."""
        misplaced = next((each for each in self.misplaced if each.origin == metadata), None)
        return misplaced or self.refused.get((namespace, name))

    @property
    def is_provisional(self) -> bool:
        """May some of what is refused become usable although no file changes? A key service may have been away."""
        return any(each.code is ReasonCode.SECRETS_UNREADABLE for each in self.refused.values())

    def says_the_same(self, other: SecretStore) -> bool:
        """It need not be read again."""
        return all(getattr(self, each.name) == getattr(other, each.name) for each in fields(self))

    @property
    def faults(self) -> tuple[Reason, ...]:
        """All that a person has to put right, whether a service needs it or not."""
        return (*self.refused.values(), *self.unavailable, *self.misplaced)


NO_SECRETS: Final = SecretStore()


def with_data_connections(secrets: Mapping[Key, StoredSecret]) -> dict[Key, StoredSecret]:
    """The Secrets, with the entries of KServe's storage secret that OpenShift AI makes of data connections."""
    found = dict(secrets)
    for namespace, those in connections_to_s3(secrets).items():
        known = secrets.get((namespace, STORAGE_CONFIG))
        known = known or StoredSecret(namespace, STORAGE_CONFIG, those[0].origin, {})
        entries = {each.name: storage_entry(as_text(each).data).encode() for each in those}
        found[known.key] = replace(known, data={**entries, **known.data})
    return found


def as_text(secret: StoredSecret) -> Secret:
    """A Secret for KServe's own rules; what it holds is private."""
    data = {key: value.decode("utf-8", "replace") for key, value in secret.data.items()}
    return Secret(secret.name, data, secret.annotations, private=True)


ALL = "*"


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A reference to one key of a Secret, or to all of them."""

    secret: str
    key: str
    optional: bool = False


def secret_ref(variable: EnvVar) -> SecretRef | None:
    """The Secret of a variable, if it has one."""
    kind, _, rest = variable.source.partition(" ")
    if kind != "secret":
        return None
    what, _, optional = rest.partition(" ")
    secret, _, key = what.partition("/")
    return SecretRef(secret, key, optional == "optional")


def secret_part(file: VolumeFile) -> SecretMount | None:
    """The keys of a Secret in a volume, if this part of it has one; its files are at the volume's root."""
    ref = secret_ref(EnvVar(file.path, source=file.source))
    if ref is None:
        return None
    items = () if ref.key == ALL else ((ref.key, file.path),)
    return SecretMount(ref.secret, "", items, optional=ref.optional)


def is_there(ref: SecretRef, namespace: str, store: SecretStore) -> bool:
    """Would a pod find it?"""
    data = store.data(namespace, ref.secret)
    return data is not None and (ref.key == ALL or ref.key in data)


def find_variables(spec: EffectiveSpec, namespace: str, store: SecretStore) -> dict[EnvVar, dict[str, str]]:
    """For each variable that refers to a Secret, the variables it becomes. Raises Retryable, naming what is missing."""
    return {
        variable: _values(variable, ref, namespace, store)
        for variable in spec.env
        if (ref := secret_ref(variable)) is not None
    }


def _values(variable: EnvVar, ref: SecretRef, namespace: str, store: SecretStore) -> dict[str, str]:
    data = _data(ref, namespace, store)
    if ref.key != ALL:
        named = {variable.name: data[ref.key]} if ref.key in data else {}
    else:
        prefix = variable.name.removesuffix(ALL)
        named = {prefix + key: value for key, value in data.items()}
    for name, value in named.items():
        if b"\0" in value:
            raise Retryable(f"variable {name}: its value in Secret {ref.secret} holds a zero byte; mount it as a file")
    # Any bytes but zero may stand in an environment: they get there as they are.
    return {name: value.decode("utf-8", "surrogateescape") for name, value in named.items()}


def find_parts(spec: EffectiveSpec, namespace: str, store: SecretStore) -> dict[VolumeFile, dict[str, bytes]]:
    """The files of Secrets in volumes of several sources. Raises Retryable, naming what is missing."""
    return {
        file: find_files(part, namespace, store)
        for volume in spec.files
        for file in volume.files
        if (part := secret_part(file)) is not None
    }


def find_files(mount: SecretMount, namespace: str, store: SecretStore) -> dict[str, bytes]:
    """The files of a mounted Secret by their path below the mount. Raises Retryable, naming what is missing."""
    files: dict[str, bytes] = {}
    for key, path in mount.items or [(ALL, "")]:
        data = _data(SecretRef(mount.secret, key, mount.optional), namespace, store)
        found = data if key == ALL else {path: data[key]} if key in data else {}
        files |= {name: value for name, value in found.items() if _is_below(name)}
    return files


def _is_below(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _data(ref: SecretRef, namespace: str, store: SecretStore) -> Mapping[str, bytes]:
    if is_there(ref, namespace, store):
        return store.data(namespace, ref.secret) or {}
    why = _why_unusable(ref, namespace, store)
    if ref.optional and why is None:
        return {}
    what = f"Secret {ref.secret}" if ref.key == ALL else f'key "{ref.key}" of Secret {ref.secret}'
    if why is not None:
        raise Retryable(f"{what} in namespace {namespace} cannot be used: {why}")
    raise Retryable(f"{what} in namespace {namespace} is not on this host any more; put it back")


def _why_unusable(ref: SecretRef, namespace: str, store: SecretStore) -> Reason | None:
    """None where it is certain whether the Secret exists."""
    place = namespace, ref.secret
    if place in store.secrets:
        return None
    return store.refused.get(place) or next(iter(store.unavailable), None)
