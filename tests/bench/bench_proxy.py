"""What the proxy adds to a request, by way in, and how long changes of its table take. Prints JSON; asserts nothing.

`python -m tests.bench.bench_proxy [PAIRS]`. The backend is a small asyncio server on the same machine, asked over
keep-alive connections in turns: directly, by host name, by path, by model.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from reconciler.config.settings import Routing
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.model import ServiceRoute
from tests.support.ports import free_port
from tests.support.proxy_parts import Backend, route

SIZES = {"2kb": 2_000, "100kb": 100_000}


class Caller:
    """A keep-alive connection that does as little as possible itself."""

    def __init__(self, port: int, path: str, host: str, body: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        self._request = head.encode() + b"\r\n\r\n" + body

    def milliseconds(self) -> float:
        began = time.perf_counter()
        self._socket.sendall(self._request)
        answer = b""
        while not answer.endswith(b"}"):
            answer += self._socket.recv(65536)
        took = (time.perf_counter() - began) * 1e3
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return took


def main(pairs: int) -> None:
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    engine = multiprocessing.Process(target=serve, args=(ports,), daemon=True)
    engine.start()
    backend, listen = ports.get(timeout=20), free_port()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        proxy = EnvoyProxy(Path(folder) / "proxy", Routing(listen=f"127.0.0.1:{listen}"))
        try:
            figures["start_ms"] = clock(proxy.ensure_running)
            for count in (4, 1_000):
                figures |= measure_changes(proxy, count, backend)
                figures |= measure_requests(count, backend, listen, pairs)
        finally:
            proxy.stop()
            engine.kill()
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1))


def serve(ports: multiprocessing.Queue[int]) -> None:
    ports.put(Backend("engine").port)
    time.sleep(3600)


def measure_changes(proxy: EnvoyProxy, count: int, backend: int) -> dict[str, float]:
    services = [route(f"m{i:04}", *([backend] if i == count - 1 else ())) for i in range(count)]
    joined: tuple[ServiceRoute, ...] = (route("m0000", free_port()), *services[1:])
    steps: dict[str, Callable[[], object]] = {
        "apply_new_table": lambda: proxy.apply(tuple(services)),
        "apply_endpoint": lambda: proxy.apply(joined),
        "apply_unchanged": lambda: proxy.apply(joined),
        "observe": proxy.observe,
        "observe_again": proxy.observe,
        "apply_one_service_less": lambda: proxy.apply(joined[1:]),
    }
    return {f"{name}_{count}_services_ms": clock(step) for name, step in steps.items()}


def measure_requests(count: int, backend: int, listen: int, pairs: int) -> dict[str, float]:
    figures = {}
    name = f"m{count - 1:04}"
    for size, prompt in SIZES.items():
        body = json.dumps({"model": name, "prompt": "x" * prompt}).encode()
        callers = {
            "direct": Caller(backend, "/v1/completions", "x", body),
            "host": Caller(listen, "/v1/completions", f"{name}-demo.example.com", body),
            "path": Caller(listen, f"/demo/{name}/v1/completions", "x", body),
            "model": Caller(listen, "/v1/completions", "x", body),
        }
        times: dict[str, list[float]] = {way: [] for way in callers}
        ways = list(callers)
        for one_pass in range(pairs):
            # The first request after a pause pays for waking up the others.
            for way in ways[one_pass % 4 :] + ways[: one_pass % 4]:
                times[way].append(callers[way].milliseconds())
        median = {way: statistics.median(taken[pairs // 10 :]) for way, taken in times.items()}
        figures[f"direct_p50_{size}_{count}_services_ms"] = median["direct"]
        for way in ("host", "path", "model"):
            figures[f"added_p50_by_{way}_{size}_{count}_services_ms"] = median[way] - median["direct"]
    return figures


def clock(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
