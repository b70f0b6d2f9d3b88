"""The Secrets that a spec needs, looked up in a store: at the start of a process, and before, to report missing ones.
Pure.

Values go to the process that is started and nowhere else. Nothing that is kept or shown may hold what these return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from reconciler.errors import Retryable
from reconciler.model import EffectiveSpec, EnvVar, Reason, SecretMount, VolumeFile
from reconciler.secrets.store import SecretStore

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
