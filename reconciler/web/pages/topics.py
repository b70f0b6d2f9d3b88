"""What pages show of the status document, as digests by the page's address: one that differs calls for a new page.

Pure. Said by every pass, but no reason to look again, are when it was and how many there were.
"""

from __future__ import annotations

import json

from reconciler.report.addresses import service_address
from reconciler.report.status import Document

OVERVIEW = "/"
GPUS = "/gpus"
CHANGES = "/changes"
REPOSITORY = "/repository"

_OF_EVERY_PASS = ("observedAt",)
# What moves while requests come and go, and is on a service's own page.
_OF_ITS_PAGE = ("replicas", "requests", "staging", "gpus", "ready", "stages")


def topic_of(path: str) -> str:
    """Of a page's address, as browsers write it."""
    return CHANGES if path.startswith(f"{CHANGES}/") else path


def digests(status: Document) -> dict[str, int]:
    """By topic. Equal as long as nothing is to be seen on the pages with this topic, within one process."""
    around = _digest(_without(status, ("targets", "revision", "daemon", "peers")))
    peers = _digest([_without(one, _OF_EVERY_PASS) for one in status.get("peers", ())])
    daemon = _digest(_without(status["daemon"], ("passes",)))
    revision = _digest(_without(status["revision"], ("fetchedAt",)))
    found: dict[str, int] = {}
    git, gpus, services = [around, daemon, revision], [], []
    for target in status["targets"]:
        whole = _digest(_without(target, ("services", *_OF_EVERY_PASS)))
        git.append(whole)
        gpus += [whole, _digest([_leases(one) for one in target["services"]])]
        for service in target["services"]:
            own = _digest(service)
            found[service_address(target["name"], service["namespace"], service["name"])] = hash((whole, revision, own))
            services.append(own)
            git.append(_digest(_without(service, _OF_ITS_PAGE)))
    found[CHANGES] = found[REPOSITORY] = hash(tuple(git))
    found[GPUS] = hash((daemon, *gpus))
    found[OVERVIEW] = hash((*git, *services, peers))
    return found


def _leases(service: Document) -> list[object]:
    held = [(one["id"], one.get("gpus"), one["phase"]) for one in service["replicas"]]
    return [service["namespace"], service["name"], service["gpus"], held]


def _without(document: Document, keys: tuple[str, ...]) -> Document:
    return {key: value for key, value in document.items() if key not in keys}


def _digest(part: object) -> int:
    return hash(json.dumps(part, ensure_ascii=False, separators=(",", ":")))
