"""The Overview: what needs a person first, all targets, and the services that the address asks for. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from reconciler.page.attention import AttentionItem, attention
from reconciler.page.gpus import GpuUses, gpus_of
from reconciler.page.links import ForgeLinks
from reconciler.page.peers import peers_document
from reconciler.page.service_table import Query, read_query, services_table
from reconciler.page.targets import target_state
from reconciler.report.convergence import is_git_away, object_fault, object_name, other_objects
from reconciler.report.status import Document

SCHEMA = "reconciler.page.overview/v1"
_MOST_ITEMS = 50
_MOST_OBJECTS = 200
_NO_LINKS = ForgeLinks()


def overview_document(
    status: Document,
    asked: Mapping[str, str],
    gpu_use: GpuUses,
    stuck: str = "",
    links: ForgeLinks = _NO_LINKS,
) -> Document:
    """What the Overview shows, from the status document. `asked`: the query of its address. `gpu_use`: by target.

    `links`: to lines of git that are to blame. `stuck`: why what is shown may be old; empty: it is not.
    """
    query, ignored = read_query(asked, status)
    items = attention(status, stuck)
    return {
        "schema": SCHEMA,
        "daemon": status["daemon"],
        "source": _source(status),
        "attention": {"total": len(items), "items": [_item(item, status, links) for item in items[:_MOST_ITEMS]]},
        "targets": [_target(target, gpu_use.get(target["name"], {})) for target in status["targets"]],
        "query": query.document,
        "ignored": ignored,
        "services": services_table(status, query),
        "objects": _objects(status),
        "peers": peers_document(status.get("peers", ()), asked),
    }


def _item(item: AttentionItem, status: Document, links: ForgeLinks) -> Document:
    return {**item.document, "forge": links.line(status["revision"]["desired"], item.file, item.line)}


def _source(status: Document) -> Document:
    """`awaySince`: when git was last read, while it cannot be read now; the daemon's start if it never was."""
    revision = status["revision"]
    return {
        "desired": revision["desired"],
        "applied": revision["applied"],
        "subject": revision["subject"],
        "fetchedAt": revision["fetchedAt"],
        "error": revision["error"],
        "awaySince": (revision["fetchedAt"] or status["daemon"]["startedAt"]) if is_git_away(revision) else None,
        "refused": revision["refused"],
        "fullyApplied": revision["fullyApplied"],
    }


def _target(target: Document, gpu_use: Mapping[str, Document]) -> Document:
    healths = Counter(service["health"]["status"] for service in target["services"])
    return {
        **target_state(target),
        "version": target.get("version", ""),
        "revision": target["revision"],
        "suspension": target["suspension"],
        "suspended": target["suspended"],
        "drained": target["drained"],
        "cordoned": target["cordoned"],
        "notes": target["notes"],
        "services": {
            name: {"count": count, "address": Query(target=target["name"], health=name).address()}
            for name, count in sorted(healths.items())
        },
        "gpus": gpus_of(target, gpu_use),
    }


def _objects(status: Document) -> Document:
    """Objects of clusters that belong to no service, those out of sync first."""
    found = [(target["name"], one) for target in status["targets"] for one in other_objects(target)]
    ordered = sorted(found, key=lambda pair: not object_fault(pair[1]))
    return {"all": len(found), "rows": [_object(name, one) for name, one in ordered[:_MOST_OBJECTS]]}


def _object(target: str, one: Document) -> Document:
    kept = ("group", "kind", "namespace", "name", "origin", "sync", "health", "change")
    return {"target": target, "title": object_name(one), "fault": object_fault(one)} | {key: one[key] for key in kept}
