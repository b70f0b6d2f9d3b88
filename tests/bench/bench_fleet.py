"""1,000 hosts on one repository of GitHub, which all share one token, for hours after a push. Prints JSON.

The hosts' own code says what is told, keeps it and delivers it: poll pauses, commit statuses, outbox, delivery; only
the clock, the network and GitHub are simulated. GitHub's limits are those that it publishes.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import structlog

from reconciler.config.forge import ForgeSettings
from reconciler.errors import Terminal
from reconciler.forge import delivery
from reconciler.forge.delivery import Carrier, to_forge_of_fleet
from reconciler.forge.fleet import SPREAD
from reconciler.forge.http import ForgeBusy
from reconciler.forge.messages import CommitStatus, Message
from reconciler.forge.outbox import FORGE
from reconciler.loop import following, pull_requests
from reconciler.loop.answering import Answering
from reconciler.model import ServiceId
from reconciler.report.status import Document
from tests.source.https_server import make_certificate
from tests.support import report_world as world

HOSTS, HOURS = 1_000, 4
INTERVAL = 60.0
_DAY = 86_400.0
_OLD = "1" * 40
_SERVICES = [ServiceId("demo", f"model-{number}") for number in range(3)]
Mode = Literal["target", "service", "aggregate"]


class Clock:
    """Stands for the module `time` in what is simulated."""

    now = 0.0

    def time(self) -> float:
        return 1_000_000.0 + self.now

    monotonic = time


@dataclass
class GitHub:
    """What it accepts from one token, and what it says to the rest."""

    clock: Clock
    per_minute: int = 80
    per_hour: int = 500
    requests_per_hour: int = 5_000
    per_context: int = 1_000
    created: deque[float] = field(default_factory=deque)
    requests: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    standing: dict[tuple[str, str], CommitStatus] = field(default_factory=dict)
    unchanged: int = 0
    """Conditional requests that were answered by 304, which do not count."""
    _hour: tuple[float, int] = (-3600.0, 0)

    def take(self, message: Message) -> None:
        """Raises what the client raises of GitHub's answer."""
        assert isinstance(message, CommitStatus)
        self.ask()
        now = self.clock.now
        while self.created and now - self.created[0] >= 3600:
            self.created.popleft()
        if len(self.created) >= self.per_hour:
            self._refuse("creations_per_hour", 60.0)
        if len(self.created) >= self.per_minute and now - self.created[-self.per_minute] < 60:
            self._refuse("creations_per_minute", 60.0)
        key = (message.revision, message.context)
        if self.statuses[key] >= self.per_context:
            self.refused["statuses_per_context"] += 1
            raise Terminal("this SHA and context has reached the maximum number of statuses")
        self.created.append(now)
        self.statuses[key] += 1
        self.standing[key] = message

    def ask(self) -> None:
        """A request that creates nothing and is answered anew; raises as `take`."""
        now = self.clock.now
        self.requests.append(now)
        began, count = self._hour if now - self._hour[0] < 3600 else (now, 0)
        self._hour = (began, count + 1)
        if count >= self.requests_per_hour:
            self._refuse("requests_per_hour", began + 3600 - now)

    def _refuse(self, why: str, pause: float) -> None:
        self.refused[why] += 1
        raise ForgeBusy(why, pause)


def documents() -> dict[str, Document]:
    """What a host's status says of a push: not looked at yet, all well, one of three services rejected."""
    desired = world.state(*(world.desired(each) for each in _SERVICES))
    seen = world.observed(*(world.replica(each) for each in _SERVICES))
    verdicts = [world.verdict(each) for each in _SERVICES]
    rejected = world.verdict(_SERVICES[0], sync=world.Sync.OUT_OF_SYNC, rejected=world.rejection(_SERVICES[0]))

    def status(*found: Any) -> Document:
        return world.status_of(world.report(desired=desired, observed=seen, plan=world.planned(*found)))

    well, failed = status(*verdicts), status(rejected, *verdicts[1:])
    (target,) = well["targets"]
    waiting = target | {"revision": target["revision"] | {"desired": _OLD, "applied": _OLD}}
    return {"seen": well | {"targets": [waiting]}, "well": well, "failed": failed}


class Login:
    """GitHub as one host knows it, that asks only for what has changed."""

    def __init__(self, forge: GitHub) -> None:
        self.name = "GitHub"
        self._forge, self._known = forge, dict[str, CommitStatus | None]()

    def set_status(self, status: CommitStatus) -> None:
        self._forge.take(status)

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        now = self._forge.standing.get((revision, context))
        if revision in self._known and self._known[revision] == now:
            self._forge.unchanged += 1
            return now
        self._forge.ask()
        self._known[revision] = now
        return now


class Host:
    """One daemon with one target."""

    def __init__(self, name: str, folder: Path, forge: GitHub, mode: Mode, ca_file: Path) -> None:
        token = folder / "token"
        known = ForgeSettings(kind="github", url="https://127.0.0.1:1", repository="team/models", ca_file=ca_file)
        known = known.model_copy(update={"token_file": str(token), "statuses": mode})
        (folder / name).mkdir()
        self.name, self.document = name, Document()
        self.answering = Answering(world.settings(folder / name, forge=known), lambda: self.document)
        self.outbox = self.answering.outbox
        send = to_forge_of_fleet(Login(forge), known.group, lambda _: False) if mode == "aggregate" else forge.take  # type: ignore[arg-type]
        self.carrier = Carrier(FORGE, self.outbox, send, _DAY)

    def look(self, document: Document, now: float) -> int:
        (target,) = document["targets"]
        self.document = document | {"targets": [target | {"name": self.name}]}
        return self.answering.turn(now)


class Fleet:
    """The simulation: what each host does when."""

    def __init__(self, folder: Path, hosts: int, mode: Mode) -> None:
        self.clock = Clock()
        delivery.time = self.clock  # type: ignore[assignment]
        self.forge = GitHub(self.clock)
        ca_file, _ = make_certificate(folder)
        self.hosts = [Host(f"gpu-{number}", folder, self.forge, mode, ca_file) for number in range(hosts)]
        self.delivered_at = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._number), do))

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.clock.now, _, do = heapq.heappop(self._heap)
            do()

    def push(self, end: str) -> None:
        """Every host notices it at its next poll, and is done after the start of a model."""
        known = documents()
        for host in self.hosts:
            noticed = random.uniform(0, INTERVAL)
            done = noticed + random.lognormvariate(5.3, 0.5)
            self.at(noticed, lambda host=host: self._look(host, known["seen"]))
            self.at(done, lambda host=host: self._look(host, known[end]))

    def _look(self, host: Host, document: Document, *, again: bool = True) -> None:
        if again:
            # A daemon looks at least every half minute; here once more is enough.
            self.at(self.clock.now + SPREAD, lambda: self._look(host, document, again=False))
        if host.look(document, self.clock.time()):
            self._turn(host)

    def _turn(self, host: Host) -> None:
        pause = host.carrier.turn(self.clock.time())
        if host.outbox.next_at(FORGE) is not None:
            self.at(self.clock.now + pause, lambda: self._turn(host))
        else:
            self.delivered_at = self.clock.now

    def close(self) -> None:
        for host in self.hosts:
            host.outbox.close()


def polls(hosts: int, seconds: float) -> list[float]:
    """When hosts that were started together ask git."""
    found = []
    for _ in range(hosts):
        when = 0.0
        while when < seconds:
            found.append(when)
            when += following._pause(INTERVAL, 0, is_first=when == 0.0)
    return found


def peak(times: list[float], seconds: float = 60.0) -> int:
    """The most in any such span."""
    window: deque[float] = deque()
    most = 0
    for one in sorted(times):
        window.append(one)
        while one - window[0] >= seconds:
            window.popleft()
        most = max(most, len(window))
    return most


def one_push(mode: Mode, end: str, hosts: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        fleet = Fleet(Path(folder), hosts, mode)
        fleet.push(end)
        fleet.run(HOURS * 3600)
        waiting = sum(each.count for host in fleet.hosts for each in host.outbox.waiting())
        fleet.close()
        forge = fleet.forge
        return {
            "accepted": sum(forge.statuses.values()),
            "requests": len(forge.requests),
            "not_modified": forge.unchanged,
            "peak_requests_per_minute": peak(forge.requests),
            "peak_requests_per_hour": peak(forge.requests, 3600.0),
            "refused": dict(forge.refused),
            "waiting_at_the_end": waiting,
            "minutes_to_the_last": round(fleet.delivered_at / 60, 1),
        }


def quiet_hour(hosts: int) -> dict[str, object]:
    """Nothing is posted; only git is asked and, where they are planned, pull requests by conditional requests."""
    found = polls(hosts, 3600)
    return {
        "ls_remote_per_minute": round(len(found) / 60),
        "ls_remote_peak_per_second": peak([when for when in found if when > 0], 1.0),
        "pull_request_looks_per_minute": {
            "target": round(hosts * 60 / INTERVAL),
            "aggregate": round(hosts * 60 / max(INTERVAL, pull_requests._SELDOM)),
        },
    }


def main(hosts: int = HOSTS) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    random.seed(14)
    modes: tuple[Mode, ...] = ("target", "service", "aggregate")
    pushes = {f"{mode}, {end}": one_push(mode, end, hosts) for mode in modes for end in ("well", "failed")}
    print(json.dumps({"hosts": hosts, "hours": HOURS, "quiet": quiet_hour(hosts), "push": pushes}, indent=1))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
