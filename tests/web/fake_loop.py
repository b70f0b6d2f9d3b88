"""A loop that only answers, for tests of the HTTP side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reconciler.errors import Retryable
from reconciler.model import ByHand
from reconciler.page.links import ForgeLinks
from reconciler.report.status import Document
from reconciler.web.pages.facts import PageFacts
from tests.support.report_world import report, status_of


class NoForge:
    """Facts of a repository that no forge is known of."""

    def links(self) -> ForgeLinks:
        return ForgeLinks()


@dataclass
class FakeLoop:
    """Answers like the loop, and remembers what it was asked."""

    document: Document = field(default_factory=lambda: status_of(report()))
    asked: list[tuple[str, Any]] = field(default_factory=list)
    age: float = 0.5
    facts: Any = field(default_factory=NoForge)
    gpus: dict[str, dict[str, Document]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=lambda: ["one", "two", "HF_TOKEN=hunter2"])

    def status(self) -> Document:
        return self.document

    def history(self, service: str | None, limit: int, **filters: object) -> list[dict[str, str]]:
        self.asked.append(("history", (service, limit, *filters.values())))
        return [{"event": "start"}]

    def logs(self, service: str, lines: int) -> list[str]:
        self.asked.append(("logs", service))
        return self.lines[-lines:]

    def service_details(self, service: str, target: str, lines: int) -> Document:
        self.asked.append(("service_details", (service, target, lines)))
        return {"workload": None, "log": self.lines[-lines:], "logFault": "", "units": {}}

    def request_sync(self, by: str = "") -> int:
        self.asked.append(("sync", by))
        return 2

    def suspend(self, service: str | None, asked: ByHand) -> list[str]:
        self.asked.append(("suspend", (service, asked)))
        return [service or "*"]

    def drain(self, asked: ByHand) -> None:
        self.asked.append(("drain", asked))

    def undrain(self, by: str) -> bool:
        self.asked.append(("undrain", by))
        return True

    def resume(self, service: str | None, by: str) -> list[str]:
        if service is None:
            raise RuntimeError("a bug in the loop")
        raise Retryable("the whole target is suspended")

    def approve(self, hash_: str, target: str | None, asked: ByHand) -> list[str]:
        self.asked.append(("approve", (hash_, target, asked)))
        return [target or "a"]

    def withdraw(self, hash_: str, target: str | None, asked: ByHand) -> list[str]:
        self.asked.append(("withdraw", (hash_, target, asked)))
        return [target or "a"]

    def on_push(self) -> None:
        self.asked.append(("push", None))

    def on_pull_request(self) -> None:
        self.asked.append(("pull request", None))

    def gpu_use(self) -> dict[str, dict[str, Document]]:
        return self.gpus

    def heartbeat(self) -> float:
        return self.age

    def page_facts(self) -> PageFacts:
        found: PageFacts = self.facts
        return found
