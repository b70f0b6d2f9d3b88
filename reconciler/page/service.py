"""One service on one target: how it stands, its rollout, its replicas, how it is reached, and what git would have to
change. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.model import ReasonCode
from reconciler.page.attention import Severity, needs_document, service_fault
from reconciler.page.endpoints import endpoints_document
from reconciler.page.links import ForgeLinks
from reconciler.report.addresses import service_address
from reconciler.report.convergence import full_name, services, split_place
from reconciler.report.redact import scrub_text
from reconciler.report.status import Document

SCHEMA = "reconciler.page.service/v1"
MOST_EVENTS = 50
LINES, MOST_LINES = 200, 2_000
# What stands in git about a service, and what it is called.
_OF_TARGET = ("name", "kind", "reachable", "reason", "passError", "observedAt", "listen", "suspended")
_FINDINGS = {"problems": "Not usable", "blocked": ReasonCode.BLOCKED.value, "warnings": "Warning"}


@dataclass(frozen=True, slots=True)
class ServicePageFacts:
    """`target` and `service` are of the status. `details` are what the daemon tells beside it, `history` its events on
    all targets, oldest first; `host` is what this machine is called, and `lines` how many lines of the log are asked
    for."""

    target: Document
    service: Document
    details: Document
    history: list[dict[str, str]]
    host: str
    lines: int


def service_document(facts: ServicePageFacts, links: ForgeLinks) -> Document:
    """What the page of a service shows."""
    target, service, details = facts.target, facts.service, facts.details
    revision = target["revision"]["desired"]
    events = [one for one in facts.history if one["target"] == target["name"]]
    return {
        "schema": SCHEMA,
        "target": {key: target[key] for key in _OF_TARGET},
        "revision": revision,
        "service": service,
        "origin": _origin(service["origin"], revision, links),
        "needs": _needs(target, service),
        "findings": list(_findings(service, revision, links)),
        "replicas": [one | {"unit": details["units"].get(one["id"], "")} for one in service["replicas"]],
        "conditions": list(_conditions(service["conditions"])),
        "modelStatus": _model_status(service["modelStatus"]),
        "endpoints": endpoints_document(target, service, details["workload"], facts.host),
        "workload": _workload(details["workload"], revision, links),
        "history": events[-MOST_EVENTS:],
        "log": {
            "lines": details["log"],
            "fault": details["logFault"],
            "more": min(10 * facts.lines, MOST_LINES) if facts.lines <= len(details["log"]) < MOST_LINES else None,
        },
    }


def log_lines(asked: str | None) -> int:
    """Of `?lines=`; what is no number asks for the usual."""
    if asked is None or not (asked.isascii() and asked.isdigit()):
        return LINES
    return min(max(1, int(asked[:9])), MOST_LINES)


def find_service(status: Document, target: str, namespace: str, name: str) -> tuple[Document, Document] | None:
    """The target and its service, as the status has them."""
    for place, service in services(status):
        if (place["name"], service["namespace"], service["name"]) == (target, namespace, name):
            return place, service
    return None


def why_unknown(status: Document, target: str, namespace: str, name: str) -> str:
    """What there is no page for, and where to look instead."""
    wanted = f"{namespace}/{name}"
    known = [(full_name(service), place["name"]) for place, service in services(status)]
    elsewhere = [place for service, place in known if service == wanted]
    if elsewhere:
        there = ", ".join(service_address(place, namespace, name) for place in elsewhere[:5])
        return f"{wanted} is not on {target}; it is at {there}"
    near = difflib.get_close_matches(wanted[:200], {service for service, _ in known}, 1, 0.6)
    hint = f"Did you mean {near[0]}?" if near else "The Overview lists all services."
    if not status["daemon"]["passes"]:
        hint = "No pass has been completed since the daemon started; look again in a moment."
    if not all(place["unreadable"] == [] for place in status["targets"] if place["name"] == target):
        hint = f"Not all of git can be read for {target}, so it may be in what cannot: see /repository. {hint}"
    return f"No service {wanted} is in git or runs on {target}. {hint}"


def _needs(target: Document, service: Document) -> Document | None:
    """What a person has to do about it; what is held by hand is told anyway."""
    found = service_fault(service, target)
    return None if found and found[0] is Severity.INFO else needs_document(found)


def _origin(text: str, revision: str, links: ForgeLinks) -> Document | None:
    file, line = split_place(text)
    return _place(file, line, revision, links) if file else None


def _place(file: str | None, line: int | None, revision: str, links: ForgeLinks) -> Document:
    return {"file": file, "line": line, "address": links.line(revision, file, line)}


def _findings(service: Document, revision: str, links: ForgeLinks) -> Iterator[Document]:
    """All that a person may have to change, the gravest first."""
    if rejected := service["rejected"]:
        place = _place(rejected["file"], rejected["line"], rejected["revision"] or revision, links)
        yield {"kind": ReasonCode.REJECTED.value, "code": rejected["code"], "message": rejected["reason"], **place}
    for key, kind in _FINDINGS.items():
        for one in service[key]:
            yield _finding(kind, one, revision, links)
    if service["kept"]:
        yield _finding("Kept", service["kept"], revision, links)


def _finding(kind: str, reason: Mapping[str, Any], revision: str, links: ForgeLinks) -> Document:
    place = _place(reason["file"], reason["line"], revision, links)
    return {"kind": kind, "code": reason["code"], "message": reason["message"], **place}


def _conditions(found: Iterable[Mapping[str, Any]]) -> Iterator[Document]:
    """As KServe writes them, or would; a time that is none is not known."""
    for one in found:
        known = {key: scrub_text(str(one.get(key) or "")) for key in ("type", "status", "reason", "message")}
        yield known | {"since": _time(one.get("lastTransitionTime"))}


def _time(text: object) -> str | None:
    try:
        return str(text) if datetime.fromisoformat(str(text)).tzinfo else None
    except ValueError:
        return None


def _model_status(found: Mapping[str, Any]) -> Document:
    """The few words of it that people ask for; empty: KServe says nothing."""
    states, failure = found.get("states") or {}, found.get("lastFailureInfo") or {}
    told = {
        "Transition": found.get("transitionStatus"),
        "Active model": states.get("activeModelState"),
        "Target model": states.get("targetModelState"),
        "Last failure": ": ".join(str(failure[key]) for key in ("reason", "message") if failure.get(key)),
    }
    return {name: scrub_text(str(text)) for name, text in told.items() if text}


def _workload(workload: Document | None, revision: str, links: ForgeLinks) -> Document | None:
    if workload is None:
        return None
    placed = [one | _place(one["file"], one["line"], revision, links) for one in workload["arguments"]]
    return workload | {"arguments": placed}
