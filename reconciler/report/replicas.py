"""A service's replicas and downloads, as the status document shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from reconciler.engines.arguments import ends_tls
from reconciler.model import Desired, Observed, Replica, Routed, Silence, Staging, Unreachable
from reconciler.model.model_sources import fetched, shown
from reconciler.report.gpus import gpu_fraction
from reconciler.report.redact import scrub_text

Document = dict[str, Any]


def timestamp(at: float | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def live_digest(replicas: Sequence[Replica]) -> str:
    """The digest that serves requests: of the oldest ready replica behind the proxy, which a rollout replaces last."""
    serving = [
        one for one in replicas if replica_status(one) is ReplicaStatus.READY and one.routed is not Routed.ABSENT
    ]
    return serving[0].digest if serving else ""


class ReplicaStatus(StrEnum):
    """A replica's phase, as it is shown."""

    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    STOPPED = "Stopped"
    FAILED = "Failed"


def replica_status(replica: Replica) -> ReplicaStatus:
    """The phase of a replica."""
    if not replica.alive:
        is_stopped = replica.stopping_at is not None or replica.rebooted
        return ReplicaStatus.STOPPED if is_stopped else ReplicaStatus.FAILED
    if replica.draining_at is not None or replica.stopping_at is not None:
        return ReplicaStatus.DRAINING
    if replica.ready_at is None:
        return ReplicaStatus.STARTING
    has_failed = replica.healthy is False or replica.silence is Silence.HUNG
    return ReplicaStatus.FAILED if has_failed else ReplicaStatus.READY


def staging_documents(desired: Desired | None, observed: Observed | Unreachable | None) -> Iterator[Document]:
    """Progress of the model downloads and image pull of a service."""
    if desired is None or desired.spec is None or not isinstance(observed, Observed):
        return
    for key, mount in fetched(desired.id, desired.spec):
        yield _staging_document(shown(mount.uri), observed.staging.get(key))
    if desired.spec.image in observed.images:
        yield _staging_document(desired.spec.image, observed.images[desired.spec.image])


def _staging_document(what: str, known: Staging | None) -> Document:
    return {
        "uri": what,
        "state": known.fetch.value if known else "Pending",
        "doneBytes": known.done if known else 0,
        "totalBytes": known.total if known else None,
        "message": scrub_text(known.reason.message) if known and known.reason else "",
    }


def replica_document(replica: Replica, is_canary: bool = False) -> Document:
    """One replica as data."""
    since = replica.stopping_at or replica.draining_at or replica.ready_at or replica.created_at
    return {
        "id": str(replica.id),
        "phase": replica_status(replica),
        "digest": replica.digest,
        "canary": is_canary,
        "port": None if replica.socket else replica.lease.port,
        "socket": replica.socket,
        "tls": ends_tls(replica.spec.command_line),
        "gpus": list(replica.lease.gpus),
        "gpuFraction": gpu_fraction(replica),
        "image": replica.image,
        "inFlight": replica.in_flight,
        "unresponsive": scrub_text(replica.silent_why) if replica.silence else "",
        "routed": replica.routed.value,
        "exitCode": replica.exit_code,
        "since": timestamp(since),
    }
