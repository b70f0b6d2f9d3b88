"""Real parts for the tests of the proxy: backends that answer like an engine, clients that judge by content."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.model import Endpoint, ReplicaId, ServiceId, ServiceRoute
from tests.support.ports import free_port


class Backend:
    """Answers every request with who it is and what it got; `stream` and `sleep` in the body slow it down."""

    def __init__(
        self,
        name: str,
        port: int | None = None,
        keep_alive: float = 60.0,
        breaks: bool = False,
        tls: ssl.SSLContext | None = None,
        path: str = "",
    ) -> None:
        """It listens on a port; with a path, on the Unix socket there."""
        self.name = name
        self.path = path
        self.port = port or (0 if path else free_port())
        self.seen = 0
        # Connections that the other side closed while they were idle.
        self.left = 0
        self._keep_alive = keep_alive
        self._breaks = breaks
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def close(self) -> None:
        """Drops the listener and every connection, as a killed process does."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._end = asyncio.Event()
        if self.path:
            server = await asyncio.start_unix_server(self._talk, self.path, limit=1 << 26, ssl=self._tls)
        else:
            server = await asyncio.start_server(self._talk, "127.0.0.1", self.port, limit=1 << 26, ssl=self._tls)
        started.set()
        await self._end.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError, asyncio.CancelledError):
            while True:
                head = await asyncio.wait_for(self._head(reader), self._keep_alive)
                request, headers = _parse(head)
                body = await self._body(reader, headers)
                self.seen += 1
                if self._breaks:
                    break
                await self._answer(writer, request, headers, body)
        writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            self.left += not error.partial
            raise

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(headers.get("content-length", 0)))
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return body

    async def _answer(
        self, writer: asyncio.StreamWriter, request: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        asked = json.loads(body) if body.startswith(b"{") and len(body) < 100_000 else {}
        await asyncio.sleep(asked.get("sleep", 0))
        if asked.get("stream"):
            await self._stream(writer, int(asked["stream"]))
            return
        method, path, _ = request.split(" ")
        said = {"name": self.name, "method": method, "path": path, "length": len(body), "headers": dict(headers)}
        text = json.dumps(said).encode()
        head = f"HTTP/1.1 200 OK\r\nserver: engine\r\ncontent-type: application/json\r\ncontent-length: {len(text)}"
        writer.write(head.encode() + b"\r\n\r\n" + (b"" if method == "HEAD" else text))
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter, count: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in [*(f"{self.name} {i}" for i in range(count)), "[DONE]"]:
            text = f"data: {event}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(text), text))
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    request, *lines = head.decode("latin-1").strip().split("\r\n")
    return request, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One keep-alive connection; it never tries again."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        host: str = "127.0.0.1",
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        data = body if isinstance(body, bytes | None) or hasattr(body, "__next__") else json.dumps(body).encode()
        sent = {"host": host, **({"content-type": "application/json"} if data is not None else {}), **(headers or {})}
        self._connection.request(method or ("GET" if data is None else "POST"), path, data, sent)
        response = self._connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def close(self) -> None:
        self._connection.close()


def ask(port: int, path: str, body: Any = None, **more: Any) -> Answer:
    client = Client(port)
    try:
        return client.ask(path, body, **more)
    finally:
        client.close()


@dataclass
class Load:
    """What clients saw: `served` counts whole answers by backend; `lost` describes every other one."""

    served: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    refused: int = 0


@contextlib.contextmanager
def load(port: int, path: str, body: Mapping[str, Any], *, posts: int = 3, streams: int = 2) -> Iterator[Load]:
    """Keep-alive POSTs and streams, as long as the block lasts."""
    seen, stop, lock = Load(), threading.Event(), threading.Lock()
    jobs = [(dict(body), 0.004)] * posts + [({**body, "stream": 8}, 0.0)] * streams

    def work(job: dict[str, Any], pause: float) -> None:
        client = Client(port)
        while not stop.is_set():
            name, problem, refused = _judge(client, path, job)
            with lock:
                seen.refused += refused
                if problem:
                    seen.lost.append(f"{time.time():.3f} {problem}")
                elif name:
                    seen.served[name] += 1
            time.sleep(pause)
        client.close()

    threads = [threading.Thread(target=work, args=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def _judge(client: Client, path: str, job: Mapping[str, Any]) -> tuple[str, str, int]:
    try:
        answer = client.ask(path, job)
    except (OSError, http.client.HTTPException) as error:
        client.close()
        return "", repr(error), 0
    if answer.status == 503 and "retry-after" in answer.headers:
        return "", "", 1
    if answer.status != 200:
        return "", f"{answer.status} {answer.body[:200]!r}", 0
    if "stream" not in job:
        return answer.json["name"], "", 0
    events = answer.body.decode().split("\n\n")[:-1]
    name = events[0].split()[1]
    whole = [*(f"data: {name} {i}" for i in range(job["stream"])), "data: [DONE]"]
    return (name, "", 0) if events == whole else ("", f"cut stream: {events}", 0)


def service(name: str, namespace: str = "demo") -> ServiceId:
    return ServiceId(namespace, name)


def seat(owner: ServiceId, port: int, serial: str = "0", draining: bool = False, tls: bool = False) -> Endpoint:
    return Endpoint(ReplicaId(owner, f"aaaaaaaa-{serial}"), port, draining, tls)


def route(name: str, *ports: int, namespace: str = "demo", **more: Any) -> ServiceRoute:
    owner = service(name, namespace)
    return ServiceRoute(owner, tuple(seat(owner, port, str(port)) for port in ports), **more)


def wait_for(claim: Any, patience: float = 10.0) -> Any:
    """Polls until the claim holds; returns what it said."""
    deadline = time.monotonic() + patience
    while not (said := claim()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return said
