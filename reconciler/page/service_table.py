"""The Overview's table of services: what the address asks for, which rows that gives, what stands in one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from reconciler.model import HealthStatus, Sync
from reconciler.page.attention import needs_document, service_fault
from reconciler.report.addresses import service_address
from reconciler.report.convergence import full_name, services
from reconciler.report.stages import StageState
from reconciler.report.status import Document

ROWS = 100
"""Services on one page."""
_MOST_TEXT = 100
# Best first: descending, the worst stands first.
_HEALTHS = (
    HealthStatus.HEALTHY,
    HealthStatus.SUSPENDED,
    HealthStatus.PROGRESSING,
    HealthStatus.UNKNOWN,
    HealthStatus.MISSING,
    HealthStatus.DEGRADED,
)
_UNFINISHED = (StageState.ACTIVE, StageState.WAITING, StageState.FAILED)
_SYNCS = (Sync.SYNCED, Sync.UNKNOWN, Sync.OUT_OF_SYNC)

Found = tuple[Document, Document]
"""A target and one of its services."""


def _ready(service: Document) -> float:
    """How much of what is desired is ready."""
    ready, _, desired = service["ready"].partition("/")
    return int(ready) / int(desired) if int(desired) else 1.0


_SORTS: Mapping[str, Callable[[Found], Any]] = {
    "name": lambda found: full_name(found[1]),
    "target": lambda found: found[0]["name"],
    "sync": lambda found: _SYNCS.index(found[1]["sync"]),
    "health": lambda found: _HEALTHS.index(found[1]["health"]["status"]),
    "ready": lambda found: _ready(found[1]),
    "requests": lambda found: in_flight(found[1]) or 0,
    "gpus": lambda found: found[1]["gpus"],
}


@dataclass(frozen=True, slots=True)
class Query:
    """What the address asks for. Empty texts ask for all; `sort` is a key of the table, after `-` descending."""

    target: str = ""
    health: str = ""
    sync: str = ""
    q: str = ""
    sort: str = "name"
    page: int = 1

    def address(self, **changed: Any) -> str:
        """The Overview's address with these values instead; another filter begins at the first page."""
        asked = replace(self, **({"page": 1} | changed))
        given = {name: getattr(asked, name) for name in self.__slots__ if getattr(asked, name) != getattr(_ALL, name)}
        return f"/?{urlencode(given)}#services" if given else "/#services"

    def sorted_by(self, key: str) -> str:
        """The address that sorts by a column; if it does already, the other way round."""
        return self.address(sort=f"-{key}" if self.sort == key else key)

    @property
    def document(self) -> Document:
        return {name: getattr(self, name) for name in self.__slots__}


_ALL = Query()


def read_query(asked: Mapping[str, str], status: Document) -> tuple[Query, list[str]]:
    """What is asked for, and of what means nothing here, one line each: it is ignored."""
    known = {
        "target": [target["name"] for target in status["targets"]],
        "health": list(HealthStatus),
        "sync": list(Sync),
        "sort": [*_SORTS, *(f"-{key}" for key in _SORTS)],
    }
    given = {name: text for name in known if (text := asked.get(name, ""))}
    ignored = [f"{name}: there is no “{_shown(text)}”" for name, text in given.items() if text not in known[name]]
    accepted = {name: text for name, text in given.items() if text in known[name]}
    text = asked.get("q", "").strip()
    if len(text) > _MOST_TEXT:
        ignored.append(f"q: longer than {_MOST_TEXT} characters")
        text = ""
    page, is_number = _page(asked.get("page", ""))
    if not is_number:
        ignored.append(f"page: “{_shown(asked['page'])}” is no page")
    return Query(**accepted, q=text, page=page), ignored


def _page(text: str) -> tuple[int, bool]:
    if not text:
        return 1, True
    is_number = text.isascii() and text.isdigit() and len(text) <= 6 and int(text) > 0
    return (int(text), True) if is_number else (1, False)


def _shown(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def services_table(status: Document, query: Query) -> Document:
    """One page of the services that are asked for; `health` counts them as if none were asked for by its health."""
    matching = [found for found in services(status) if _matches(found, replace(query, health=""))]
    counts = Counter(service["health"]["status"] for _, service in matching)
    chosen = [found for found in matching if not query.health or found[1]["health"]["status"] == query.health]
    pages = max(1, -(-len(chosen) // ROWS))
    page = min(query.page, pages)
    rows = _sorted(chosen, query.sort)[(page - 1) * ROWS : page * ROWS]
    return {
        "all": sum(len(target["services"]) for target in status["targets"]),
        "matching": len(chosen),
        "health": {one.value: counts[one] for one in reversed(_HEALTHS)},
        "page": page,
        "pages": pages,
        "addresses": _addresses(query, page, pages),
        "rows": [_row(target, service) for target, service in rows],
    }


def _addresses(query: Query, page: int, pages: int) -> Document:
    """Of the same table: of one health, sorted otherwise, and of the pages around this one."""
    return {
        "all": query.address(health=""),
        "health": {one.value: query.address(health=one.value) for one in _HEALTHS},
        "sort": {key: query.sorted_by(key) for key in _SORTS},
        "previous": query.address(page=page - 1) if page > 1 else None,
        "next": query.address(page=page + 1) if page < pages else None,
    }


def _matches(found: Found, query: Query) -> bool:
    target, service = found
    return (
        query.target in ("", target["name"])
        and query.health in ("", service["health"]["status"])
        and query.sync in ("", service["sync"])
        and (not query.q or query.q.casefold() in _searched(service))
    )


def _searched(service: Document) -> str:
    return f"{full_name(service)}\n{service['displayName']}".casefold()


def _sorted(chosen: list[Found], sort: str) -> list[Found]:
    """Equal ones by their names."""
    by_name = sorted(chosen, key=lambda found: (full_name(found[1]), found[0]["name"]))
    return sorted(by_name, key=_SORTS[sort.removeprefix("-")], reverse=sort.startswith("-"))


def _row(target: Document, service: Document) -> Document:
    return {
        "target": target["name"],
        "namespace": service["namespace"],
        "name": service["name"],
        "displayName": service["displayName"],
        "address": service_address(target["name"], service["namespace"], service["name"]),
        "inGit": service["inGit"],
        "origin": service["origin"],
        "sync": service["sync"],
        "health": service["health"],
        "suspended": service["suspended"],
        "step": service["step"],
        "stage": current_stage(service),
        "ready": service["ready"],
        "inFlight": in_flight(service),
        "liveRevision": service["liveRevision"],
        "gpus": service["gpus"],
        "needs": needs_document(service_fault(service, target)),
    }


def in_flight(service: Document) -> int | None:
    """Requests that run now; None where that is not known of any replica."""
    known = [one["inFlight"] for one in service["replicas"] if one["inFlight"] is not None]
    return sum(known) if known else None


def current_stage(service: Document) -> Document | None:
    """The stage at which its rollout is, is held up, or failed; None where nothing is to come."""
    return next((one for one in service["stages"] if one["state"] in _UNFINISHED), None)
