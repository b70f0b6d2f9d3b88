"""A thousand other daemons on the Overview: what asking them costs, in CPU and memory, and how long the page takes.

Real connections to real web sides: few processes that listen on all loopback addresses, each address a peer. One in
ten is away. Prints JSON.

    python -m tests.bench.bench_peers [COUNT]
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from reconciler.config.settings import Settings
from reconciler.config.web import PeerSettings, Web
from reconciler.report.status import Document
from reconciler.web.metrics import Metrics
from reconciler.web.peers import EVERY_SECONDS, Peers
from reconciler.web.server import WebSide
from tests.bench.bench_live import make_status
from tests.support.ports import free_port
from tests.support.report_world import settings
from tests.support.world import eventually
from tests.web.fake_loop import FakeLoop
from tests.web.test_pages import get
from tests.web.test_webhook_flood import resident_bytes

_PROCESSES = 2
_PEERS_SERVICES = 50


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    ports = [free_port() for _ in range(_PROCESSES)]
    pipes = [start_peer(port) for port in ports]
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(addresses(count, ports), pipes, Path(folder))
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def start_peer(port: int) -> Connection:
    """It says how many CPU seconds it has used whenever it is asked."""
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.Process(target=be_peer, args=(port, theirs), daemon=True).start()
    ours.recv()
    return ours


def be_peer(port: int, pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        side = WebSide(listening(Path(folder), f"0.0.0.0:{port}"), FakeLoop(make_status(_PEERS_SERVICES)), Metrics())
        side.start()
        pipe.send(None)
        while pipe.recv() is not None:
            pipe.send(time.process_time())


def listening(folder: Path, listen: str) -> Settings:
    return settings(folder / "state", web=Web(listen=listen))


def addresses(count: int, ports: list[int]) -> list[PeerSettings]:
    """One in ten has nobody listening."""
    known = [*ports, *ports, *ports, *ports, *ports[:1], free_port()]
    return [
        PeerSettings(
            name=f"gpu-{number}",
            url=f"http://127.0.{1 + number // 250}.{1 + number % 250}:{known[number % len(known)]}",
        )
        for number in range(count)
    ]


def measure(settings_: list[PeerSettings], pipes: list[Connection], folder: Path) -> dict[str, float]:
    memory, began, cpu = resident_bytes(), time.monotonic(), time.process_time()
    peers = Peers(settings_, lambda: None)
    peers.start()
    eventually(lambda: all(one["observedAt"] or one["since"] for one in peers.document()["peers"]), 300)
    figures = {
        "peers": len(settings_),
        "first_round_s": time.monotonic() - began,
        "first_round_cpu_s": time.process_time() - cpu,
    }
    cpu, theirs = time.process_time(), used(pipes)
    time.sleep(EVERY_SECONDS)
    figures |= {
        "round_s": EVERY_SECONDS,
        "round_cpu_s": time.process_time() - cpu,
        "round_cpu_s_of_all_peers": used(pipes) - theirs,
        "memory_mib": (resident_bytes() - memory) / (1 << 20),
        "reachable": sum(one["reachable"] for one in peers.document()["peers"]),
    }
    known = peers.document()
    peers.stop()
    alone = make_status(1_000)
    return figures | {
        "document_us": 1e6 * timed(peers.document),
        "overview_of_1000_services_ms_p50": time_overview(folder / "a", alone)[0],
        "overview_with_peers_too_ms_p50": (page := time_overview(folder / "b", alone | known))[0],
        "overview_with_peers_kib": page[1] / 1024,
    }


def used(pipes: list[Connection]) -> float:
    """CPU seconds of the peers' processes."""
    for pipe in pipes:
        pipe.send(True)
    return sum(pipe.recv() for pipe in pipes)


def timed(do: object) -> float:
    assert callable(do)
    began = time.perf_counter()
    for _ in range(100):
        do()
    return (time.perf_counter() - began) / 100


def time_overview(folder: Path, document: Document) -> tuple[float, int]:
    """Milliseconds until a browser has it, and its bytes."""
    side = WebSide(listening(folder, "127.0.0.1:0"), FakeLoop(document), Metrics())
    side.start()
    times, text = [], ""
    for _ in range(20):
        began = time.perf_counter()
        text = get(side, "/")[1]
        times.append(1e3 * (time.perf_counter() - began))
    side.stop()
    return statistics.median(times), len(text.encode())


if __name__ == "__main__":
    main()
