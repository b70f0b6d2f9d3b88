"""Leader election: of several daemons with one Lease, one acts.

A Lease (coordination.k8s.io/v1) names its holder, who renews it. Another takes it over when it has not seen it change
for as long as it is good for, by its own clock: clocks of two machines are never compared. A leader that cannot renew
it stops acting before then, by its own clock, counted from when it *sent* its last renewal.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.errors import AlreadyExists, WriteConflict
from reconciler.errors import ReconcileError
from reconciler.fault_isolation import unexpected
from reconciler.model.objects import KubeObject, ObjectId

GROUP, VERSION, KIND = "coordination.k8s.io", "v1", "Lease"


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """`good_for` seconds after its last renewal others may take it; its leader stops acting `act_within` seconds after
    that, and renews it every `renew_every`. A failover takes at most `good_for + 2 * renew_every`. `identity` tells
    people who leads: a pod's name."""

    namespace: str
    name: str
    identity: str
    good_for: int = 10
    act_within: float = 6.0
    renew_every: float = 2.0


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads, as we know it: `holder` is "" when nobody does or nobody could be asked (`why`)."""

    is_ours: bool
    holder: str
    why: str = ""


class Election:
    """Takes part in the election, in a thread of its own, until it is closed."""

    def __init__(
        self,
        connection: ClusterConnection,
        settings: LeaseSettings,
        changed: Callable[[], None],
        follow: Callable[[str], frozenset[str]] = lambda _: frozenset(),
    ) -> None:
        """`changed` is called from the thread whenever we become leader or cease to be; it must not block.
        `follow` is told our identity, and gives those of processes that are known to have ended."""
        # Renewals wait for no other requests, and are given up while there is still time for another.
        self._client = Client(replace(connection, qps=0.0, timeout=settings.renew_every * 1.5))
        self._settings = settings
        self._changed = changed
        # A process that was started again under the same name is another one.
        self._identity = f"{settings.identity}_{uuid.uuid4().hex[:8]}"
        self._dead = follow(self._identity)
        self._id = ObjectId(GROUP, KIND, settings.namespace, settings.name)
        # What was last seen of it, and since when it is like that, by our monotonic clock.
        self._seen: KubeObject | None = None
        self._seen_since = 0.0
        # Until when we may act, by the same clock.
        self._ours_until = 0.0
        self._why = "the lease has not been asked for yet"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease {settings.name}", daemon=True)
        self._thread.start()

    def leadership(self) -> Leadership:
        """Asked before each action: a leader that could not renew in time is none, without any thread having run."""
        if _now() < self._ours_until:
            return Leadership(True, self._identity)
        holder = _holder(self._seen)
        return Leadership(False, "" if holder == self._identity else holder, self._why)

    def close(self, seconds: float = 5.0) -> None:
        """Take no more part, and give the lease back: cease to act before, as another may begin at once."""
        self._stopping.set()
        self._thread.join(seconds)
        self._client.close()

    def _run(self) -> None:
        was_ours = False
        while not self._stopping.is_set():
            self._turn()
            is_ours = self.leadership().is_ours
            if is_ours is not was_ours:
                was_ours = is_ours
                self._changed()
            self._stopping.wait(self._pause(is_ours))
        self._release()

    def _pause(self, is_ours: bool) -> float:
        pause = self._settings.renew_every * random.uniform(0.8, 1.0)  # noqa: S311
        # A leader that cannot renew says so when its time is over, not a turn later.
        return min(pause, max(0.01, self._ours_until - _now())) if is_ours else pause

    def _turn(self) -> None:
        try:
            self._take()
        except ReconcileError as error:
            self._why = str(error)
        except Exception as error:
            self._why = unexpected(error)

    def _take(self) -> None:
        """Renew the lease or take it, where that is ours to do."""
        if _holder(self._seen) != self._identity:
            self._observe(self._client.get(self._id, VERSION))
            if not self._may_take():
                return
        sent_at = _now()
        try:
            if self._seen is None:
                written = self._client.create(self._body(None))
            else:
                written = self._client.update(self._body(self._seen))
        except (WriteConflict, AlreadyExists):
            # Another was faster, or the answer to our last renewal was lost.
            self._observe(self._client.get(self._id, VERSION))
            return
        self._observe(written)
        self._ours_until = sent_at + self._settings.act_within

    def _observe(self, found: KubeObject | None) -> None:
        if _version(found) != _version(self._seen) or found is None:
            # Not before the answer is here: its holder may have renewed it until the server read it.
            self._seen, self._seen_since = found, _now()
        holder = _holder(found)
        if holder != self._identity:
            self._ours_until = 0.0
        self._why = f"{holder} leads" if holder else "nobody leads"

    def _may_take(self) -> bool:
        holder = _holder(self._seen)
        if self._seen is None or holder in {"", self._identity, *self._dead}:
            return True
        # As long as its holder said that it is good for, and no less than what we know that a leader needs.
        good_for = max(_good_for(self._seen), self._settings.good_for)
        return _now() - self._seen_since > good_for

    def _body(self, seen: KubeObject | None) -> KubeObject:
        spec = dict((seen or {}).get("spec") or {})
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if spec.get("holderIdentity") != self._identity:
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + bool(seen)}
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._settings.good_for,
            "renewTime": now,
        }
        metadata = (seen or {}).get("metadata") or {"namespace": self._id.namespace, "name": self._id.name}
        return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": metadata, "spec": spec}

    def _release(self) -> None:
        """Only while it is ours, and as we saw it: WriteConflict means that it is another's."""
        if not self.leadership().is_ours or self._seen is None:
            return
        self._ours_until = 0.0
        spec = {**self._seen["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            self._client.update({**self._seen, "spec": spec})
        except ReconcileError as error:
            self._why = str(error)
        self._changed()


def _now() -> float:
    """Seconds that also pass while this machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _version(lease: KubeObject | None) -> str:
    return str(lease["metadata"]["resourceVersion"]) if lease else ""


def _holder(lease: KubeObject | None) -> str:
    spec: Mapping[str, Any] = (lease or {}).get("spec") or {}
    return str(spec.get("holderIdentity") or "")


def _good_for(lease: KubeObject) -> int:
    return int((lease.get("spec") or {}).get("leaseDurationSeconds") or 0)
