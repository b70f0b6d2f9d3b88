"""Git's objects where they belong on this cluster, and what stands for the values of their Secrets."""

from __future__ import annotations

import base64
import hmac
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.discovery import Resource
from reconciler.cluster.api.trimming import hashed
from reconciler.cluster.memory import Memory
from reconciler.errors import ReconcileError, Retryable
from reconciler.manifests import MOST_NAMED, written_twice
from reconciler.model import DesiredObject, DesiredState, ObjectId
from reconciler.secrets import SecretStore


class Placing:
    """Of one target. The memory's key makes fingerprints of the values of Secrets."""

    def __init__(
        self, client: Client, default_namespace: str, secrets: Callable[[], SecretStore], memory: Memory
    ) -> None:
        self._client = client
        self._default_namespace = default_namespace
        self._secrets = secrets
        self._memory = memory
        self._placed: tuple[tuple[DesiredObject, ...], SecretStore, tuple[DesiredObject, ...]] | None = None

    def placed(self, desired: DesiredState) -> tuple[DesiredObject, ...]:
        """Git's objects with the namespaces that their kinds have; the same while nothing changed."""
        store = self._secrets()
        known = self._placed
        if known is None or known[0] is not desired.objects or known[1] is not store:
            made = without_twins(tuple(self._where_it_belongs(one, store) for one in desired.objects))
            self._placed = known = (desired.objects, store, made)
            if any(self._is_unplaced(one) for one in made):
                # Its kind is not served yet: once it is, it may have a namespace, or none.
                self._placed = None
        return known[2]

    def resource(self, group: str, kind: str, version: str = "") -> Resource | None:
        """None: it is not served, or its group does not answer: one of an extension that is down must not stop the
        others. Its watch says why."""
        try:
            return self._client.resource(group, kind, version)
        except ReconcileError:
            return None

    def with_secret(self, wanted: DesiredObject) -> DesiredObject:
        """As it is sent: with the values of its Secret. Raises Retryable where nobody can open it now."""
        if not wanted.is_encrypted:
            return wanted
        data = self._secrets().data(wanted.id.namespace, wanted.id.name)
        if data is None:
            raise Retryable(f"{wanted.origin}: {wanted.id} cannot be opened now; nothing of it is changed")
        return replace(wanted, body={**wanted.body, "data": _encoded(data)})

    def _where_it_belongs(self, one: DesiredObject, store: SecretStore) -> DesiredObject:
        if one.is_encrypted:
            data = store.data(one.id.namespace, one.id.name)
            return one if data is None else self._opened(one, data)
        resource = self.resource(one.id.group, one.id.kind)
        if resource is None or resource.namespaced == bool(one.id.namespace):
            return one
        # The API server takes what names a namespace that its kind has not, and means the one that has none.
        namespace = self._default_namespace if resource.namespaced else ""
        body = {**one.body, "metadata": {**one.body["metadata"], "namespace": namespace}}
        return replace(one, id=replace(one.id, namespace=namespace), body=body)

    def _opened(self, one: DesiredObject, data: Mapping[str, bytes]) -> DesiredObject:
        """With what stands for its values, as in live objects. The values themselves are only in what is sent."""
        values = {key: hashed(value) for key, value in _encoded(data).items()}
        text = json.dumps(sorted(values.items()))
        fingerprint = hmac.digest(self._memory.key, text.encode(), "sha256").hex()[:16]
        return replace(one, body={**one.body, "data": values}, hash=f"{one.hash}+{fingerprint}")

    def _is_unplaced(self, one: DesiredObject) -> bool:
        return self.resource(one.id.group, one.id.kind) is None


def without_twins(objects: tuple[DesiredObject, ...]) -> tuple[DesiredObject, ...]:
    """Two documents of one cluster-wide object, one of them with a namespace, are known only here: none is applied."""
    groups: dict[ObjectId, list[DesiredObject]] = defaultdict(list)
    for one in objects:
        groups[one.id].append(one)
    if len(groups) == len(objects):
        return objects
    return tuple(one if len(groups[one.id]) == 1 else _twin(one, groups[one.id]) for one in objects)


def _twin(one: DesiredObject, group: list[DesiredObject]) -> DesiredObject:
    others = [each.origin for each in group[: MOST_NAMED + 1] if each is not one]
    return replace(one, refused=written_twice(str(one.id), one.origin, others, len(group) - 1))


def _encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    """As a Secret has it."""
    return {key: base64.b64encode(value).decode() for key, value in data.items()}
