"""Other daemons on the Overview: one row each, which leads to its own page, and what they have together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from reconciler.model import HealthStatus
from reconciler.report.status import Document

ROWS = 200
_MOST_TEXT = 100


def _summary(peer: Document) -> Document:
    return peer["summary"] or {}


def _number(peer: Document, *keys: str) -> float:
    """Where it is not known, it stands last."""
    found: Any = _summary(peer)
    for key in keys:
        found = (found or {}).get(key)
    return -1 if found is None else found


# Each with what a person looks for first; equal ones by their names.
_SORTS: Mapping[str, Callable[[Document], Any]] = {
    "attention": lambda peer: (peer["reachable"], -_number(peer, "attention")),
    "name": lambda peer: 0,
    "services": lambda peer: -sum((_summary(peer).get("services") or {}).values()),
    "gpus": lambda peer: -_number(peer, "gpus", "total"),
    "revision": lambda peer: (_summary(peer).get("revision") or {}).get("desired") or "",
}
_DEFAULT = "attention"


def peers_document(peers: Sequence[Document], asked: Mapping[str, str]) -> Document | None:
    """What the Overview shows of `peers` of the status document; None where the config names none.

    `asked` is the query of its address: `peer` is part of a name or an address, `peers` a key to sort by. What else it
    says is ignored. The sums are of all that match, the rows the first of them.
    """
    if not peers:
        return None
    text = asked.get("peer", "").strip()[:_MOST_TEXT]
    sort = asked.get("peers", "")
    sort = sort if sort in _SORTS else _DEFAULT
    found = [peer for peer in peers if text.casefold() in f"{peer['name']}\n{peer['url']}".casefold()]
    found.sort(key=lambda peer: (_SORTS[sort](peer), peer["name"]))
    return {
        "all": len(peers),
        "matching": len(found),
        "away": sum(not peer["reachable"] for peer in found),
        "query": {"peer": text, "peers": sort},
        "sorts": [{"name": name, "address": _address(text, name)} for name in _SORTS],
        "sum": _sum(found),
        "rows": [_row(peer) for peer in found[:ROWS]],
    }


def _address(text: str, sort: str) -> str:
    given = {"peer": text, "peers": "" if sort == _DEFAULT else sort}
    query = urlencode({name: value for name, value in given.items() if value})
    return f"/?{query}#peers" if query else "/#peers"


def _row(peer: Document) -> Document:
    revision = (_summary(peer).get("revision") or {}).get("desired")
    base = peer["url"].rstrip("/")
    return peer | {"address": f"{base}/", "revisionAddress": f"{base}/changes/{revision}" if revision else None}


def _sum(peers: Iterable[Document]) -> Document:
    """Of those that are away, what they said last."""
    known = [_summary(peer) for peer in peers if peer["summary"]]
    services: Counter[str] = Counter()
    for one in known:
        services.update(one["services"] or {})
    return {
        "services": {name.value: services[name.value] for name in HealthStatus if services[name.value]},
        "gpus": {state: sum(one["gpus"][state] or 0 for one in known) for state in ("leased", "total")},
        "attention": sum(one["attention"] or 0 for one in known),
    }
