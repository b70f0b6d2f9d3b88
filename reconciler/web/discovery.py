"""Where Prometheus finds the metrics of replicas: its HTTP service discovery, from the status document. Pure.

Replicas listen on the loopback address only, so these targets are for a Prometheus (or an agent of one) on this host.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.report.status import Document

# A replica that starts has no metrics yet, and one that failed none any more.
_ANSWERING = frozenset({"Ready", "Draining"})


def scrape_targets(status: Document) -> list[Document]:
    """One group for each replica that answers. Labels are bounded by the replicas that there are."""
    return [group for target in status["targets"] for group in _groups(target)]


def _groups(target: Document) -> Iterator[Document]:
    for service in target["services"]:
        if service["metricsPath"] is None:
            continue
        labels = {
            "target": target["name"],
            "namespace": service["namespace"],
            "service": service["name"],
            "__metrics_path__": service["metricsPath"],
        }
        for replica in service["replicas"]:
            if replica["phase"] in _ANSWERING:
                own = {"replica": replica["id"].rpartition(".")[2], "__scheme__": "https" if replica["tls"] else "http"}
                yield {"targets": [f"127.0.0.1:{replica['port']}"], "labels": labels | own}
