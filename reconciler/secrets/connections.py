"""Data connections of OpenShift AI among a host's Secrets, found as KServe finds them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reconciler.kserve.credentials import Secret
from reconciler.kserve.openshift_ai import STORAGE_CONFIG, connections_to_s3, storage_entry
from reconciler.secrets.store import Key, StoredSecret


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
