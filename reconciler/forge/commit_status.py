"""What is said on a commit of each target, and of each service. Pure: from the status document alone.

- **pending**: the revision was not looked at yet, or is being applied; suspended or drained by a person.
- **failure**: the commit is to blame. It is refused as a whole, has files that cannot be read, or a service of it is
  not usable, rejected, blocked by what git says, or does not serve.
- **error**: the target or we are to blame. It is unreachable, a pass or an action fails, a disk is full, a host breaks
  what runs, a download does not come, an object has other owners; or deletions wait for approval.
- **success**: `convergence_of` says of this target alone that all is in sync and healthy.
- **superseded**: another revision was desired before this one was answered.

What git says is answered at once; what may pass by itself, only when nothing moves any more; what the commit is not to
blame for, only when it lasts. Texts hold no durations and no times, so that only changes are posted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.forge.baseline import Digests
from reconciler.forge.description import cut
from reconciler.forge.messages import CommitState, CommitStatus
from reconciler.model import HealthStatus, ReasonCode
from reconciler.model.names import counted, listed
from reconciler.report.actions import short
from reconciler.report.addresses import change_url
from reconciler.report.convergence import (
    convergence_of,
    fault,
    full_name,
    is_elsewhere,
    is_fine,
    is_moving,
    is_ours_to_tell,
    manual_text,
    object_fault,
    object_name,
    other_objects,
)
from reconciler.report.status import Document

_PREFIX = "reconciler/"
_MOST_SERVICES = 50
_MOST_NAMED = 2
_SEEN = "seen; not looked at here yet"
# A target that does not answer for a moment is no news.
_LASTING_ERROR = 30.0

_OURS = frozenset(
    {
        ReasonCode.ACCESS_DENIED,
        ReasonCode.ACTION_FAILED,
        ReasonCode.APPROVAL_REQUIRED,
        ReasonCode.CONTROLLED,
        ReasonCode.CONTROLLER_SILENT,
        ReasonCode.DISK_FULL,
        ReasonCode.DOWNLOAD_INTERRUPTED,
        ReasonCode.DOWNLOAD_STALLED,
        ReasonCode.ENGINE_BROKEN,
        ReasonCode.FETCHER_NOT_STARTED,
        ReasonCode.FIELD_CONFLICT,
        ReasonCode.FOLDER_NOT_WRITABLE,
        ReasonCode.FOLDER_UNREADABLE,
        ReasonCode.GPU_BUSY,
        ReasonCode.HOST_FAILED,
        ReasonCode.INSUFFICIENT_GPU_MEMORY,
        ReasonCode.INTERNAL_ERROR,
        ReasonCode.IN_USE,
        ReasonCode.LIBRARY_NOT_INSTALLED,
        ReasonCode.NODE_LOST,
        ReasonCode.NOT_OURS,
        ReasonCode.NOT_YET_OBSERVED,
        ReasonCode.NO_DECRYPTION_KEY,
        ReasonCode.NO_FREE_PORT,
        ReasonCode.PODMAN_NOT_FOUND,
        ReasonCode.PORT_TAKEN,
        ReasonCode.PREFLIGHT_FAILED,
        ReasonCode.QUOTA_EXCEEDED,
        ReasonCode.SECRETS_UNREADABLE,
        ReasonCode.SHARED_MEMORY_FULL,
        ReasonCode.SOURCE_FAILED,
        ReasonCode.SOURCE_UNREACHABLE,
        ReasonCode.STAGED_FILES_DELETED,
        ReasonCode.STOPPED_MANUALLY,
        ReasonCode.TARGET_UNREACHABLE,
        ReasonCode.USER_NOT_FOUND,
        ReasonCode.WRONG_DECRYPTION_KEY,
    }
)
_HELD = (ReasonCode.SUSPENDED, ReasonCode.DRAINED, ReasonCode.CORDONED)
_PLACED = re.compile(r"(\S+:\d+): (.*)", re.DOTALL)
_QUANTITY = re.compile(r"\d[\d.,]*\s?(?:%|(?:[KMGT]i?)?B\b|bytes\b)")


@dataclass(frozen=True, slots=True)
class Said:
    """What is to be said of one context. `lasting`: seconds that it must have been so before it is said."""

    state: CommitState
    description: str
    lasting: float = 0.0


@dataclass(frozen=True, slots=True)
class StatusFault:
    """One thing that is not as git wants. `what` counts it: `rejected`. `is_ours`: the commit is not to blame.
    `at_once`: no later pass changes it. `live`: the revision that serves instead."""

    what: str
    subject: str
    message: str
    place: str = ""
    is_ours: bool = False
    at_once: bool = False
    is_held: bool = False
    live: str = ""


def digests(target: Document) -> dict[str, str]:
    """What git wants of a target, to tell what the next commit changes."""
    return {full_name(one): one["digest"] for one in target["services"] if one["inGit"] and not is_elsewhere(one)}


def context_of(target: str, service: str = "") -> str:
    """`reconciler/TARGET` or `reconciler/TARGET/NAMESPACE/NAME`."""
    return f"{_PREFIX}{target}/{service}" if service else f"{_PREFIX}{target}"


def subject_of(context: str) -> str:
    """What a context is about: the same without what is common to all of ours."""
    return context.removeprefix(_PREFIX)


def answers(
    status: Document, before: Mapping[str, Digests] | None = None, *, per_service: bool = False, url: str = ""
) -> Iterator[tuple[CommitStatus, float]]:
    """Everything that is to be said now, each with how long it must have been so.

    `before`: by target, what the revision wanted that was answered before this one. Of a cluster that another daemon
    acts on, nothing is said. `url`: `web.url`.
    """
    revision = status["revision"]["desired"]
    refused = status["revision"].get("refused")
    for target in status["targets"]:
        if not is_ours_to_tell(target):
            continue
        name = target["name"]
        if refused and refused["revision"] != revision:
            page = change_url(url, refused["revision"], name)
            yield CommitStatus(refused["revision"], context_of(name), CommitState.FAILURE, refusal(status), page), 0.0
        if not revision:
            continue
        known = (before or {}).get(name)
        said = say_target(status, target, known)
        page = change_url(url, revision, name)
        yield CommitStatus(revision, context_of(name), said.state, said.description, page), said.lasting
        for service in _told_services(target, known) if per_service and _is_current(status, target) else ():
            said = say_service(service, target)
            context = context_of(name, full_name(service))
            page = change_url(url, revision, subject_of(context))
            yield CommitStatus(revision, context, said.state, said.description, page), said.lasting


def say_target(status: Document, target: Document, before: Digests | None = None) -> Said:
    """What is said of a target on the desired revision."""
    if trouble := _trouble(status, target):
        return trouble
    if not _is_current(status, target):
        return Said(CommitState.PENDING, _SEEN)
    faults = list(_faults(target))
    alone = _alone(status, target)
    known = convergence_of(alone)
    certain = [one for one in faults if one.at_once]
    if not known.settled and certain:
        return Said(CommitState.FAILURE, _described([], certain, "; the others are being applied"))
    if known.converged:
        return Said(CommitState.SUCCESS, _described(_done(target, before), [], ""))
    if not known.settled or not faults:
        return Said(CommitState.PENDING, _progress(target, before))
    state = _blame(faults)
    lasting = _LASTING_ERROR if state is CommitState.ERROR else 0.0
    return Said(state, _described(_done(target, before), faults, ""), lasting)


def say_service(service: Document, target: Document) -> Said:
    """What is said of one service on the desired revision."""
    found = _service_fault(service, full_name(service))
    if found is None:
        done = "suspended, in sync" if service["suspended"] else "in sync and healthy"
        return Said(CommitState.SUCCESS, done)
    if is_moving(service, target) and not found.at_once:
        return Said(CommitState.PENDING, "being applied")
    lasting = _LASTING_ERROR if found.is_ours else 0.0
    return Said(_blame([found]), cut(found.message, found.place, _live([found])), lasting)


def is_answer(context: str) -> bool:
    """Is it one of ours, and not that of a plan?"""
    return context.startswith(_PREFIX) and context.count("/") in (1, 3)


def closing(open_: CommitStatus, desired: str, was_applied: bool) -> CommitStatus:
    """The end of a status that was pending when another revision became the desired one."""
    instead = f"superseded by {short(desired)}" if desired and desired != open_.revision else "not answered here"
    text = f"{instead}; it was applied before" if was_applied else instead
    return CommitStatus(open_.revision, open_.context, CommitState.SUPERSEDED, text, open_.url)


def is_news(now: CommitStatus, last: CommitStatus | None) -> bool:
    """Is it to be posted after what was said last? What was answered once is not pending again because a replica
    restarts, nor is what is being applied unseen again because the daemon does; and a quantity that changes is no news.
    """
    if last is None or last.state is CommitState.SUPERSEDED:
        return True
    if now.state is CommitState.PENDING and (last.state is not CommitState.PENDING or now.description == _SEEN):
        return False
    return now.state is not last.state or _skeleton(now.description) != _skeleton(last.description)


def _skeleton(text: str) -> str:
    return _QUANTITY.sub("#", text)


# ---------------------------------------------------------------- of a target


def _trouble(status: Document, target: Document) -> Said | None:
    if status["daemon"].get("fault"):
        return Said(CommitState.ERROR, cut("nothing is applied: the daemon cannot write to its disk"), _LASTING_ERROR)
    if target["observedAt"] is None and not target["passError"]:
        return Said(CommitState.PENDING, _SEEN)
    if target["passError"]:
        return Said(CommitState.ERROR, cut(f"a pass failed: {target['passError']}"), _LASTING_ERROR)
    if not target["reachable"]:
        return Said(CommitState.ERROR, cut(f"unreachable, unknown what runs: {target['reason']}"), _LASTING_ERROR)
    if target["suspended"]:
        return Said(CommitState.PENDING, cut(f"suspended{manual_text(target['suspension'])}"))
    if target["drained"]:
        return Said(CommitState.PENDING, cut(f"drained{manual_text(target['drained'])}"))
    return None


def _is_current(status: Document, target: Document) -> bool:
    return bool(target["revision"]["desired"] == status["revision"]["desired"])


def _alone(status: Document, target: Document) -> Document:
    """The document as if there were only this target, and git could be read: it could, this revision."""
    revision = status["revision"] | {"error": ""}
    daemon = status["daemon"] | {"configFault": ""}
    return status | {"revision": revision, "daemon": daemon, "targets": [target], "leftovers": []}


def _faults(target: Document) -> list[StatusFault]:
    """The worst first: what git says, what else the commit is to blame for, what we are, what people hold."""
    names = _names(target)
    found = [StatusFault("unreadable", "", *_reason(one), at_once=True) for one in target["unreadable"]]
    found += [StatusFault("refused", "", *_reason(one), at_once=True) for one in target["refused"]]
    if held := target["deletions"]["held"]:
        count = len(held["subjects"])
        text = f"{count} {'deletion waits' if count == 1 else 'deletions wait'} for approval: {held['hash']}"
        found.append(StatusFault("held", "", f"{text}: {'; '.join(held['reasons'])}", is_ours=True))
    for service in target["services"]:
        is_known = held and service["kept"] and service["kept"]["code"] == ReasonCode.APPROVAL_REQUIRED
        if not is_known and (one := _service_fault(service, names[full_name(service)])):
            found.append(one)
    found += [one for each in other_objects(target) if (one := _object_fault(each, target["lastFailure"]))]
    if target["lastError"] and not found:
        # It is tried again, and often enough passes.
        found.append(StatusFault("failed", "", target["lastError"], is_ours=True))
    return sorted(found, key=lambda one: (one.is_held, not one.at_once, one.is_ours))


def _service_fault(service: Document, name: str) -> StatusFault | None:
    if is_fine(service):
        return None
    if service["problems"]:
        return StatusFault(
            "not usable", name, *_reason(service["problems"][0]), at_once=True, live=service["liveRevision"]
        )
    if refused := service["rejected"]:
        message, place, is_ours = _reason(refused | {"message": refused["reason"]})
        return StatusFault("rejected", name, message, place, is_ours, at_once=True, live=service["liveRevision"])
    if service["suspended"]:
        return StatusFault("suspended", name, f"suspended{manual_text(service.get('suspension'))}", is_held=True)
    if service["kept"]:
        return StatusFault("kept", name, *_reason(service["kept"]), live=service["liveRevision"])
    if service["blocked"]:
        message, place, is_ours = _reason(service["blocked"][0])
        is_held = service["blocked"][0]["code"] in _HELD
        return StatusFault("blocked", name, message, place, is_ours, is_held=is_held, live=service["liveRevision"])
    health = service["health"]
    is_well = health["status"] in (HealthStatus.HEALTHY, HealthStatus.PROGRESSING)
    what = "out of sync" if is_well else health["status"].lower()
    placed = _PLACED.fullmatch(health["message"] or fault(service))
    place, text = placed.groups() if placed else ("", health["message"] or fault(service))
    return StatusFault(what, name, text, place, is_ours=health["reason"] in _OURS, is_held=health["reason"] in _HELD)


def _object_fault(one: Document, failure: Document | None) -> StatusFault | None:
    if not (text := object_fault(one)):
        return None
    if one["reasons"]:
        return StatusFault("out of sync", object_name(one), *_reason(one["reasons"][0]))
    refused = _PLACED.fullmatch(failure["reason"]) if failure else None
    if refused and one["origin"].rpartition(":")[0] == refused[1].rpartition(":")[0]:
        # What an API server says of a field, at its place in git.
        return StatusFault("not applied", object_name(one), refused[2], refused[1])
    return StatusFault("out of sync", object_name(one), text, is_ours=one["health"]["reason"] in _OURS)


def _reason(reason: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Message, `file:line`, and whether the commit is not to blame."""
    place = reason["file"] or ""
    place += f":{reason['line']}" if place and reason["line"] and not place.endswith("/") else ""
    return str(reason["message"]), place, reason["code"] in _OURS


def _blame(faults: Iterable[StatusFault]) -> CommitState:
    free = [one for one in faults if not one.is_held]
    if not free:
        return CommitState.PENDING
    return CommitState.ERROR if all(one.is_ours for one in free) else CommitState.FAILURE


# ---------------------------------------------------------------- the text


def _done(target: Document, before: Digests | None) -> list[str]:
    """`2 updated`, `1 deleted`; without an earlier revision to compare with, how many are in sync."""
    fine = {full_name(one) for one in target["services"] if is_fine(one) and one["inGit"] and not is_elsewhere(one)}
    if before is None:
        others = sum(not object_fault(one) for one in other_objects(target))
        return [f"{len(fine)} in sync"] + ([counted(others, "other object")] if others else [])
    now = digests(target)
    updated = sum(before.get(name) != now[name] for name in fine)
    gone = len(before.keys() - {full_name(one) for one in target["services"]})
    parts = [f"{updated} updated"] * bool(updated) + [f"{gone} deleted"] * bool(gone)
    # What changed of other objects is not compared.
    return parts or ["no service changed" if other_objects(target) else "no change here"]


def _progress(target: Document, before: Digests | None) -> str:
    """Without counts that grow: each would be a status of its own."""
    if before is None:
        return "being applied"
    now = digests(target)
    changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    names = _names(target)
    told = [names.get(name, name) for name in changed]
    return cut(f"being applied: {listed(told, _MOST_NAMED)}" if told else "being applied")


def _described(done: list[str], faults: list[StatusFault], rest: str) -> str:
    """`2 updated, 1 rejected: granite: --max-modle-len unknown (services/granite.yaml:31); 3f2a1b9c is live`."""
    counts: dict[str, int] = {}
    for one in faults:
        counts[one.what] = counts.get(one.what, 0) + 1
    head = ", ".join([*done, *(f"{count} {what}" for what, count in counts.items())])
    if not faults:
        return cut(head)
    first = faults[0]
    subject = f"{first.subject}: " if first.subject else ""
    return cut(first.message, first.place, rest or _live(faults), head=f"{head}: {subject}")


def _live(faults: list[StatusFault]) -> str:
    """Which revision serves where the new one does not."""
    return f"; {short(faults[0].live)} is live" if faults[0].live else ""


def refusal(status: Document) -> str:
    """Why the refused revision is, and what is live instead."""
    live = status["revision"]["desired"]
    rest = f"; {short(live)} is live" if live else ""
    return cut(f"refused: {status['revision']['refused']['reason']}", rest=rest)


def _names(target: Document) -> dict[str, str]:
    """What people call each service: its name alone where that is enough."""
    count = Counter(one["name"] for one in target["services"])
    return {full_name(one): one["name"] if count[one["name"]] == 1 else full_name(one) for one in target["services"]}


def _told_services(target: Document, before: Digests | None) -> list[Document]:
    """Those that have a status of their own, at most some dozen: which this revision changed, then which are not well.

    Whose status is pending is so told to the end: what a revision changes does not change.
    """
    own = [one for one in target["services"] if one["inGit"] and not is_elsewhere(one)]
    changed = [one for one in own if before is None or before.get(full_name(one)) != one["digest"]]
    return [*changed, *(one for one in own if one not in changed and not is_fine(one))][:_MOST_SERVICES]
