"""Where Prometheus finds the metrics of replicas: its HTTP service discovery, from the status document. Pure.

Only the proxy and the daemon can connect to replicas, so the daemon passes their metrics on.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.report.replicas import ReplicaStatus
from reconciler.report.status import Document

PASSED_ON = "/prometheus/replicas"
# A replica that starts has no metrics yet, and one that failed none any more.
_ANSWERING = frozenset({ReplicaStatus.READY, ReplicaStatus.DRAINING})


def scrape_targets(status: Document, address: str) -> list[Document]:
    """One group for each replica that answers. Labels are bounded by the replicas that there are.

    `address` is the daemon's own address, as used by the client.
    """
    return [
        {"targets": [address], "labels": {**_labels(target, service, replica), "__metrics_path__": path}}
        for path, (target, service, replica) in _answering(status)
    ]


def find_replica(status: Document, path: str) -> tuple[Document, str] | None:
    """The replica whose metrics are at this path, and their path at the replica; None if there is none."""
    for known, (_, service, replica) in _answering(status):
        if known == path:
            return replica, service["metricsPath"]
    return None


def _answering(status: Document) -> Iterator[tuple[str, tuple[Document, Document, Document]]]:
    for target in status["targets"]:
        for service in target["services"]:
            for replica in service["replicas"] if service["metricsPath"] is not None else ():
                if replica["phase"] in _ANSWERING:
                    yield f"{PASSED_ON}/{target['name']}/{replica['id']}", (target, service, replica)


def _labels(target: Document, service: Document, replica: Document) -> Document:
    return {
        "target": target["name"],
        "namespace": service["namespace"],
        "service": service["name"],
        "replica": replica["id"].rpartition(".")[2],
        "__scheme__": "http",
    }
