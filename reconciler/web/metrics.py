"""Prometheus metrics under names of our own, and where Prometheus finds those of replicas.

Only the proxy and the daemon can connect to replicas, so the daemon passes their metrics on.

What the status document holds becomes samples only when scraped: a pass pays nothing.
"""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from reconciler.report.requests import Fate
from reconciler.report.status import Document
from reconciler.report.status_parts import ReplicaStatus

PASSED_ON = "/prometheus/replicas"
# A replica that starts has no metrics yet, and one that failed none any more.
_ANSWERING = frozenset({ReplicaStatus.READY, ReplicaStatus.DRAINING})


def scrape_targets(status: Document, address: str, scheme: str = "http") -> list[Document]:
    """One group for each replica that answers. Labels are bounded by the replicas that there are.

    `address` is the daemon's own address, as used by the client, with the scheme there.
    """
    return [
        {
            "targets": [address],
            "labels": {**_labels(target, service, replica), "__metrics_path__": path, "__scheme__": scheme},
        }
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
    }


_PASS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROLLOUT_BUCKETS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)
_SERVICE = ("target", "namespace", "name")


class Metrics:
    """Everything in /metrics. One per daemon, with its own registry."""

    def __init__(self) -> None:
        # One more series per counter and histogram, of no use.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._snapshot = _StatusCollector()
        self._scraping = threading.Lock()
        registry.register(self._snapshot)
        self._pass = Histogram(
            "reconciler_reconcile_duration_seconds",
            "Duration of one pass over a target",
            ("target", "result"),
            buckets=_PASS_BUCKETS,
            registry=registry,
        )
        self._fetch = Histogram(
            "reconciler_source_fetch_duration_seconds",
            "Duration of fetching the source",
            ("result",),
            buckets=_PASS_BUCKETS,
            registry=registry,
        )
        self._applied = Histogram(
            "reconciler_commit_to_applied_seconds",
            "Time from reading a commit until a target had applied it",
            ("target",),
            buckets=_ROLLOUT_BUCKETS,
            registry=registry,
        )
        self._first_token = Histogram(
            "reconciler_applied_to_first_token_seconds",
            "Time from the start of a replica to its first real token",
            ("target",),
            buckets=_ROLLOUT_BUCKETS,
            registry=registry,
        )
        self._actions = Counter(
            "reconciler_actions", "Actions performed", ("target", "action", "outcome"), registry=registry
        )

        self._webhooks = Counter(
            "reconciler_webhook_requests",
            "Requests of webhooks, by what became of them",
            ("webhook", "result"),
            registry=registry,
        )

    def text(self, status: Document) -> bytes:
        """The exposition format: what was counted, and what this status document holds."""
        with self._scraping:
            self._snapshot.status = status
            return generate_latest(self._registry)

    # ------------------------------------------------------------ what the loop tells

    def observe_pass(self, target: str, seconds: float, *, ok: bool) -> None:
        self._pass.labels(target, _result(ok)).observe(seconds)

    def observe_fetch(self, seconds: float, *, ok: bool) -> None:
        self._fetch.labels(_result(ok)).observe(seconds)

    def observe_commit_applied(self, target: str, seconds: float) -> None:
        self._applied.labels(target).observe(max(0.0, seconds))

    def observe_first_token(self, target: str, seconds: float) -> None:
        self._first_token.labels(target).observe(max(0.0, seconds))

    def count_action(self, target: str, action: str, outcome: str) -> None:
        """`action` as in `report.actions.action_name`, `outcome` of model.Outcome."""
        self._actions.labels(target, action, outcome).inc()

    def expect_webhook(self, webhook: str, results: Iterable[str]) -> None:
        """Show zeros from the start: of what appears with its first count no increase can be seen."""
        for result in results:
            self._webhooks.labels(webhook, result)

    def count_webhook(self, webhook: str, result: str) -> None:
        """`webhook` is a configured name, `result` of `webhooks.WebhookResult`."""
        self._webhooks.labels(webhook, result).inc()


def _result(ok: bool) -> str:
    return "success" if ok else "failure"


def _services(status: Document) -> Iterator[tuple[tuple[str, str, str], Document]]:
    for target in status["targets"]:
        for service in target["services"]:
            yield (target["name"], service["namespace"], service["name"]), service


class _StatusCollector(Collector):
    """Samples from the status document, made when scraped."""

    def __init__(self) -> None:
        self.status: Document | None = None

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        status = self.status
        if status is None:
            return
        yield _gauge("reconciler_build_info", "Version that runs", ("version",), [((status["daemon"]["version"],), 1)])
        yield _gauge(
            "reconciler_source_ready",
            "1 when the source could be fetched and read",
            (),
            [((), not status["revision"]["error"])],
        )
        yield from _delivery_gauges(status)
        yield from _peer_gauges(status)
        yield from _target_gauges(status)
        yield from _service_gauges(status)
        yield _requests(status)
        yield _closed_paths(status)


def _delivery_gauges(status: Document) -> Iterator[Metric]:
    """None where the daemon tells nobody."""
    if forge := status.get("forge"):
        waiting = [((one["destination"],), one["count"]) for one in forge["waiting"]]
        ready = [((one["destination"],), not one["error"]) for one in forge["waiting"]]
        yield _gauge("reconciler_destination_ready", "1 when it takes messages", ("destination",), ready)
        yield _gauge("reconciler_outbox_waiting", "Messages that are not delivered yet", ("destination",), waiting)
        yield _gauge("reconciler_outbox_given_up", "Messages that nobody will get", (), [((), forge["deadCount"])])


def _peer_gauges(status: Document) -> Iterator[Metric]:
    """None where the page shows no other daemons."""
    if peers := status.get("peers"):
        up = [((one["name"],), one["reachable"]) for one in peers]
        yield _gauge("reconciler_peer_up", "1 when the other daemon answered the last time", ("peer",), up)


def _target_gauges(status: Document) -> Iterator[Metric]:
    targets = status["targets"]
    name = ("target",)
    yield _gauge(
        "reconciler_target_reachable",
        "1 when it could be observed",
        name,
        [((t["name"],), t["reachable"]) for t in targets],
    )
    yield _gauge(
        "reconciler_target_pass_failing",
        "1 when the latest pass over it failed",
        name,
        [((t["name"],), bool(t["passError"])) for t in targets],
    )
    yield _gauge(
        "reconciler_target_synced",
        "1 when the target has applied the desired revision, and nothing holds it up",
        name,
        [((t["name"],), _is_synced(t["revision"])) for t in targets],
    )
    yield _gauge(
        "reconciler_target_cordoned",
        "1 when its host.yaml lets nothing new start there: it says unschedulable or drain",
        name,
        [((t["name"],), t["cordoned"] is not None) for t in targets],
    )
    yield _gauge(
        "reconciler_deletions_held",
        "Deletions that wait for `reconciler approve`",
        name,
        [((t["name"],), len((t["deletions"]["held"] or {}).get("subjects", ()))) for t in targets],
    )
    yield _gauge(
        "reconciler_target_drained",
        "1 when the host is drained manually",
        name,
        [((t["name"],), t["drained"] is not None) for t in targets],
    )
    yield _gauge(
        "reconciler_gpus",
        "GPUs of a target: total, and leased by replicas",
        ("target", "state"),
        [((t["name"], state), t["gpus"][state]) for t in targets for state in ("total", "leased") if t["reachable"]],
    )


def _is_synced(revision: Document) -> bool:
    return bool(revision["desired"] == revision["applied"] and not revision["heldUpBy"])


def _service_gauges(status: Document) -> Iterator[Metric]:
    found = list(_services(status))
    yield _gauge(
        "reconciler_resource_info",
        "One per service; its sync status and health are labels",
        (*_SERVICE, "sync_status", "health_status"),
        [((*labels, s["sync"], s["health"]["status"]), 1) for labels, s in found],
    )
    yield _gauge(
        "reconciler_suspended",
        "1 when reconciliation is suspended",
        _SERVICE,
        [(key, s["suspended"]) for key, s in found],
    )
    yield _gauge(
        "reconciler_quarantined",
        "1 when the desired digest is quarantined",
        _SERVICE,
        [(labels, s["rejected"] is not None) for labels, s in found],
    )
    yield _gauge(
        "reconciler_blocked",
        "Number of reasons why it is Blocked",
        _SERVICE,
        [(k, len(s["blocked"])) for k, s in found],
    )
    phases = [((*labels, phase), n) for labels, s in found for phase, n in _phases(s).items()]
    yield _gauge("reconciler_replicas", "Replicas by phase", (*_SERVICE, "phase"), phases)
    yield _gauge("reconciler_service_gpus", "GPUs leased by its replicas", _SERVICE, [(k, s["gpus"]) for k, s in found])


def _requests(status: Document) -> Metric:
    family = CounterMetricFamily(
        "reconciler_requests",
        "Requests affected by rollouts: drained ran to their end, lost were cut, refused got 503",
        labels=(*_SERVICE, "fate"),
    )
    for labels, service in _services(status):
        for fate in Fate:
            family.add_metric((*labels, fate.value), service["requests"][fate.value])
    return family


def _closed_paths(status: Document) -> Metric:
    family = CounterMetricFamily(
        "reconciler_closed_path_requests",
        "Requests for a closed path, which got 403 from the proxy",
        labels=("target",),
    )
    for target in status["targets"]:
        family.add_metric((target["name"],), target["closedPathRequests"])
    return family


def _phases(service: Document) -> dict[str, int]:
    return dict(Tally(one["phase"] for one in service["replicas"])) or {ReplicaStatus.READY: 0}


def _gauge(
    name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, float(number))
    return family
