"""What needs a person, worst first. Pure, and judged as `report/convergence.py` does.

What a later pass changes by itself is not in it, and neither is what somebody meant to be so, but for what is held by
hand: that ends only when somebody ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlencode

from reconciler.model import HealthStatus, ReasonCode
from reconciler.report.actions import short
from reconciler.report.addresses import change_address, service_address
from reconciler.report.convergence import (
    failure_text,
    fault,
    full_name,
    is_changing,
    is_fine,
    is_git_away,
    is_moving,
    manual_text,
    object_fault,
    object_name,
    other_objects,
    proxy_fault,
    split_place,
    unknown_because,
)
from reconciler.report.revision_text import written_at
from reconciler.report.status import Document

_BAD = (HealthStatus.DEGRADED, HealthStatus.MISSING, HealthStatus.UNKNOWN)
_AWAITS_APPROVAL = "its deletion needs approval"


class Severity(StrEnum):
    """How bad it is, worst first."""

    ERROR = "error"  # something does not serve, or nobody knows, or the daemon cannot act
    WARNING = "warning"  # what serves goes on, but not everything is as git or the config wants it
    INFO = "info"  # held by hand


@dataclass(frozen=True, slots=True)
class AttentionItem:
    """One thing. `kind` is one of a few words for scripts; `address` is the page on which it is solved, empty if none.

    `file` and `line` are where git causes it, None where git does not.
    """

    severity: Severity
    kind: str
    subject: str
    message: str
    target: str = ""
    service: str = ""
    file: str | None = None
    line: int | None = None
    address: str = ""

    @property
    def document(self) -> Document:
        return {
            "severity": self.severity.value,
            "kind": self.kind,
            "subject": self.subject,
            "message": self.message,
            "target": self.target or None,
            "service": self.service or None,
            "file": self.file,
            "line": self.line,
            "address": self.address or None,
        }


def attention(status: Document, stuck: str = "") -> list[AttentionItem]:
    """`stuck`: why the daemon may know nothing of what is; empty: it does."""
    found = [
        *_daemon(status["daemon"], stuck),
        *_source(status["revision"]),
        *(item for target in status["targets"] for item in _target(target)),
        *_leftovers(status),
        *_delivery(status),
    ]
    ranks = list(Severity)
    return sorted(found, key=lambda item: ranks.index(item.severity))


# ---------------------------------------------------------------- the daemon


def _daemon(daemon: Document, stuck: str) -> Iterator[AttentionItem]:
    if why := daemon.get("fault"):
        yield AttentionItem(Severity.ERROR, "state", "state folder", why)
    if stuck:
        yield AttentionItem(Severity.ERROR, "daemon", "daemon", stuck)
    if why := daemon.get("configFault"):
        message = f"rejected, the previous one stays in force: {why}"
        yield AttentionItem(Severity.WARNING, "config", "config", message)


def _source(revision: Document) -> Iterator[AttentionItem]:
    refused, error = revision["refused"], revision["error"]
    # Without any revision nothing can be started, and nothing is known to be wanted.
    severity = Severity.WARNING if revision["desired"] else Severity.ERROR
    if refused:
        subject, address = f"revision {short(refused['revision'])}", change_address(refused["revision"])
        yield AttentionItem(severity, "revision", subject, f"refused: {refused['reason']}", address=address)
    if is_git_away(revision):
        yield AttentionItem(severity, "source", "git", error, address="/repository")


def _leftovers(status: Document) -> Iterator[AttentionItem]:
    for left in status["leftovers"]:
        yield AttentionItem(Severity.WARNING, "leftover", left["target"], f"{left['message']}: {left['fix']}")


def _delivery(status: Document) -> Iterator[AttentionItem]:
    """What could not be told others."""
    if error := (status.get("pullRequests") or {}).get("error"):
        yield AttentionItem(Severity.WARNING, "delivery", "pull requests", f"cannot be planned: {error}")
    forge = status.get("forge")
    if not forge:
        return
    if forge["error"]:
        yield AttentionItem(Severity.WARNING, "delivery", "outbox", forge["error"])
    for one in forge["waiting"]:
        if one["error"]:
            message = f"{one['count']} waiting to be delivered: {one['error']}"
            yield AttentionItem(Severity.WARNING, "delivery", one["destination"], message)
    for one in forge["dead"]:
        message = f"given up: {one['message']}: {one['error']}"
        yield AttentionItem(Severity.WARNING, "delivery", one["destination"], message)


# ---------------------------------------------------------------- targets


def _target(target: Document) -> Iterator[AttentionItem]:
    if not target["reachable"]:
        # Of what is in it nothing is known. One that was never asked is no fault yet.
        if target["observedAt"]:
            yield _of_target(Severity.ERROR, "target", target, unknown_because(target))
        return
    if why := proxy_fault(target):
        yield _of_target(Severity.ERROR, "proxy", target, why)
    if target["lastError"]:
        yield _of_target(Severity.ERROR, "action", target, target["lastError"])
    yield from _git(target)
    for service in target["services"]:
        if item := _service(service, target):
            yield item
    for one in other_objects(target):
        if item := _object(one, target):
            yield item
    yield from _by_hand(target)


def _of_target(severity: Severity, kind: str, target: Document, message: str) -> AttentionItem:
    return AttentionItem(severity, kind, target["name"], message, target["name"], address="/#targets")


def _git(target: Document) -> Iterator[AttentionItem]:
    name = target["name"]
    for reason in (*target["unreadable"], *target["refused"]):
        place = {"file": reason["file"], "line": reason["line"]}
        yield AttentionItem(
            Severity.WARNING, "manifest", name, reason["message"], target=name, address="/repository", **place
        )
    if held := target["deletions"]["held"]:
        message = f"{'; '.join(held['reasons'])}: {', '.join(held['subjects'])}"
        address = f"/actions/approve?{urlencode({'target': name, 'hash': held['hash']})}"
        yield AttentionItem(Severity.WARNING, "deletions", "deletions", message, target=name, address=address)


def _by_hand(target: Document) -> Iterator[AttentionItem]:
    if target["drained"]:
        message = f"drained{manual_text(target['drained'])}; `reconciler host undrain` ends it"
        yield _of_target(Severity.INFO, "drained", target, message)
    if target["suspended"]:
        message = f"suspended{manual_text(target['suspension'])}; `reconciler resume` resumes it"
        yield _of_target(Severity.INFO, "suspended", target, message)


def _service(service: Document, target: Document) -> AttentionItem | None:
    found = service_fault(service, target)
    if found is None or found[1] == _AWAITS_APPROVAL:
        # All deletions that are held are named once.
        return None
    severity, why = found
    message, file, line = _placed(why, _reasons(service), service["origin"])
    return AttentionItem(
        severity,
        "suspended" if severity is Severity.INFO else "service",
        full_name(service),
        message,
        target=target["name"],
        service=full_name(service),
        file=file,
        line=line,
        address=service_address(target["name"], service["namespace"], service["name"]),
    )


def service_fault(service: Document, target: Document) -> tuple[Severity, str] | None:
    """What a person has to do about a service, if anything. Of a target that is away nothing is known."""
    if not target["reachable"]:
        return None
    health, held = service["health"], f"suspended{manual_text(service['suspension'])}"
    is_bad, is_held = health["status"] in _BAD, service["suspended"] and (is_fine(service) or not _reasons(service))
    if service["suspended"] and is_bad:
        return Severity.ERROR, f"{health['status']}, {held}: {health['message'] or health['reason']}"
    if _awaits_approval(service):
        is_down = is_bad and (service["promoted"] or health["status"] != HealthStatus.MISSING)
        text = f"{health['status']}: {health['message'] or health['reason']}; {_AWAITS_APPROVAL}"
        return (Severity.ERROR, text) if is_down else (Severity.WARNING, _AWAITS_APPROVAL)
    if not is_held and not is_fine(service) and not is_moving(service, target):
        return Severity.ERROR if is_bad else Severity.WARNING, fault(service)
    if last := service["lastFailure"]:
        return Severity.WARNING, f"{failure_text(last)}: {last['reason']}"
    if not is_held or target["suspended"]:
        # A target that is suspended as a whole is named once.
        return None
    return Severity.INFO, f"{held}; `reconciler resume {full_name(service)}` resumes it"


def needs_document(found: tuple[Severity, str] | None) -> Document | None:
    """What `service_fault` says, as pages show it."""
    return {"severity": found[0].value, "message": found[1]} if found else None


def _awaits_approval(service: Document) -> bool:
    kept = service["kept"]
    return bool(kept) and kept["code"] == ReasonCode.APPROVAL_REQUIRED


def _object(one: Document, target: Document) -> AttentionItem | None:
    why = object_fault(one)
    is_bad = one["health"]["status"] in (HealthStatus.DEGRADED, HealthStatus.MISSING)
    is_held = target["suspended"] and not one["reasons"] and not is_bad
    if not why or is_held or is_changing(one, target):
        return None
    message, file, line = _placed(why, one["reasons"], one["origin"])
    severity = Severity.ERROR if is_bad else Severity.WARNING
    return AttentionItem(
        severity, "object", object_name(one), message, target["name"], file=file, line=line, address="/repository"
    )


# ---------------------------------------------------------------- the line to blame


def _reasons(service: Document) -> list[Document]:
    """What keeps it from following git, in the order in which it is told."""
    return [*service["problems"], *_maybe(service["rejected"]), *service["blocked"], *_maybe(service["kept"])]


def _maybe(reason: Document | None) -> list[Document]:
    return [reason] if reason else []


def _placed(text: str, reasons: list[Document], origin: str) -> tuple[str, str | None, int | None]:
    """The text without the place that it begins with, and the place: of the first reason, else where it is written."""
    place = next((written_at(reason) for reason in reasons[:1] if reason["file"]), origin)
    file, line = split_place(place)
    if file is None:
        return text, place or None, None
    return text.replace(f"{place}: ", "", 1), file, line
