"""What is on a cluster now, kept by watches of the kinds that matter, and nothing else.

Each kind is listed once and then watched from there on. A watch that ends is resumed where it was; one that cannot be
(410) lists again. A kind whose watch is broken for long is *unknown*: what was seen last is kept, and is not the truth.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import urllib3

from reconciler.cluster.api.client import Client, Listing
from reconciler.cluster.api.discovery import Resource
from reconciler.cluster.api.errors import Expired, Forbidden, KindUnknown, RequestInfo, Unreached, error_of
from reconciler.cluster.api.kept import Kept
from reconciler.cluster.api.transport import ApiRequest
from reconciler.cluster.api.trimming import trimmed
from reconciler.errors import ReconcileError
from reconciler.fault_isolation import unexpected
from reconciler.model.backoff import backoff
from reconciler.model.objects import KubeObject, ObjectId

# The server sends a bookmark every minute: silence of longer than that is a connection that died unnoticed.
_SILENCE_SECONDS = 90.0
_WATCH_SECONDS = (240, 300)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# A watch that ends sooner is not one.
_SETTLED_SECONDS = 5.0
_MOST_EVENT_BYTES = 16 << 20
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True, order=True)
class WatchedKind:
    """What is watched: a kind (in a version, or the preferred one), of one namespace or of all, with these labels, or
    the one object of this name."""

    group: str
    kind: str
    version: str = ""
    namespace: str = ""
    labels: str = ""
    name: str = ""

    @property
    def fields(self) -> str:
        """The field selector."""
        return f"metadata.name={self.name}" if self.name else ""

    def __str__(self) -> str:
        name = f"{self.kind}.{self.group}" if self.group else self.kind
        return f"{name} in {self.namespace}" if self.namespace else name


class KindState(StrEnum):
    """`SYNCED`: the objects are those of the cluster. `ABSENT`: no such kind is served. `PENDING`: it is about to be
    listed for the first time. `UNKNOWN`: nobody can say."""

    SYNCED = "synced"
    UNKNOWN = "unknown"
    PENDING = "pending"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class KindStatus:
    """`why` it is unknown or pending, for people."""

    state: KindState
    why: str = ""


class WatchSnapshot(Mapping[ObjectId, KubeObject]):
    """All that was seen of the watched kinds at one moment. It does not change."""

    def __init__(self, parts: Mapping[WatchedKind, tuple[KindStatus, Mapping[ObjectId, KubeObject]]]) -> None:
        self._parts: dict[tuple[str, str], list[tuple[KindStatus, Mapping[ObjectId, KubeObject]]]] = {}
        for watched, part in parts.items():
            self._parts.setdefault((watched.group, watched.kind), []).append(part)

    def __getitem__(self, id: ObjectId) -> KubeObject:
        for _, objects in self._parts.get((id.group, id.kind), ()):
            if (found := objects.get(id)) is not None:
                return found
        raise KeyError(id)

    def __iter__(self) -> Iterator[ObjectId]:
        for part in self._parts.values():
            yield from dict.fromkeys(id for _, objects in part for id in objects)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def of_kind(self, group: str, kind: str) -> Iterator[tuple[ObjectId, KubeObject]]:
        seen: dict[ObjectId, KubeObject] = {}
        for _, objects in self._parts.get((group, kind), ()):
            seen.update(objects)
        return iter(seen.items())

    def status(self, group: str, kind: str) -> KindStatus:
        """Whether an object of this kind that is not here does not exist. A kind that is not watched is unknown."""
        found = [status for status, _ in self._parts.get((group, kind), ())]
        for state in (KindState.UNKNOWN, KindState.PENDING):
            if (status := next((each for each in found if each.state is state), None)) is not None:
                return status
        return found[0] if found else KindStatus(KindState.UNKNOWN, "this kind is not watched")


class Watches:
    """The watches of one cluster, one thread for each kind. For any number of threads."""

    def __init__(self, client: Client, wake: Callable[[], None], stale_seconds: float = 30.0) -> None:
        """`wake` is called from threads of watches, after something has changed; it must not block."""
        self._client = client
        self._wake = wake
        self._stale_seconds = stale_seconds
        self._lock = threading.Lock()
        self._feeds: dict[WatchedKind, _Feed] = {}

    def watch(self, kinds: Iterable[WatchedKind]) -> None:
        """Watch exactly these from now on."""
        wanted = set(kinds)
        with self._lock:
            ended = [self._feeds.pop(kind) for kind in set(self._feeds) - wanted]
            for kind in sorted(wanted - set(self._feeds)):
                self._feeds[kind] = _Feed(kind, self._client, self._wake, self._stale_seconds)
        for feed in ended:
            feed.stop()

    def snapshot(self) -> WatchSnapshot:
        with self._lock:
            feeds = dict(self._feeds)
        return WatchSnapshot({kind: feed.seen() for kind, feed in feeds.items()})

    def current(self, kind: WatchedKind) -> Mapping[ObjectId, KubeObject] | None:
        """What there is, as told by a watch that is open; None: the API server must be asked."""
        with self._lock:
            feed = self._feeds.get(kind)
        return feed.current() if feed is not None else None

    def wait_until_known(self, seconds: float) -> bool:
        """Wait until every kind has been listed, is absent, or may not be listed; False: some is not."""
        ends = time.monotonic() + seconds
        with self._lock:
            feeds = list(self._feeds.values())
        return all(feed.known.wait(max(0.0, ends - time.monotonic())) for feed in feeds)

    def put(self, found: KubeObject) -> None:
        """See what a write of ours has answered, before the watch tells of it. A newer state is kept."""
        id = ObjectId.of(found)
        for feed in self._of(id):
            feed.put(found)

    def drop(self, id: ObjectId, uid: str) -> None:
        """See that the object with this uid is gone, before the watch tells of it."""
        for feed in self._of(id):
            feed.drop(id, uid)

    def close(self) -> None:
        self.watch(())

    def _of(self, id: ObjectId) -> list[_Feed]:
        with self._lock:
            return [
                feed
                for kind, feed in self._feeds.items()
                if (kind.group, kind.kind) == (id.group, id.kind)
                and kind.namespace in ("", id.namespace)
                and kind.name in ("", id.name)
            ]


@dataclass(slots=True)
class _Progress:
    """How far a feed is, by the monotonic clock: since when it is broken (None: it is not) and its watch is open, and
    when the server last said that it has no such kind. `is_refused`: we may not list it."""

    broken_since: float | None = field(default_factory=time.monotonic)
    opened_at: float | None = None
    absent_at: float | None = None
    why: str = "it has not been listed yet"
    was_listed: bool = False
    is_refused: bool = False

    def is_broken(self, seconds: float) -> bool:
        """Is it broken for so long? A watch that is open proves nothing before it has lasted, or told something."""
        now = time.monotonic()
        if self.broken_since is None or (self.opened_at is not None and now - self.opened_at > _SETTLED_SECONDS):
            return False
        return now - self.broken_since > seconds


class _Feed:
    """One watched kind: a thread that keeps its objects."""

    def __init__(self, kind: WatchedKind, client: Client, wake: Callable[[], None], stale_seconds: float) -> None:
        self._stale_seconds = stale_seconds
        self._kind = kind
        self._client = client
        self._wake = wake
        self._lock = threading.Lock()
        self._kept = Kept()
        self._progress = _Progress()
        self._stopping = threading.Event()
        # Ends a pause.
        self._hurry = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None
        self.known = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {kind}", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------- for other threads

    def stop(self) -> None:
        """Returns at once; the thread ends by itself."""
        self._stopping.set()
        self._hurry.set()
        with self._lock:
            response = self._response
        if response is not None:
            with suppress(Exception):
                response.shutdown()

    def seen(self) -> tuple[KindStatus, Mapping[ObjectId, KubeObject]]:
        with self._lock:
            return self._status(), self._kept.seen()

    def current(self) -> Mapping[ObjectId, KubeObject] | None:
        status, objects = self.seen()
        with self._lock:
            is_open = self._progress.opened_at is not None and self._progress.broken_since is None
        return objects if is_open and status.state is KindState.SYNCED else None

    def put(self, found: KubeObject) -> None:
        with self._lock:
            # Whether a new object has the labels that are watched for, the watch says.
            self._kept.put(found, is_new_allowed=not self._kind.labels)
            if self._progress.absent_at is not None:
                # Its CRD has come.
                self._hurry.set()

    def drop(self, id: ObjectId, uid: str) -> None:
        with self._lock:
            self._kept.drop(id, uid)

    def _status(self) -> KindStatus:
        progress = self._progress
        if (
            progress.absent_at is not None
            and time.monotonic() - progress.absent_at < self._stale_seconds + _LONGEST_PAUSE
        ):
            return KindStatus(KindState.ABSENT)
        refused = progress.is_refused and not progress.was_listed
        if refused or progress.is_broken(self._stale_seconds):
            return KindStatus(KindState.UNKNOWN, f"{self._kind} cannot be watched: {progress.why}")
        if not progress.was_listed:
            return KindStatus(KindState.PENDING, f"{self._kind}: {progress.why}")
        return KindStatus(KindState.SYNCED)

    # ---------------------------------------------------------------- its thread

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                self._turn()
            except (ReconcileError, urllib3.exceptions.HTTPError, OSError) as error:
                self._broke(str(error))
                if isinstance(error, Forbidden):
                    # Nothing is gained by waiting for it.
                    self._progress.is_refused = True
                    self.known.set()
            except Exception as error:
                # A bug in reading one answer must not end the watch: the next list may be read.
                self._kept.relist()
                self._broke(unexpected(error))
            failures = failures + 1 if time.monotonic() - begun < _SETTLED_SECONDS else 0
            pause = backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE) if failures else 0.0
            self._hurry.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311
            self._hurry.clear()

    def _turn(self) -> None:
        """List, unless it is known from where to go on, and watch until the watch ends."""
        resource = self._client.resource(self._kind.group, self._kind.kind, self._kind.version)
        if resource is None:
            self._is_absent()
            return
        if self._progress.is_broken(self._stale_seconds):
            # What was missed is soonest known by a list.
            self._kept.relist()
        try:
            if not self._kept.version:
                kind = self._kind
                self._replace(self._client.list(resource, kind.namespace, kind.labels, kind.fields))
            self._watch(resource)
        except (Expired, KindUnknown) as error:
            self._kept.relist()
            if isinstance(error, KindUnknown):
                self._client.discovery.forget()
                raise

    def _watch(self, resource: Resource) -> None:
        with self._client.transport.stream(self._request(resource), _SILENCE_SECONDS) as response:
            with self._lock:
                self._response = response
                self._progress.opened_at = time.monotonic()
            try:
                heard = self._kept.version
                for event in () if self._stopping.is_set() else _events(response):
                    self._take(event, resource)
                    if self._stopping.is_set():
                        return
                if heard == self._kept.version and time.monotonic() - self._progress.opened_at < _SETTLED_SECONDS:
                    raise Unreached(f"watch of {self._kind}: it is ended at once; see whether a proxy stands between")
            finally:
                with self._lock:
                    self._response = None
                    if not self._progress.is_broken(0.0):
                        self._progress.broken_since = None
                    self._progress.opened_at = None

    def _request(self, resource: Resource) -> ApiRequest:
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._kept.version,
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311
        }
        selectors = {"labelSelector": self._kind.labels, "fieldSelector": self._kind.fields}
        query |= {key: value for key, value in selectors.items() if value}
        asked = RequestInfo("watch", f"watch of {self._kind}")
        return ApiRequest("GET", resource.path(self._kind.namespace), asked, query)

    def _take(self, event: Mapping[str, Any], resource: Resource) -> None:
        kind, found = event.get("type"), event.get("object")
        if not isinstance(found, dict):
            raise Unreached(f"watch of {self._kind}: an event without an object")
        if kind == "ERROR":
            raise error_of(RequestInfo("watch", f"watch of {self._kind}"), int(found.get("code") or 0), found)
        is_bookmark = kind not in ("ADDED", "MODIFIED", "DELETED")
        version = str(found["metadata"]["resourceVersion"])
        told = None if is_bookmark else trimmed({**found, "apiVersion": resource.api_version, "kind": resource.kind})
        with self._lock:
            has_changed = self._kept.tell(version, told, is_gone=kind == "DELETED")
            self._progress.broken_since = None
        if has_changed:
            self._wake()

    def _replace(self, listing: Listing) -> None:
        with self._lock:
            self._kept.replace(listing.items, listing.resource_version)
            self._progress.broken_since, self._progress.was_listed, self._progress.absent_at = None, True, None
            self._progress.is_refused = False
        self.known.set()
        self._wake()

    def _broke(self, why: str) -> None:
        with self._lock:
            self._progress.why = why
            if self._progress.broken_since is None:
                self._progress.broken_since = time.monotonic()

    def _is_absent(self) -> None:
        with self._lock:
            was_absent = self._progress.absent_at is not None
            self._progress.absent_at, self._progress.was_listed = time.monotonic(), False
            self._progress.broken_since, self._progress.is_refused = time.monotonic(), False
            self._kept.forget()
        self.known.set()
        if not was_absent:
            self._wake()


def _events(response: urllib3.BaseHTTPResponse) -> Iterator[Mapping[str, Any]]:
    """One JSON object a line, until the server ends the watch. Raises Unreached for what is no event."""
    rest = b""
    for piece in response.stream(_PIECE, decode_content=True):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MOST_EVENT_BYTES:
            raise Unreached(f"a watch: an event is larger than {_MOST_EVENT_BYTES >> 20} MiB")
        for line in filter(None, lines):
            yield _event(line)
    if rest.strip():
        yield _event(rest)


def _event(line: bytes) -> Mapping[str, Any]:
    with suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    raise Unreached("a watch: what arrives is no event; see whether a proxy stands between")
