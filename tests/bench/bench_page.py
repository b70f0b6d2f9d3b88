"""What the Overview costs: from a status of many services to its document, its HTML and its JSON. Prints JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from starlette.requests import Request

from reconciler.model import NO_ORIGIN, Capacity, Gpu, Health, HealthStatus, Lease, Reason, ReasonCode, ServiceId, Sync
from reconciler.page.gpus import gpus_document
from reconciler.page.overview import overview_document
from reconciler.report.status import Document, TargetReport
from reconciler.web.json_responses import JSONResponse
from reconciler.web.pages.responses import make_page
from reconciler.web.visitors import NOBODY_IN_PARTICULAR
from tests.support.report_world import desired, observed, planned, rejection, replica, report, state, status_of, verdict

_STUCK = Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASH_LOOP_BACKOFF, "crashed 5 times", NO_ORIGIN))


def make_report(count: int) -> TargetReport:
    """One in ten is rejected, and one in ten crashes. Every one has a GPU."""
    ids = [ServiceId("demo", f"service-{number:05}") for number in range(count)]
    verdicts = [verdict(one) for one in ids]
    verdicts[::10] = [verdict(one, Sync.OUT_OF_SYNC, rejected=rejection(one)) for one in ids[::10]]
    verdicts[5::10] = [verdict(one, health=_STUCK) for one in ids[5::10]]
    gpus = tuple(Gpu(f"GPU-{number:08}", "NVIDIA H200", 140 << 30) for number in range(count))
    replicas = [replica(one, lease=Lease(20_000, (gpu.uuid,))) for one, gpu in zip(ids, gpus, strict=True)]
    seen = replace(observed(*replicas), capacity=Capacity(1, 1, gpus[:16]))
    return report(desired=state(*map(desired, ids)), observed=seen, plan=planned(*verdicts))


def make_html(page: str, document: Document) -> bytes:
    scope = {"type": "http", "method": "GET", "scheme": "http", "server": ("h", 80), "path": "/", "query_string": b""}
    made = make_page(Request(scope | {"headers": []}), page, document, NOBODY_IN_PARTICULAR, attention=1)
    return made.head + made.tail


def median_ms(work: Callable[[], object], count: int = 15) -> float:
    work()
    spent = []
    for _ in range(count):
        began = time.process_time()
        work()
        spent.append(1e3 * (time.process_time() - began))
    return round(statistics.median(spent), 2)


def measure(count: int) -> dict[str, float]:
    target = make_report(count)
    status = status_of(target)
    worst = {"sort": "-health", "q": "service"}
    document = overview_document(status, worst, {})
    assert document["services"]["matching"] == count
    assert document["attention"]["total"] == count // 5
    figures = {
        "status": median_ms(lambda: status_of(target), 5),
        "document": median_ms(lambda: overview_document(status, worst, {})),
        "html": median_ms(lambda: make_html("overview", document)),
        "json": median_ms(lambda: JSONResponse(document).body),
        "gpus_document_and_html": median_ms(lambda: make_html("gpus", gpus_document(status, {}))),
        "html_kib": round(len(make_html("overview", document)) / 1024, 1),
    }
    figures["all"] = round(sum(figures[name] for name in ("status", "document", "html", "json")), 2)
    return {
        f"page_{count}_services_{name}{'' if name.endswith('kib') else '_ms'}": value for name, value in figures.items()
    }


if __name__ == "__main__":
    print(json.dumps({name: value for number in (1_000, 10_000) for name, value in measure(number).items()}))
