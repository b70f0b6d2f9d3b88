"""What rolls out of a service: which of its replicas are of the new version, how far they are, and which are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.model import Sync
from reconciler.report.stages.stage import CLUSTER
from reconciler.report.status_parts import Document, ReplicaStatus

# Of replicas, and of pods.
_ENDED = (ReplicaStatus.FAILED, ReplicaStatus.STOPPED, "Succeeded")


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """`new` are replicas of the version that is rolled out, `started`, `ready` and `switched` those of them that came
    so far, `old` those of others. `count` is how many there should be. `stays`: what is promoted keeps serving next to
    it. `is_over`: the version is promoted, with as many replicas as git asks for, or in sync with git without that."""

    service: Document
    kind: str
    digest: str
    count: int
    new: Sequence[Document]
    started: Sequence[Document]
    ready: Sequence[Document]
    switched: Sequence[Document]
    old: Sequence[Document]
    stays: bool
    is_over: bool

    @property
    def promoted_at(self) -> str | None:
        good = self.service["promoted"]
        return good["at"] if good and good["digest"] == self.digest else None


def rollout_of(service: Document, kind: str) -> RolloutFacts | None:
    """None: git cannot be used, and nothing has proved itself."""
    canary, good = service["canary"], service["promoted"]
    digest = canary["digest"] if canary else service["digest"] or (good["digest"] if good else "")
    if not digest:
        return None
    count = max(1, canary["replicas"] if canary else service["desiredReplicas"])
    replicas = service["replicas"]
    new = [one for one in replicas if one["digest"] == digest and is_staying(one)]
    ready = [one for one in new if one["readyAt"]]
    return RolloutFacts(
        service,
        kind,
        digest,
        count,
        new,
        started=[one for one in new if one["startedAt"]],
        ready=ready,
        switched=[one for one in ready if one["routed"] == "Active"],
        old=[one for one in replicas if _is_other(one, digest) and not _is_gone(one, kind)],
        stays=bool(canary) and digest != service["digest"],
        is_over=_is_over(service, digest, count),
    )


def _is_over(service: Document, digest: str, count: int) -> bool:
    good = service["promoted"]
    if service["sync"] == Sync.SYNCED and not service["canary"]:
        return True
    if good is None or good["digest"] != digest or service["outdated"]:
        return False
    return good["replicas"] is None or good["replicas"] >= count


def _is_other(replica: Document, digest: str) -> bool:
    return replica["digest"] != digest or bool(replica["outdated"])


def _is_gone(replica: Document, kind: str) -> bool:
    """Of a pod that ended nothing is left but its name."""
    return kind == CLUSTER and replica["phase"] in _ENDED


def is_staying(replica: Document) -> bool:
    """It is neither on its way out nor to be replaced."""
    is_on_its_way_out = replica["drainingAt"] or replica["stoppingAt"] or replica["phase"] in _ENDED
    return not (is_on_its_way_out or replica["outdated"])
