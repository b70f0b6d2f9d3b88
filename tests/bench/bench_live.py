"""200 open pages, kept fresh by a real daemon's web side: memory, processor time for an event, and what a pass costs
with and without them.

The browsers are a process of their own. Prints JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from reconciler.config.settings import Web
from reconciler.model import ServiceId
from reconciler.report.status import Document
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.report_world import (
    desired,
    observed,
    planned,
    replica,
    report,
    settings,
    state,
    status_of,
    verdict,
    with_service,
)
from tests.web.fake_loop import FakeLoop
from tests.web.test_webhook_flood import resident_bytes

_OPEN = 200
_EVENTS = 20
# Opens so many streams, says so, and reads them until its input ends. Then it says how many events it has read.
_BROWSERS = """
import selectors, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
streams = selectors.DefaultSelector()
for _ in range(count):
    one = socket.create_connection((host, port))
    one.sendall(b"GET /events?page=/ HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    assert b" 200 " in one.recv(1 << 16)
    one.setblocking(False)
    streams.register(one, selectors.EVENT_READ)
streams.register(sys.stdin, selectors.EVENT_READ)
print("open", flush=True)
read = 0
while True:
    for key, _ in streams.select():
        if key.fileobj is sys.stdin:
            print(read)
            sys.exit()
        read += key.fileobj.recv(1 << 16).count(b"data:")
"""


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        loop = FakeLoop(make_status(1000))
        web = WebSide(settings(Path(folder) / "state", web=Web(listen="127.0.0.1:0")), loop, Metrics())
        web.start()
        web.live.start()
        try:
            figures = _measure(web, loop)
        finally:
            web.stop()
            web.live.stop()
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def _measure(web: WebSide, loop: FakeLoop) -> dict[str, float]:
    # First with few services: what is made of a thousand takes memory that would hide that of streams.
    known, loop.document = loop.document, make_status(1)
    with _browsers(web, 1) as browsers:
        time.sleep(1)
        browsers.communicate()
    before = resident_bytes()
    with _browsers(web, _OPEN) as browsers:
        time.sleep(1)
        grown = resident_bytes() - before
        browsers.communicate()
    loop.document = known
    alone, spent_alone = _passes(web, loop)
    with _browsers(web, _OPEN) as browsers:
        time.sleep(2)
        watched, spent = _passes(web, loop)
        read, _ = browsers.communicate()
    return {
        "streams": _OPEN,
        "streams_mib": grown / 2**20,
        "events_read_per_stream": int(read) / _OPEN,
        "cpu_ms_per_event_of_all_streams": 1e3 * (spent - spent_alone) / _EVENTS,
        "pass_alone_ms_p50": statistics.median(alone),
        "pass_watched_ms_p50": statistics.median(watched),
    }


def _passes(web: WebSide, loop: FakeLoop) -> tuple[list[float], float]:
    """Milliseconds that each took, and the processor's seconds with all that followed from them."""
    used, found = time.process_time(), []
    for number in range(_EVENTS):
        found.append(_milliseconds(partial(_pass, web, loop, number)))
        time.sleep(1)
    return found, time.process_time() - used


def _pass(web: WebSide, loop: FakeLoop, number: int) -> None:
    """The work that a pass does in Python, which is what threads compete for: here, that of a status document."""
    loop.document = with_service(make_status(1000), ready=f"{number}/9")
    web.live.wake()


def make_status(count: int) -> Document:
    """Of a host with so many services, each with one replica."""
    ids = [ServiceId("demo", f"model-{number}") for number in range(count)]
    return status_of(
        report(
            desired=state(*map(desired, ids)),
            observed=observed(*map(replica, ids), gpus=8),
            plan=planned(*map(verdict, ids)),
        )
    )


def _milliseconds(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return 1e3 * (time.monotonic() - began)


def _browsers(web: WebSide, count: int) -> subprocess.Popen[str]:
    host, port = web.address
    found = subprocess.Popen(
        [sys.executable, "-c", _BROWSERS, host, str(port), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert found.stdout is not None
    assert found.stdout.readline() == "open\n"
    return found


if __name__ == "__main__":
    main()
