"""What the webhooks and controllers of OpenShift AI add to a service before KServe sees it. Pure.

A connection, which is a Secret, says where the model is; a hardware profile says what it runs on. Where their objects
are not in the tree, that is said at the annotation that names them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from reconciler.kserve.credentials import Secret
from reconciler.kserve.issues import AbsentSecret, Issue
from reconciler.kserve.names import (
    CONNECTION_PATH,
    CONNECTION_TYPE,
    CONNECTIONS,
    HARDWARE_PROFILE,
    HARDWARE_PROFILE_NAMESPACE,
)
from reconciler.model import ReasonCode

Document = Mapping[str, Any]
Key = tuple[str, str]
STORAGE_CONFIG = "storage-config"
# Of the account that is made for a connection to S3, behind its name.
ACCOUNT_SUFFIX = "-sa"
_PREDICTOR = ("spec", "predictor")
# From the newest annotation to the oldest: the first that a Secret bears counts.
_TYPES = (f"{CONNECTION_TYPE}-protocol", f"{CONNECTION_TYPE}-ref", CONNECTION_TYPE)
_DATA_CONNECTION = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "endpoint_url": "AWS_S3_ENDPOINT",
    "bucket": "AWS_S3_BUCKET",
    "region": "AWS_DEFAULT_REGION",
}


class Annotated(Protocol):
    """A Secret from any store."""

    @property
    def annotations(self) -> Mapping[str, str]: ...


S = TypeVar("S", bound=Annotated)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A service with what was added. `absent`: about a Secret without which its model's location is unknown."""

    service: Document
    warnings: tuple[Issue, ...] = ()
    absent: tuple[Issue, ...] = ()


def admit(
    service: Document, default_namespace: str, secrets: Mapping[Key, Secret], profiles: Mapping[Key, Document]
) -> Admitted:
    """`secrets` are those that the service may use. Never raises for bad input."""
    namespace = _mapping(service, "metadata").get("namespace")
    namespace = namespace if isinstance(namespace, str) and namespace else default_namespace
    annotations = _mapping(service, "metadata", "annotations")
    if not annotations.keys() & {CONNECTIONS, HARDWARE_PROFILE} or _is_malformed(service):
        return Admitted(service)
    admitted = Admitted(service)
    if isinstance(name := annotations.get(HARDWARE_PROFILE), str) and name:
        admitted = _with_profile(admitted, name, annotations.get(HARDWARE_PROFILE_NAMESPACE) or namespace, profiles)
    if isinstance(name := annotations.get(CONNECTIONS), str) and name:
        admitted = _with_connection(admitted, name, namespace, secrets.get((namespace, name)))
    return admitted


def with_data_connections(secrets: Mapping[Key, Secret]) -> dict[Key, Secret]:
    """The Secrets of a tree, with the entries of KServe's storage secret that are made of data connections."""
    found = dict(secrets)
    for namespace, those in connections_to_s3(secrets).items():
        known = secrets.get((namespace, STORAGE_CONFIG), Secret(STORAGE_CONFIG, {}))
        entries = {each.name: storage_entry(each.data) for each in those}
        found[namespace, STORAGE_CONFIG] = replace(known, data={**entries, **known.data})
    return found


def connections_to_s3(secrets: Mapping[Key, S]) -> dict[str, list[S]]:
    """By namespace."""
    found: dict[str, list[S]] = {}
    for (namespace, name), each in secrets.items():
        if each.annotations and name != STORAGE_CONFIG and connection_type(each.annotations) == "s3":
            found.setdefault(namespace, []).append(each)
    return found


def storage_entry(data: Mapping[str, str]) -> str:
    """The entry of KServe's storage secret for a connection to S3."""
    return json.dumps({"type": "s3", **{name: data.get(key, "") for name, key in _DATA_CONNECTION.items()}})


def connection_type(annotations: Mapping[str, str]) -> str:
    """`s3`, `uri`, `oci` or another type of a Secret; empty if it has none."""
    found = next((annotations[key] for key in _TYPES if annotations.get(key)), "")
    return str(found).removesuffix("-v1")


# ---------------------------------------------------------------- connections


def _with_connection(admitted: Admitted, name: str, namespace: str, secret: Secret | None) -> Admitted:
    model = _mapping(admitted.service, *_PREDICTOR, "model")
    if not model:
        return _saying(admitted, f"connection {name} adds nothing: it is for services with spec.predictor.model only")
    has_storage = bool(model.get("storageUri") or model.get("storage"))
    has_storage = has_storage or bool(_mapping(admitted.service, *_PREDICTOR).get("storageUris"))
    if secret is None:
        text = f'connection {name}: secrets "{name}" not found in namespace {namespace}'
        return _without_secret(admitted, text, AbsentSecret(name), has_storage)
    return _connected(admitted, model, secret, has_storage)


def _connected(admitted: Admitted, model: Document, secret: Secret, has_storage: bool) -> Admitted:
    kind = connection_type(secret.annotations)
    if kind == "uri":
        if uri := secret.data.get("URI", "").strip():
            return _with(admitted, (*_PREDICTOR, "model"), {**model, "storageUri": uri})
        return _saying(admitted, f"connection {secret.name}: its Secret has no key URI; add it, or write storageUri")
    if kind == "s3":
        storage = {**_mapping(model, "storage"), "key": secret.name}
        if path := _mapping(admitted.service, "metadata", "annotations").get(CONNECTION_PATH):
            storage["path"] = path
        admitted = _with(admitted, (*_PREDICTOR, "model"), {**model, "storage": storage})
        if storage.get("path") or model.get("storageUri"):
            return admitted
        return _saying(
            admitted,
            f"connection {secret.name}: write the model's path in the bucket as storage.path, or {CONNECTION_PATH}",
        )
    if kind == "oci":
        hint = "" if has_storage else "; write where the model is, storageUri: oci://REGISTRY/MODEL:TAG"
        text = f"connection {secret.name} gives the credentials of a registry only{hint}"
        return _saying(admitted, f"{text}. A host takes those from /etc/containers/auth.json")
    text = f"connection {secret.name}: its Secret has no known type (uri, s3, oci), so it adds nothing"
    return _saying(admitted, f"{text}; annotate it, {_TYPES[0]}: uri")


# ---------------------------------------------------------------- hardware profiles


def _with_profile(admitted: Admitted, name: str, namespace: Any, profiles: Mapping[Key, Document]) -> Admitted:
    profile = profiles.get((str(namespace), name))
    if profile is None:
        elsewhere = sorted(space for space, called in profiles if called == name)
        hint = (
            f"one exists in {elsewhere[0]}: set {HARDWARE_PROFILE_NAMESPACE}: {elsewhere[0]}"
            if elsewhere
            else "add it, or write resources, nodeSelector and tolerations into the service"
        )
        text = f"HardwareProfile {name} of namespace {namespace} is not in git, so it adds nothing; {hint}"
        return _saying(admitted, text, path=HARDWARE_PROFILE)
    if model := _mapping(admitted.service, *_PREDICTOR, "model"):
        admitted = _with(admitted, (*_PREDICTOR, "model", "resources"), _resources(model, profile))
    node = _mapping(profile, "scheduling", "node") or profile
    predictor = _mapping(admitted.service, *_PREDICTOR)
    if selector := _mapping(node, "nodeSelector"):
        selector = {**_mapping(predictor, "nodeSelector"), **selector}
        admitted = _with(admitted, (*_PREDICTOR, "nodeSelector"), selector)
    if tolerations := _items(node.get("tolerations")):
        own = [each for each in _items(predictor.get("tolerations")) if each not in tolerations]
        admitted = _with(admitted, (*_PREDICTOR, "tolerations"), [*tolerations, *own])
    return admitted


def _resources(model: Document, profile: Document) -> Document:
    """What the service writes itself stays; a limit that it does not write is its request."""
    resources = _mapping(model, "resources")
    requests, limits = dict(_mapping(resources, "requests")), dict(_mapping(resources, "limits"))
    for each in _items(profile.get("identifiers")):
        name, count = (each.get("identifier"), each.get("defaultCount")) if isinstance(each, Mapping) else ("", None)
        if isinstance(name, str) and name and count is not None:
            requests.setdefault(name, limits.get(name, str(count)))
            limits.setdefault(name, requests[name])
    return {**resources, "requests": requests, "limits": limits}


# ---------------------------------------------------------------- documents


def _saying(admitted: Admitted, text: str, *, path: str = CONNECTIONS, absent: AbsentSecret | None = None) -> Admitted:
    issue = Issue(ReasonCode.OPENSHIFT_AI, text, ("metadata", "annotations", path), absent=absent)
    return Admitted(admitted.service, (*admitted.warnings, issue), admitted.absent)


def _without_secret(admitted: Admitted, text: str, secret: AbsentSecret, has_storage: bool) -> Admitted:
    if has_storage:
        text = f"{text}, so it adds nothing; add it, or remove the annotation: the service's own settings are used"
        return _saying(admitted, text, absent=secret)
    text = f"{text}; add it, or write where the model is as storageUri"
    issue = Issue(ReasonCode.OPENSHIFT_AI, text, ("metadata", "annotations", CONNECTIONS), absent=secret)
    return Admitted(admitted.service, admitted.warnings, (*admitted.absent, issue))


def _with(admitted: Admitted, path: tuple[str, ...], value: Any) -> Admitted:
    return Admitted(_put(admitted.service, path, value), admitted.warnings, admitted.absent)


def _put(document: Document, path: tuple[str, ...], value: Any) -> Document:
    """A copy with another value at a path of mappings."""
    first, *rest = path
    inner = document.get(first)
    below = inner if isinstance(inner, Mapping) else {}
    return {**document, first: _put(below, tuple(rest), value) if rest else value}


def _is_malformed(service: Document) -> bool:
    """Is there something else where a mapping belongs? It stays, for the API server to refuse."""
    predictor = _mapping(service, *_PREDICTOR)
    model = _mapping(predictor, "model")
    resources = _mapping(model, "resources")
    held = [(predictor, "model"), (predictor, "nodeSelector"), (model, "storage"), (model, "resources")]
    held += [(resources, "requests"), (resources, "limits")]
    return any(not isinstance(holder.get(key) or {}, Mapping) for holder, key in held)


def _mapping(document: Document, *path: str) -> Document:
    value: Any = document
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
