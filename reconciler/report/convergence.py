"""Does everything run as git wants it, and is the daemon ready? Read from the status document. Pure.

Ready means that a revision was read at least once, that every target was observed lately and is reachable, and that
the state folder is writable. A source or config that fails now is listed, but does not make the daemon unready: its
last revision stays in force. The text is public: it holds no path and no address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.model import HealthStatus, ObjectChange, ObjectId, ProxyBreak, ReasonCode, Sync
from reconciler.report.actions import short
from reconciler.report.status import Document
from reconciler.report.status_parts import NOT_FETCHED

_FINE = (HealthStatus.HEALTHY, HealthStatus.SUSPENDED)
# What hangs is replaced.
_REPLACED = (ReasonCode.SILENT, ReasonCode.HUNG)
_LASTING = (ObjectChange.NONE, ObjectChange.KEEP)
_PROXY_FAULTS: Mapping[str, str] = {
    ProxyBreak.HUNG: "the proxy is unresponsive and is being replaced",
    ProxyBreak.DEAF: (
        "the proxy serves, but its admin socket is lost; the next change replaces it, which cuts its requests"
    ),
}


@dataclass(frozen=True, slots=True)
class Convergence:
    """`converged`: all in sync and healthy. `settled`: nothing progresses. `faults`: what is out of sync, and why."""

    converged: bool
    settled: bool
    faults: tuple[str, ...]

    @property
    def failed(self) -> bool:
        return self.settled and not self.converged


def convergence_of(status: Document) -> Convergence:
    """Converged needs: every target reached, every service Synced and Healthy or Suspended, every other object Synced
    and not Degraded, git read without error."""
    faults = [*_source_faults(status), *_leftover_faults(status), *_target_faults(status)]
    moving = any(is_moving(service, target) for target, service in services(status)) or any(
        is_changing(one, target) for target in status["targets"] for one in other_objects(target)
    )
    unsettled = moving or _awaits_observation(status) or (_awaits_applied(status) and not faults)
    return Convergence(converged=not faults and not unsettled, settled=not unsettled, faults=tuple(faults))


def services(status: Document) -> Iterator[tuple[Document, Document]]:
    """Every service with its target."""
    for target in status["targets"]:
        for service in target["services"]:
            yield target, service


def only(status: Document, name: str) -> Document:
    """The part of the document about one service: its targets, without their other services and objects."""
    targets = [
        target
        | {
            "services": [one for one in target["services"] if full_name(one) == name],
            "objects": [one for one in target["objects"] if one["service"] == name],
        }
        for target in status["targets"]
    ]
    return status | {"targets": [target for target in targets if target["services"]]}


def full_name(service: Document) -> str:
    return f"{service['namespace']}/{service['name']}"


def is_fine(service: Document) -> bool:
    """Is this service in sync, and healthy or suspended?"""
    return bool(service["sync"] == Sync.SYNCED and service["health"]["status"] in _FINE)


def is_elsewhere(service: Document) -> bool:
    """Is it for other hosts, with no replica here?"""
    return is_fine(service) and bool(service["health"]["reason"] == ReasonCode.NOT_FOR_THIS_HOST)


def is_ours_to_tell(target: Document) -> bool:
    """Of a cluster that several daemons look at, only the one that acts tells others."""
    return not any(note["code"] == ReasonCode.NOT_LEADER for note in target["notes"])


def other_objects(target: Document) -> list[Document]:
    """A cluster's objects that belong to no service."""
    return [one for one in target["objects"] if one["service"] is None]


def object_name(one: Document) -> str:
    """`ConfigMap team/settings`, as kubectl would find it."""
    return str(ObjectId(one["group"], one["kind"], one["namespace"], one["name"]))


def object_fault(one: Document) -> str:
    """Why an object is out of sync or Degraded, in one line; empty when it is not."""
    health = one["health"]
    if one["sync"] == Sync.SYNCED and health["status"] not in (HealthStatus.DEGRADED, HealthStatus.MISSING):
        return ""
    if one["reasons"]:
        return "; ".join(place(each) for each in one["reasons"])
    if one["sync"] != Sync.SYNCED and one["why"]:
        return f"{one['sync']}: {one['why']}"
    return f"{one['sync']}, {health['status']}: {health['message'] or health['reason']}"


def is_changing(one: Document, target: Document) -> bool:
    """Will a later pass change this object without intervention?"""
    held = not target["reachable"] or target["suspended"] or target["lastError"] or one["reasons"]
    return not held and one["change"] not in _LASTING


def fault(service: Document) -> str:
    """Why a service is out of sync or unhealthy, in one line; empty when it is not."""
    if is_fine(service):
        return ""
    changed = "".join(f"; {one}" for one in service["outdated"])
    if service["problems"]:
        return "not usable: " + place(service["problems"][0])
    if service["rejected"]:
        refused = service["rejected"]
        why = place(refused | {"message": refused["reason"]})
        return f"rejected {short(refused['digest'])}: {why}{changed}"
    if service["blocked"]:
        return "Blocked: " + "; ".join(place(one) for one in service["blocked"]) + changed
    if service["kept"]:
        return place(service["kept"])
    if service["suspended"]:
        return f"suspended{manual_text(service.get('suspension'))}; `reconciler resume {full_name(service)}` resumes it"
    text = service["health"]["message"] or service["health"]["reason"]
    return f"{service['sync']}, {service['health']['status']}: {text}{changed}"


def manual_text(asked: Document | None) -> str:
    """` by alice until 2026-11-30T08:00:00Z: replacing a disk`; empty if not suspended."""
    if not asked:
        return ""
    by = f" by {asked['by']}" if asked["by"] else ""
    until = f" until {asked['until'][:19]}Z" if asked["until"] else ""
    return f"{by}{until}{': ' + asked['reason'] if asked['reason'] else ''}"


def failure_text(last: Document) -> str:
    """`start failed 3 times`, of the action that failed last."""
    tries = "once" if last["tries"] == 1 else f"{last['tries']} times"
    return f"{last['action'].replace('_', ' ')} failed {tries}"


def place(reason: dict[str, Any]) -> str:
    """`file:line: message`, or the message alone. A folder has no lines."""
    if not reason["file"]:
        return str(reason["message"])
    line = "" if reason["file"].endswith("/") else f":{reason['line']}"
    return f"{reason['file']}{line}: {reason['message']}"


def split_place(text: str) -> tuple[str | None, int | None]:
    """The two parts of `file:line`, both None where it is no such place."""
    file, _, line = text.rpartition(":")
    return (file, int(line)) if file and line.isdecimal() else (None, None)


def is_refusal(revision: Document) -> bool:
    """Does the error of the source say that its newest revision is refused? Git itself is read then."""
    refused = revision.get("refused")
    return bool(refused and refused["reason"] == revision["error"])


def is_git_away(revision: Document) -> bool:
    """Can git not be read now? Who refuses a revision has read it, and not to have asked yet is no fault."""
    error = revision["error"]
    return bool(error) and error != NOT_FETCHED and not is_refusal(revision)


def _source_faults(status: Document) -> list[str]:
    daemon = status["daemon"]
    text = {
        "source": status["revision"]["error"],
        "state folder": daemon.get("fault", ""),
        "config rejected, the previous one stays in force": daemon.get("configFault", ""),
    }
    return [f"{what}: {why}" for what, why in text.items() if why]


def _leftover_faults(status: Document) -> Iterator[str]:
    for left in status["leftovers"]:
        yield f"{left['message']}: {left['fix']}"


def _target_faults(status: Document) -> Iterator[str]:
    for target in status["targets"]:
        if not target["reachable"]:
            yield f"{target['name']}: {unknown_because(target)}"
        for reason in (*target["unreadable"], *target["refused"]):
            yield f"{target['name']}: {place(reason)}"
        if target.get("drained"):
            yield f"{target['name']}: drained{manual_text(target['drained'])}; `reconciler host undrain` ends it"
        if target["lastError"]:
            yield f"{target['name']}: {target['lastError']}"
        for service in target["services"]:
            if why := fault(service):
                yield f"{full_name(service)}: {why}"
        for one in other_objects(target):
            if why := object_fault(one):
                yield f"{object_name(one)}: {why}"


def proxy_fault(target: Document) -> str:
    """Why requests may not reach a host's services; empty where they do, or where there are none."""
    return proxy_text(target) if target["reachable"] and target["services"] else ""


def proxy_text(target: Document) -> str:
    """What is wrong with the proxy of a host that is reachable; empty: nothing. A cluster has none of ours."""
    if target["proxyReady"] or target["kind"] == "cluster":
        return ""
    return _PROXY_FAULTS.get(target["proxyFault"], "the proxy is not responding")


def unknown_because(target: Document) -> str:
    """Why the state of a target is unknown."""
    if target["passError"]:
        return f"the last pass failed: {target['passError']}; models keep serving"
    return f"unreachable: {target['reason']}"


def is_moving(service: Document, target: Document) -> bool:
    """Will a later pass change this service without intervention?"""
    if is_fine(service) or not target["reachable"] or service["suspended"]:
        return False
    if service["health"]["status"] == HealthStatus.PROGRESSING or service["health"]["reason"] in _REPLACED:
        return True
    if service["health"]["reason"] == ReasonCode.INTERNAL_ERROR:
        return False
    if service["kept"] or (not service["inGit"] and service["sync"] == Sync.UNKNOWN):
        # It stays so until git is fixed.
        return False
    stuck = (
        service["blocked"]
        or service["rejected"]
        or service["problems"]
        or service["health"]["status"] == HealthStatus.DEGRADED
    )
    return not stuck


def _awaits_observation(status: Document) -> bool:
    """Has a target not yet observed git's newest revision? Then its state does not count yet."""
    wanted = status["revision"]["desired"]
    return any(target["reachable"] and target["revision"]["desired"] != wanted for target in status["targets"])


def _awaits_applied(status: Document) -> bool:
    """A revision counts only once the loop has recorded that it was reached."""
    return any(target["revision"]["desired"] != target["revision"]["applied"] for target in status["targets"])


@dataclass(frozen=True, slots=True)
class Readiness:
    """`waiting_for` makes it unready, `failing` does not."""

    waiting_for: tuple[str, ...]
    failing: tuple[str, ...]

    @property
    def status(self) -> str:
        return "waiting" if self.waiting_for else "degraded" if self.failing else "ok"


def readiness(status: Document, age: float, oldest: float) -> Readiness:
    """`age`: seconds since the oldest observation of a target; from `oldest` on it is stale."""
    waiting = [*_daemon(status), *_targets(status)]
    if age > oldest:
        waiting.append(f"a pass: the last one of some target was {age:.0f} s ago")
    return Readiness(tuple(waiting), tuple(_failing(status)))


def _failing(status: Document) -> Iterator[str]:
    if status["revision"]["error"]:
        yield "source: cannot be fetched or read; the last revision stays in force"
    if status["daemon"].get("configFault"):
        yield "config: invalid; the previous one stays in force"


def _daemon(status: Document) -> Iterator[str]:
    if not status["revision"]["desired"]:
        yield "the first revision that can be read"
    if not status["daemon"]["passes"]:
        yield "the first pass"
    if status["daemon"].get("fault"):
        yield "the state folder is not writable"


def _targets(status: Document) -> Iterator[str]:
    for target in status["targets"]:
        if target["passError"]:
            yield f"target {target['name']}: its last pass failed"
        elif not target["reachable"]:
            yield f"target {target['name']}"
        elif proxy_fault(target):
            yield f"target {target['name']}: its proxy is not responding"
        elif target["lastError"]:
            yield f"target {target['name']}: its last pass failed in part"
