"""What is remembered of one service in its cluster: its last good version, and what failed. Pure.

It is one Secret per service, for an InferenceService may hold passwords among its variables. It lies in the namespace
of the inventory, compressed. Whoever loses it loses no service: what proves itself next is remembered again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from reconciler.cluster.api.trimming import OWN_RECORD
from reconciler.cluster.rollout.additions import NO_ADDITIONS, Additions
from reconciler.cluster.rollout.batches import copy_of
from reconciler.model import KubeObject, Origin, Quarantine, Reason, ReasonCode, ServiceId

RECORD_OF = "reconciler/record-of"
"""Our label of such a Secret: a hash of the service's name."""
_KEY = "record"
_VERSION = 1
MOST_STORED = 512 << 10
"""Bytes of a record as it is stored: half of what Kubernetes takes of a Secret."""
MOST_READ = 8 << 20
"""Bytes of a record once it is unpacked."""
_MOST_QUARANTINES, _MOST_STARTS, _LONGEST_WORDS = 8, 5, 20


@dataclass(frozen=True, slots=True)
class LastGood:
    """A version of a service that proved itself.

    `body` is its InferenceService as git had it, and `additions` what was added to it. `runtime` is the runtime that it
    proved itself with, as it was then; None: it needs none.
    """

    digest: str
    body: KubeObject = field(hash=False)
    runtime: KubeObject | None = field(hash=False)
    revision: str
    at: float
    origin: Origin
    additions: Additions = field(default=NO_ADDITIONS, hash=False)

    def is_same(self, other: LastGood) -> bool:
        """Would the same be applied for both?"""
        return replace(self, revision="", at=0.0, origin=other.origin) == replace(other, revision="", at=0.0)


@dataclass(frozen=True, slots=True)
class FailedTry:
    """A version that its cluster failed, `tries` times in a row: no fault of the commit, so it is tried again."""

    digest: str
    reason: Reason
    at: float
    tries: int = 1


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """What is remembered. `starts` are how many seconds its last starts took; the newest comes last."""

    service: ServiceId
    last_good: LastGood | None = None
    quarantines: tuple[Quarantine, ...] = ()
    failed: FailedTry | None = None
    starts: tuple[float, ...] = ()

    def quarantine_of(self, digest: str) -> Quarantine | None:
        return next((each for each in self.quarantines if each.digest == digest), None)

    def is_proven(self, digest: str) -> bool:
        return self.last_good is not None and self.last_good.digest == digest

    def promoted(self, version: LastGood) -> ServiceRecord:
        """Once a version has proved itself, all that failed before it is history."""
        return replace(self, last_good=version, quarantines=(), failed=None)

    def with_quarantines(self, known: Iterable[Quarantine]) -> ServiceRecord:
        """With the newest of these; those from before the last promotion are history."""
        since = self.last_good.at if self.last_good else 0.0
        held = sorted((each for each in known if each.at >= since), key=lambda each: (each.at, each.digest))
        if not held and not self.quarantines:
            return self
        kept = (replace(each, last_words=each.last_words[-_LONGEST_WORDS:]) for each in held[-_MOST_QUARANTINES:])
        return replace(self, quarantines=tuple(kept))

    def started(self, seconds: float) -> ServiceRecord:
        return replace(self, starts=(*self.starts, seconds)[-_MOST_STARTS:])


def kept_runtime(runtime: KubeObject) -> KubeObject:
    """What is remembered of a runtime: all that a copy of it needs, and nothing that a cluster writes into it."""
    metadata = runtime["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "annotations") if metadata.get(key)}
    annotations = {k: v for k, v in kept.get("annotations", {}).items() if not k.startswith("kubectl.kubernetes.io/")}
    if "annotations" in kept:
        kept["annotations"] = annotations
    return {
        **{key: runtime[key] for key in ("apiVersion", "kind")},
        "metadata": kept,
        "spec": runtime.get("spec") or {},
    }


def restored(good: LastGood, runtime: KubeObject | None) -> tuple[KubeObject | None, Additions]:
    """The copy to apply first, and what to add to the body of the last good version.

    `runtime` is the one in the cluster, or about to be; as long as it says what it said then, no copy is needed.
    """
    if good.runtime is None or (runtime is not None and runtime.get("spec") == good.runtime["spec"]):
        return None, replace(good.additions, runtime="")
    copy = copy_of(good.runtime)
    return copy, replace(good.additions, runtime=copy["metadata"]["name"])


# ---------------------------------------------------------------- as an object of the cluster


_RECORD: TypeAdapter[ServiceRecord] = TypeAdapter(ServiceRecord)


class RecordTooLarge(ValueError):
    """A record that no Secret holds; the message says how large it is."""


def secret_of(record: ServiceRecord, namespace: str, owner: str) -> KubeObject:
    """The Secret that holds it. `owner` is the inventory's name, which may stand in a label. Raises RecordTooLarge."""
    text = _RECORD.dump_json(record, exclude_defaults=True)
    packed = zlib.compress(json.dumps([_VERSION, json.loads(text)], sort_keys=True).encode(), 9)
    if len(packed) > MOST_STORED:
        size = f"the last good version of {record.service} has {len(packed):,} bytes compressed"
        raise RecordTooLarge(f"{size}, and {MOST_STORED:,} can be kept: it cannot be rolled back")
    key = _key_of(record.service)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(record.service, owner),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "reconciler", RECORD_OF: key},
        },
        "type": OWN_RECORD,
        "data": {_KEY: base64.b64encode(packed).decode()},
    }


def secret_name(service: ServiceId, owner: str) -> str:
    """One per service and inventory."""
    return f"{owner[:40].rstrip('-.')}-{_key_of(service)}"


def read_secret(secret: KubeObject) -> ServiceRecord:
    """The inverse of `secret_of`. Raises ValueError for what is no record of ours."""
    try:
        packed = base64.b64decode((secret.get("data") or {})[_KEY], validate=True)
        unpacker = zlib.decompressobj()
        found = unpacker.decompress(packed, MOST_READ)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError(f"it is cut off, or larger than {MOST_READ:,} bytes")
        version, document = json.loads(found)
        if version != _VERSION:
            raise ValueError(f"its version {version} is not {_VERSION}")
        return _RECORD.validate_python(_with_known_codes(document))
    except (LookupError, TypeError, AttributeError, RecursionError, zlib.error, ValueError) as error:
        name = (secret.get("metadata") or {}).get("name", "")
        # A record may hold a password: of what is wrong in it only the kind is told.
        text = type(error).__name__ if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"Secret {name} holds no record of a service: {text}") from None


def _with_known_codes(document: dict[str, Any]) -> dict[str, Any]:
    """Another version may have written it, with other codes."""
    for each in (*document.get("quarantines", ()), *filter(None, [document.get("failed")])):
        each["reason"]["code"] = ReasonCode.read(str(each["reason"]["code"]))
    return document


def _key_of(service: ServiceId) -> str:
    return hashlib.sha256(str(service).encode()).hexdigest()[:16]
