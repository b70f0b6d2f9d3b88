"""What happened to targets and services, for those who are told of it. Pure: from the status document alone.

Level-triggered: each thing that can be told has a state, and what is told is where it differs from what was told last.
So a crash loses nothing, and what is well and was never told of stays untold.

A fault is told at once, or when it lasts where a moment's absence is common; its end only once it lasts. A service that
goes up and down within `_LASTING_HEALTH` is so told of once, until it stays up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from reconciler.config.forge import NotificationSettings
from reconciler.forge.messages import Notification
from reconciler.model import HealthStatus
from reconciler.report.actions import short
from reconciler.report.addresses import change_url, public_url, service_address
from reconciler.report.convergence import full_name, is_ours_to_tell, is_refusal
from reconciler.report.redact import one_line, scrub_text
from reconciler.report.status_parts import NOT_FETCHED, Document, timestamp

WELL = ""
"""The state of what has no fault; also of what nothing was told of yet."""

_MOST_TEXT = 1000
_LASTING_HEALTH = 300.0
_LASTING_REACH = 60.0
_MISSING_FAULT = 60.0

Seen = Mapping[str, tuple[str, float]]


@dataclass(frozen=True, slots=True)
class NotifiableState:
    """How one thing stands. `lasting`: seconds that it must have stood so before it is told."""

    about: str
    state: str
    event: str
    text: str
    lasting: float = 0.0
    severity: Literal["info", "error"] = "error"
    target: str = ""
    service: str = ""
    revision: str = ""
    code: str = ""


class Notifier:
    """What its receivers are to be told, of one status after another."""

    def __init__(self, receivers: Sequence[NotificationSettings], daemon: str, url: str = "") -> None:
        """`daemon`: what calls the daemon where no target is concerned; `url`: `web.url`."""
        self._receivers, self._daemon, self._url = receivers, daemon, url
        self._since: Seen = {}

    def due(self, status: Document, said: Iterable[Notification], at: float) -> list[Notification]:
        """`said`: what each was told last. `at`: seconds since 1970."""
        told: dict[str, dict[str, str]] = {receiver.name: {} for receiver in self._receivers}
        for one in said:
            told.setdefault(one.receiver, {})[one.about] = one.state
        now = facts(status, (about for each in told.values() for about, state in each.items() if state != WELL))
        self._since = seen(self._since, now, at)
        return [
            notification(fact, receiver.name, daemon=self._daemon, at=timestamp(at) or "", url=self._url)
            for receiver in self._receivers
            for fact in due(now, self._since, told[receiver.name], at)
            if is_for(fact, receiver)
        ]


def facts(status: Document, told: Iterable[str] = ()) -> dict[str, NotifiableState]:
    """By what they are about. What is unknown now has none. `told`: of what a fault was told last; it may be gone."""
    found = [*_source(status), *(fact for target in status["targets"] for fact in _target(target))]
    known = {fact.about: fact for fact in found}
    return known | {fact.about: fact for fact in _gone(status, set(told) - known.keys())}


def seen(before: Seen, now: Mapping[str, NotifiableState], at: float) -> dict[str, tuple[str, float]]:
    """Since when each thing has had its state."""
    # One that is later than now is of a clock that was ahead.
    same = {about: old for about, old in before.items() if about in now and old[0] == now[about].state}
    kept = {about: old for about, old in same.items() if old[1] <= at}
    return {about: kept.get(about, (fact.state, at)) for about, fact in now.items()}


def due(now: Mapping[str, NotifiableState], since: Seen, told: Mapping[str, str], at: float) -> list[NotifiableState]:
    """What differs from what was told last, and has lasted."""
    changed = (fact for about, fact in now.items() if fact.state != told.get(about, WELL))
    return [fact for fact in changed if at - since[fact.about][1] >= fact.lasting]


def is_for(fact: NotifiableState, receiver: NotificationSettings) -> bool:
    """By its severity, and of services by their names."""
    if fact.severity == "info" and receiver.severity == "error":
        return False
    return not fact.service or any(_matches(fact.service, pattern) for pattern in receiver.services)


def notification(fact: NotifiableState, receiver: str, *, daemon: str, at: str, url: str = "") -> Notification:
    """`at`: RFC 3339; `url`: `web.url`."""
    return Notification(
        receiver=receiver,
        about=fact.about,
        state=fact.state,
        event=fact.event,
        source=f"/targets/{fact.target}" if fact.target else f"/daemons/{daemon}",
        text=_shortened(fact.text),
        at=at,
        severity=fact.severity,
        target=fact.target,
        service=fact.service,
        revision=fact.revision,
        code=fact.code,
        url=_page(fact, url),
    )


def _page(fact: NotifiableState, url: str) -> str:
    """Where to read more: of how a service is, on its own page; of what a revision did, on the revision's."""
    if fact.event in ("service.degraded", "service.healthy"):
        return public_url(url, service_address(fact.target, *fact.service.split("/")))
    if fact.event.startswith(("service.", "deletions.", "revision.")):
        return change_url(url, fact.revision, "/".join(filter(None, (fact.target, fact.service))))
    return public_url(url, "/")


def _source(status: Document) -> Iterator[NotifiableState]:
    revision = status["revision"]
    desired, error = revision["desired"], revision["error"]
    if error == NOT_FETCHED:
        return
    if error:
        kept = f"; {short(desired)} stays in force" if desired else ""
        text = f"{'the newest revision is refused' if is_refusal(revision) else 'git cannot be read'}: {error}{kept}"
        yield NotifiableState("source", "failed", "source.failed", text, _LASTING_REACH, revision=desired)
    else:
        text = f"git is read and followed again: {short(desired)} {revision['subject']}"
        yield NotifiableState("source", WELL, "source.recovered", text, _LASTING_REACH, revision=desired)


def _target(target: Document) -> Iterator[NotifiableState]:
    if target["observedAt"] is None or not is_ours_to_tell(target):
        return
    name, revision = target["name"], target["revision"]["desired"]
    yield _reach(target, name, revision)
    if not target["reachable"]:
        return
    yield _deletions(target["deletions"]["held"], name, revision)
    if fact := _applied(target, name):
        yield fact
    for service in target["services"]:
        yield from _service(service, name, revision)


def _reach(target: Document, name: str, revision: str) -> NotifiableState:
    about = f"target/{name}"
    if not target["reachable"]:
        text = f"{name} cannot be reached: {target['reason']}"
        return NotifiableState(
            about, "unreachable", "target.unreachable", text, _LASTING_REACH, target=name, revision=revision
        )
    if error := target["passError"]:
        text = f"{name}: its last pass failed: {error}"
        return NotifiableState(about, "failed", "target.failed", text, _LASTING_REACH, target=name, revision=revision)
    text = f"{name} is reached and reconciled again"
    return NotifiableState(about, WELL, "target.recovered", text, _LASTING_REACH, target=name, revision=revision)


def _deletions(held: Document | None, name: str, revision: str) -> NotifiableState:
    about = f"deletions/{name}"
    if held is None:
        text = f"{name} holds no deletions any more"
        return NotifiableState(about, WELL, "deletions.released", text, target=name, revision=revision)
    count, why = len(held["subjects"]), "; ".join(held["reasons"])
    text = f"{name} holds {count} deletions until they are approved: {why}; reconciler approve {held['hash']}"
    return NotifiableState(about, held["hash"], "deletions.held", text, target=name, revision=revision)


def _applied(target: Document, name: str) -> NotifiableState | None:
    """Once a revision is applied as far as possible."""
    revision = target["revision"]
    applied, held_up = revision["applied"], revision["heldUpBy"]
    if not applied or applied != revision["desired"]:
        return None
    first = f", held up: {held_up[0]['message']}" if held_up else ""
    text = f"{name} has applied {short(applied)}{first}"
    return NotifiableState(
        f"applied/{name}", applied, "revision.applied", text, 0.0, "info", target=name, revision=applied
    )


def _service(service: Document, target: str, revision: str) -> Iterator[NotifiableState]:
    name = full_name(service)
    about, where = f"{target}/{name}", f"{name} on {target}"
    health, rejected = service["health"], service["rejected"]
    if rejected:
        yield _rejected(rejected, health, name, target)
    else:
        text = f"{where}: nothing is rejected any more"
        yield NotifiableState(f"rejected/{about}", WELL, "service.accepted", text, 0.0, "error", target, name, revision)
    if rejected and health["reason"] == rejected["code"]:
        # The same thing once more: nothing serves because of it.
        return
    said = f"{where} is {health['status']}"
    if health["status"] in (HealthStatus.DEGRADED, HealthStatus.MISSING) and service["inGit"]:
        lasting = _MISSING_FAULT if health["status"] == HealthStatus.MISSING else 0.0
        text, code = f"{said}: {health['message']}", health["reason"]
        yield NotifiableState(
            f"health/{about}", "faulty", "service.degraded", text, lasting, "error", target, name, revision, code
        )
    elif health["status"] == HealthStatus.HEALTHY:
        text = f"{said} again: {health['message']}"
        yield NotifiableState(
            f"health/{about}", WELL, "service.healthy", text, _LASTING_HEALTH, "error", target, name, revision
        )


def _rejected(rejected: Document, health: Document, name: str, target: str) -> NotifiableState:
    serves = "the last good version serves" if health["status"] == HealthStatus.HEALTHY else f"it is {health['status']}"
    place = f" ({rejected['file']}:{rejected['line']})" if rejected["file"] else ""
    revision = rejected["revision"]
    text = f"{name} on {target}: {short(revision)} is rejected, {serves}: {rejected['reason']}{place}"
    about = f"rejected/{target}/{name}"
    return NotifiableState(
        about, rejected["digest"], "service.rejected", text, 0.0, "error", target, name, revision, rejected["code"]
    )


def _gone(status: Document, told: Iterable[str]) -> Iterator[NotifiableState]:
    """The end of what was told of services that are deleted, and of targets that the config names no more."""
    there = {target["name"]: target for target in status["targets"]}
    for about in sorted(told):
        kind, _, where = about.partition("/")
        name, _, service = where.partition("/")
        target = there.get(name)
        if not name or kind == "applied":
            continue
        if service and (target is None or _lacks(target, service)):
            text = f"{service} on {name} is deleted"
            yield NotifiableState(about, WELL, "service.deleted", text, target=name, service=service)
        elif target is None:
            yield NotifiableState(about, WELL, "target.removed", f"{name} is no longer in the config", target=name)


def _lacks(target: Document, service: str) -> bool:
    """Is it known not to be there?"""
    return bool(target["reachable"]) and is_ours_to_tell(target) and service not in map(full_name, target["services"])


def _matches(service: str, pattern: str) -> bool:
    parts = zip(service.split("/"), pattern.split("/"), strict=True)
    return all(fnmatchcase(part, wanted) for part, wanted in parts)


def _shortened(text: str) -> str:
    text = one_line(scrub_text(text)).strip()
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
