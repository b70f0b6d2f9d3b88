"""`/events`: tells open pages that what they show has changed, by server-sent events. The page fetches itself again.

An event names pages (`topics`) and says nothing of them, so it needs no history: a browser that was away says which
events it has seen, and is told what changed since. What changed is found by comparing the status document with the
one before, in a thread of its own, and only while somebody listens.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from reconciler.report.status import Document
from reconciler.web.pages.topics import digests, topic_of
from reconciler.web.visitors import visitor_of

log = structlog.get_logger()

_SHORTEST_PAUSE = 0.25
# So much of one processor is spent on comparing, at most.
_SHARE = 0.1
_HEARTBEAT_SECONDS = 15.0
_UNREAD_SECONDS = 20.0
# Then browsers ask again, and are asked again who they are.
_LONGEST_SECONDS = 900.0
_RETRY_MILLISECONDS = 2000
# Pages that are told of the same change ask for it one after the other: so many seconds pass for each.
_SPREAD_SECONDS = 0.004
_MOST_NAMED = 100
_TYPE = "text/event-stream"
_POSITION = re.compile(r"[0-9a-f]{8}-[0-9]{1,18}")
# Of another daemon, or of this one before it was started again.
_NOWHERE = "00000000-0"


class StreamConnection(Protocol):
    """A connection as its server knows it: `connections.py` puts it into the request's state."""

    def begin_stream(self, end: Callable[[], None]) -> bool:
        """The response has no end of its own: the server calls `end` when it is over, in its loop's thread.

        False where there are too many already.
        """

    def abort(self) -> None:
        """Close without sending what is left."""


class Live:
    """Who listens, and what has changed. One of the parts beside the passes: see `loop/beside.py`."""

    def __init__(self, read: Callable[[], Document]) -> None:
        """`read` gives the status document, at once."""
        self._read = read
        self._epoch = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._number = self._gone_at = 0
        self._changed_at: dict[str, int] = {}
        self._digests: dict[str, int] = {}
        self._streams: set[EventStream] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    # ------------------------------------------------------------ a part beside the passes

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        if self._streams:
            self._due.set()

    def stop(self) -> None:
        self._stopped.set()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def document(self) -> Document:
        return {}

    # ------------------------------------------------------------ what the pages ask

    def position(self) -> str:
        """Of the events so far. What a page shows that is made from now on is no older than these."""
        with self._lock:
            return f"{self._epoch}-{self._number}"

    def since(self, position: str, topic: str | None) -> tuple[str, list[str]]:
        """Where the events are now, and which topics have changed since: all that did, or none but this one."""
        epoch, _, number = position.partition("-")
        with self._lock:
            now = f"{self._epoch}-{self._number}"
            seen = int(number) if epoch == self._epoch else -1
            if topic is not None:
                return now, [topic] if self._changed_at.get(topic, self._gone_at) > seen else []
            return now, sorted(one for one, changed in self._changed_at.items() if changed > seen)

    def answer(self, request: Request) -> Response:
        """A stream of events. In the server's loop."""
        if request.method == "HEAD":
            return Response(media_type=_TYPE)
        stream = EventStream(self, request)
        if not request.state.connection.begin_stream(stream.end):
            busy = "Too many pages are open; this one is not kept fresh until others are closed.\n"
            return PlainTextResponse(busy, 503, {"Retry-After": "30"})
        return stream

    def add(self, stream: EventStream) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams.add(stream)
        # What is known may be from when somebody last listened.
        self._due.set()

    def remove(self, stream: EventStream) -> None:
        self._streams.discard(stream)

    def end_session(self, session: bytes) -> None:
        """Somebody has logged out: pages that are still open hear no more. In the server's loop."""
        for stream in self._streams:
            if stream.session == session:
                stream.end()

    # ------------------------------------------------------------ comparing

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._due.wait()
            self._due.clear()
            began = time.monotonic()
            if self._streams and not self._stopped.is_set():
                self._compare_safely()
            self._stopped.wait(max(_SHORTEST_PAUSE, (time.monotonic() - began) / _SHARE))

    def _compare_safely(self) -> None:
        try:
            self._compare()
        except Exception:
            # A bug here costs pages their freshness, and nothing else.
            log.exception("live_failed")

    def _compare(self) -> None:
        found = digests(self._read())
        with self._lock:
            changed = [topic for topic, one in found.items() if self._digests.get(topic) != one]
            gone = self._digests.keys() - found.keys()
            self._digests = found
            if not changed and not gone:
                return
            self._number += 1
            self._changed_at |= dict.fromkeys(changed, self._number)
            if gone:
                self._gone_at = self._number
                self._changed_at = {topic: at for topic, at in self._changed_at.items() if topic not in gone}
        self._rouse_streams()

    def _rouse_streams(self) -> None:
        if self._loop is not None:
            # The loop may be over already.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._rouse_each)

    def _rouse_each(self) -> None:
        for stream in self._streams:
            stream.rouse()

    def spread(self) -> float:
        """Seconds that one stream waits, so that not all pages ask at once."""
        return random.uniform(0, _SPREAD_SECONDS * len(self._streams))  # noqa: S311 - nobody's secret


class EventStream(Response):
    """One browser that listens."""

    def __init__(self, live: Live, request: Request) -> None:
        super().__init__(media_type=_TYPE, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        page = request.query_params.get("page")
        known = request.headers.get("last-event-id") or request.query_params.get("since")
        self._live = live
        self._connection: StreamConnection = request.state.connection
        self._topic = topic_of(page) if page else None
        self._seen = (known if _POSITION.fullmatch(known) else _NOWHERE) if known else live.position()
        visitor = visitor_of(request)
        self.session, ends = visitor.session, visitor.ends
        self._seconds = _LONGEST_SECONDS if ends is None else min(_LONGEST_SECONDS, ends - time.time())
        self._roused = asyncio.Event()
        self._is_over = False

    def rouse(self) -> None:
        self._roused.set()

    def end(self) -> None:
        self._is_over = True
        self._roused.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._live.add(self)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._say(send, f"retry: {_RETRY_MILLISECONDS}\nid: {self._seen}\n\n")
            await self._tell(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._live.remove(self)

    async def _tell(self, send: Send) -> None:
        until = time.monotonic() + self._seconds
        while not self._is_over and time.monotonic() < until:
            self._roused.clear()
            now, topics = self._live.since(self._seen, self._topic)
            if topics:
                self._seen = now
                named = topics if len(topics) <= _MOST_NAMED else ["*"]
                await self._say(send, f"id: {now}\ndata: {json.dumps(named)}\n\n")
            elif not await self._is_roused(_HEARTBEAT_SECONDS):
                # Not a comment: of those a page learns nothing, and it is to know that a stream still lives.
                await self._say(send, "event: alive\ndata: .\n\n")
            elif not self._is_over:
                await asyncio.sleep(self._live.spread())

    async def _is_roused(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._roused.wait()
        except TimeoutError:
            return False

    async def _say(self, send: Send, text: str) -> None:
        """A client that does not read is dropped."""
        try:
            async with asyncio.timeout(_UNREAD_SECONDS):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        except TimeoutError:
            self._is_over = True
            self._connection.abort()
