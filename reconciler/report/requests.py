"""Requests drained, lost and refused, by service: kept in a file, over restarts of the daemon and the proxy.

Losing the file loses these numbers and nothing else. It is written only when a number changed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import structlog

from reconciler.model import Desired, ServiceId
from reconciler.system.files import write_atomically

log = structlog.get_logger()


class Fate(StrEnum):
    """The outcome of a request."""

    DRAINED = "drained"  # it was running when its replica began to drain, and ran to its end
    LOST = "lost"  # it was cut
    REFUSED = "refused"  # it was answered with 503


Counts = Mapping[str, int]
# For so long after a cut the proxy may still report it.
_CUT_SECONDS = 30.0
NONE: Counts = {fate.value: 0 for fate in Fate}


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """One service's, in total and since the current rollout."""

    total: Counts = field(default_factory=lambda: NONE)
    rollout: Counts = field(default_factory=lambda: NONE)
    digest: str = ""
    revision: str = ""


class RequestTally:
    """Counts for one target. Called from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._proxy = ""
        self._seen: Counts = {}
        self._closed, self._seen_closed = 0, 0
        self._known: dict[str, RequestCounts] = {}
        self._cut: dict[str, tuple[int, float]] = {}
        self._read()

    def counts(self) -> Mapping[ServiceId, RequestCounts]:
        with self._lock:
            return {_service(name): known for name, known in self._known.items()}

    def closed_paths(self) -> int:
        """The number of requests for a closed path."""
        with self._lock:
            return self._closed

    def add(self, service: ServiceId, fate: Fate, number: int) -> None:
        with self._lock:
            if number > 0:
                self._add(str(service), fate, number)
                if fate is Fate.LOST:
                    self._cut[str(service)] = (number, time.monotonic())
                self._write()

    def take_refused(self, proxy: str, seen: Counts, closed: int = 0) -> None:
        """What one process of the proxy counted since its start, by service, and for paths that are not open.

        Another process begins at 0.
        """
        with self._lock:
            before, closed_before = (self._seen, self._seen_closed) if proxy == self._proxy else ({}, 0)
            grown = {name: number - before.get(name, 0) for name, number in seen.items()}
            for name, number in grown.items():
                refused = number - self._take_cut(name, number)
                if refused > 0:
                    self._add(name, Fate.REFUSED, refused)
            if proxy != self._proxy or any(grown.values()) or closed != closed_before:
                self._closed += max(0, closed - closed_before)
                self._proxy, self._seen, self._seen_closed = proxy, dict(seen), closed
                self._write()

    def follow(self, services: Iterable[Desired], revision: str) -> None:
        """Reset the counts where git asks for something else; drop services that are not in git."""
        with self._lock:
            known = {}
            for one in services:
                found = self._known.get(str(one.id), RequestCounts())
                if found.digest != one.digest:
                    found = replace(found, rollout=NONE, digest=one.digest, revision=revision)
                known[str(one.id)] = found
            if known != self._known:
                self._known = known
                self._write()

    def _take_cut(self, name: str, number: int) -> int:
        """How many of these were cut before their first byte: the proxy answers 503 for them, but they are lost."""
        cut, at = self._cut.pop(name, (0, 0.0))
        if time.monotonic() - at > _CUT_SECONDS:
            return 0
        taken = max(0, min(cut, number))
        if cut > taken:
            self._cut[name] = (cut - taken, at)
        return taken

    def _add(self, name: str, fate: Fate, number: int) -> None:
        found = self._known.get(name, RequestCounts())
        total, rollout = (
            {**counts, fate.value: counts[fate.value] + number} for counts in (found.total, found.rollout)
        )
        self._known[name] = replace(found, total=total, rollout=rollout)

    # ------------------------------------------------------------ the file

    def _read(self) -> None:
        try:
            data = json.loads(self._path.read_bytes())
            self._proxy, self._seen = str(data["proxy"]), {str(k): int(v) for k, v in data["seen"].items()}
            closed = data.get("closed", {"all": 0, "seen": 0})
            self._closed, self._seen_closed = int(closed["all"]), int(closed["seen"])
            self._known = {name: _requests(one) for name, one in data["services"].items() if name.count("/") == 1}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("request_counts_reset", reason=f"{self._path}: {error}")

    def _write(self) -> None:
        services = {name: asdict(one) for name, one in sorted(self._known.items())}
        closed = {"all": self._closed, "seen": self._seen_closed}
        known = {"proxy": self._proxy, "seen": self._seen, "closed": closed, "services": services}
        text = json.dumps(known, indent=1)
        try:
            write_atomically(self._path, text.encode())
        except OSError as error:
            # A full disk costs what was counted since, and only if we end before it has room.
            log.warning("request_counts_not_written", reason=f"{self._path}: {error.strerror}")


def _requests(data: Mapping[str, object]) -> RequestCounts:
    return RequestCounts(_counts(data["total"]), _counts(data["rollout"]), str(data["digest"]), str(data["revision"]))


def _counts(data: object) -> Counts:
    if not isinstance(data, dict):
        raise TypeError("not counts")
    return {fate.value: int(data.get(fate.value, 0)) for fate in Fate}


def _service(name: str) -> ServiceId:
    return ServiceId(*name.split("/"))
