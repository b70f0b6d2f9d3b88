"""From a webhook to the fetch that it causes, on a real daemon; and what a flood costs other answers and memory.

Prints JSON.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import structlog

from reconciler.loop.daemon import Daemon
from reconciler.model import Snapshot
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.git_repository import Repository
from tests.support.world import eventually
from tests.web.fake_loop import FakeLoop
from tests.web.test_web import get
from tests.web.test_webhook_flood import resident_bytes
from tests.web.webhook_flood import Flood
from tests.web.webhook_senders import configured, push, send


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        waits = time_fetches(Path(folder) / "daemon", 20)
    with tempfile.TemporaryDirectory() as folder:
        flooded = measure_flood(Path(folder), 10_000)
    figures = {
        "webhook_to_fetch_started_ms_p50": statistics.median(waits),
        "webhook_to_fetch_started_ms_max": max(waits),
    }
    print(json.dumps({name: round(value, 2) for name, value in (figures | flooded).items()}))


def time_fetches(folder: Path, count: int) -> list[float]:
    """Milliseconds from before a request is sent until git is asked."""
    repository = Repository(folder / "origin")
    repository.write("hosts/a/x.yaml", "# nothing\n")
    repository.commit()
    daemon = Daemon(configured(folder, url=str(repository.path), interval=100_000))
    poll, begun = daemon._follower.source.poll, [0.0]

    def timed() -> Snapshot:
        begun.append(time.monotonic())
        return poll()

    daemon._follower.source.poll = timed  # type: ignore[method-assign]
    daemon.start()
    eventually(lambda: daemon.status()["revision"]["desired"])
    waits = []
    for _ in range(count):
        # Those that follow each other sooner are passed on as one.
        time.sleep(1.2)
        known, sent = len(begun), time.monotonic()
        send(daemon._web.address, "github", push("github"))
        eventually(lambda known=known: len(begun) > known)
        waits.append(1e3 * (begun[known] - sent))
    daemon.stop()
    return waits


def measure_flood(folder: Path, count: int) -> dict[str, float]:
    web = WebSide(configured(folder), FakeLoop(), Metrics())
    web.start()
    Flood(web.address, 1_000).wait()
    idle = sorted(time_answer(web) for _ in range(300))
    before, flood, began, busy = resident_bytes(), Flood(web.address, count), time.monotonic(), []
    while not flood.is_over:
        busy.append(time_answer(web))
    seconds = time.monotonic() - began
    answers = flood.wait()
    grown = resident_bytes() - before
    web.stop()
    busy.sort()
    return {
        "healthz_idle_ms_p50": statistics.median(idle),
        "healthz_idle_ms_p99": idle[len(idle) * 99 // 100],
        "healthz_in_flood_ms_p50": statistics.median(busy),
        "healthz_in_flood_ms_p99": busy[len(busy) * 99 // 100],
        "flood_requests_per_second": count / seconds,
        "flood_without_an_answer": answers["none"],
        "flood_memory_growth_mib": grown / (1 << 20),
    }


def time_answer(web: WebSide) -> float:
    began = time.monotonic()
    get(web, "/healthz")
    return 1e3 * (time.monotonic() - began)


if __name__ == "__main__":
    main()
