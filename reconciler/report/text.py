"""Documents as readable text: plain lines and tables of plain cells. Pure; `screen` adds colours.

A plan's is in `plan_text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from reconciler.config.values import reachable
from reconciler.model import GPU, HealthStatus, ReasonCode
from reconciler.model.names import counted
from reconciler.report.actions import short
from reconciler.report.convergence import (
    convergence_of,
    failure_text,
    fault,
    full_name,
    is_elsewhere,
    manual_text,
    object_fault,
    other_objects,
    place,
    proxy_text,
    services,
    unknown_because,
)
from reconciler.report.delivery_text import delivery_lines
from reconciler.report.redact import one_line
from reconciler.report.revision_text import pending, revision_line, written_at
from reconciler.report.stages import is_under_way, stages_line
from reconciler.report.status import Document
from reconciler.report.status_parts import NOT_FETCHED


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


Block = str | Table

# ---------------------------------------------------------------- status


def status_blocks(status: Document, *, wide: bool = False, detail: bool = False) -> Iterator[Block]:
    """The whole status: revision, a table per target, then what is not as it should be.

    `wide` adds which GPUs each service holds; `detail` adds a table of its replicas.
    """
    yield revision_line(status) + pending(status)
    for target in status["targets"]:
        yield ""
        yield _target_line(target)
        if target["services"]:
            yield _services_table(target, wide)
        yield from _failures(target)
        yield from _rollouts(target, detail)
        yield from _objects_line(target)
        if detail:
            yield from _replica_blocks(target)
    if faults := convergence_of(status).faults:
        yield ""
        yield "Out of sync:"
        yield from (f"  {one_line(one)}" for one in faults)
    if counted := list(_requests(status)):
        yield ""
        yield "Requests since the last change in git:"
        yield from (f"  {one_line(one)}" for one in counted)
    if warnings := list(_warnings(status)):
        yield ""
        yield "Warnings:"
        yield from (f"  {one_line(one)}" for one in warnings)
    yield from delivery_lines(status)


def _services_table(target: Document, wide: bool) -> Table:
    header: tuple[str, ...] = ("SERVICE", "SYNC", "HEALTH", "READY", "GPUS", "LIVE", "NOW")
    rows = [_status_row(service) for service in target["services"]]
    if wide and target["gpus"]["devices"]:
        header = (*header[:5], "DEVICES", *header[5:])
        held = (_devices(service["replicas"]) for service in target["services"])
        rows = [(*row[:5], devices, *row[5:]) for row, devices in zip(rows, held, strict=True)]
    return Table(header, rows)


def _objects_line(target: Document) -> Iterator[str]:
    """How many other objects there are; those out of sync stand under `Out of sync`."""
    if found := other_objects(target):
        good = sum(not object_fault(one) for one in found)
        yield f"{counted(len(found), 'other object')}: {good} in sync, {len(found) - good} not"


def _failures(target: Document) -> Iterator[str]:
    """The last action that failed: of the proxy or an object, and under its name of each service."""
    for name, last in (
        (f"the {target['kind']}", target["lastFailure"]),
        *((full_name(one), one["lastFailure"]) for one in target["services"]),
    ):
        if last is not None:
            yield one_line(f"  {name}: {failure_text(last)}, last at {last['at']}: {last['reason']}")


def _rollouts(target: Document, detail: bool) -> Iterator[str]:
    """The stages of rollouts that are under way; with `detail`, of the last ones too."""
    for service in target["services"]:
        if (detail and service["stages"]) or is_under_way(service["stages"]):
            yield one_line(f"  {full_name(service)}: {stages_line(service['stages'])}")


def _replica_blocks(target: Document) -> Iterator[Block]:
    """The replicas of one service: phase, role, GPUs and share of the requests."""
    for service in target["services"]:
        if not service["replicas"]:
            continue
        yield ""
        yield Table(
            ("REPLICA", "PHASE", "ROLE", "DEVICES", "ADDRESS", "REQUESTS", "SINCE"),
            [
                (
                    one["id"],
                    one["phase"],
                    _role(one, service),
                    _devices([one]),
                    one["socket"] or f"127.0.0.1:{one['port']}",
                    "-" if one["inFlight"] is None else str(one["inFlight"]),
                    one["since"] or "-",
                )
                for one in service["replicas"]
            ],
        )


def _role(replica: Document, service: Document) -> str:
    if not replica.get("canary"):
        return "stable" if replica["digest"] == service["liveDigest"] else "-"
    return f"canary {service['canary']['percent']}%" if service["canary"] else "canary"


def _devices(replicas: Sequence[Document]) -> str:
    """`GPU-5f2c91bc` is enough to find it in `nvidia-smi -L`; a share of it follows after a colon."""
    parts = []
    for replica in replicas:
        share = replica["gpuFraction"]
        behind = f":{share:g}" if share and share < 1 else ""
        parts += [f"{short_device(uuid)}{behind}" for uuid in replica["gpus"]]
    return ",".join(parts) or "-"


def short_device(uuid: str) -> str:
    """As much of it as tells devices of a host apart."""
    kind, dash, rest = uuid.partition("-")
    return f"{kind}{dash}{rest[:8]}"


def stale_blocks(status: Document, now: float) -> Iterator[Block]:
    """While git cannot be read: for how long already. `now` is in seconds since 1970."""
    if not status["revision"]["error"]:
        return
    if refused := status["revision"].get("refused"):
        yield ""
        kept = (
            "the last good one stays" if status["revision"]["desired"] else "what runs stays, and nothing is started,"
        )
        yield f"revision {short(refused['revision'])} is refused; {kept} until git has another."
        return
    read, started = status["revision"]["fetchedAt"], status["daemon"]["startedAt"]
    ago = span(now - datetime.fromisoformat(read or started).timestamp())
    yield ""
    if read:
        yield f"git was last read {ago} ago; its last revision stays in force until it can be read again."
    else:
        why = "has not answered yet" if status["revision"]["error"] == NOT_FETCHED else "could not be read"
        yield f"git {why} since the daemon started {ago} ago; the last revision before that stays in force."


def span(seconds: float) -> str:
    """A length of time, as precise as people want it."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _target_line(target: Document) -> str:
    if not target["reachable"]:
        return f"{target['name']}: {one_line(unknown_because(target))}"
    if target["kind"] == "cluster":
        parts = [f"{target['name']}: Kubernetes {target['version']}", _gpus_of_nodes(target["gpus"])]
    else:
        parts = [f"{target['name']}: http://{reachable(target['listen'])}", _gpus_line(target["gpus"])]
    parts += [one_line(f"suspended{manual_text(target.get('suspension'))}")] if target["suspended"] else []
    parts += [drained_line(target)] if target.get("drained") else []
    if cordon := target["cordoned"]:
        parts.append(f"{cordon['code']} ({place(cordon)})")
    if why := proxy_text(target):
        parts.append(why)
    return ", ".join(parts)


def drained_line(target: Document) -> str:
    """Of a host that was drained by hand: who, why, until when, and what ends it."""
    return one_line(f"Drained{manual_text(target['drained'])} (`reconciler host undrain` ends it)")


def _gpus_of_nodes(gpus: Document) -> str:
    if gpus["total"] is None:
        return "GPUs unknown"
    return f"{gpus['leased']} of {gpus['total']} GPUs requested" if gpus["total"] else "no GPU"


def _gpus_line(gpus: Document) -> str:
    """`1 of 2 GPUs (shared: 0.7), 3 of 7 mig-1g.10gb in use`."""
    kinds: dict[str, list[Document]] = {}
    for device in gpus["devices"]:
        kinds.setdefault(device["kind"], []).append(device)
    parts = []
    for kind, devices in sorted(kinds.items()):
        name = "GPUs" if kind == GPU else kind.rpartition("/")[2]
        held = [sum(lease["fraction"] for lease in device["leases"]) for device in devices]
        shared = ", ".join(f"{each:g}" for each in held if 0 < each < 1)
        text = f"{sum(map(bool, held))} of {len(held)} {name}"
        parts.append(f"{text} (shared: {shared} taken)" if shared else text)
    return f"{', '.join(parts)} in use" if parts else "no GPU"


def _status_row(service: Document) -> tuple[str, ...]:
    live = short(service["liveDigest"]) or "-"
    health = service["health"]["status"] + (" (suspended manually)" if service["suspended"] else "")
    step = service["step"]
    if service["suspended"]:
        step = f"suspended{manual_text(service.get('suspension'))}"
    now = "; ".join(filter(None, (one_line(step) or _why_idle(service), _canary(service))))
    return (full_name(service), service["sync"], health, service["ready"], str(service["gpus"]), live, now)


def _canary(service: Document) -> str:
    """`canary bbbbbbbb gets 20% of requests`, also while it waits for its share."""
    canary = service.get("canary")
    if not canary:
        return ""
    waits = "" if canary["percent"] == canary["desiredPercent"] else f", desired {canary['desiredPercent']}%"
    return f"canary {short(canary['digest'])} gets {canary['percent']}% of requests{waits}"


def _why_idle(service: Document) -> str:
    """Why no action is planned for it."""
    if service["problems"]:
        return one_line(f"kept unchanged: {written_at(service['problems'][0])} cannot be used")
    if service.get("kept"):
        return _why_kept(service["kept"])
    if not service["inGit"]:
        return "not in git"
    return one_line(f"not for this host: {service['health']['message']}") if is_elsewhere(service) else ""


def _why_kept(kept: Document) -> str:
    """A file that cannot be read is not one that was deleted, and a deletion may need approval."""
    if kept["code"] == ReasonCode.APPROVAL_REQUIRED:
        return "kept, its deletion needs approval"
    where = written_at(kept)
    return one_line(f"kept, cannot be read: {where}" if where else kept["message"])


def _requests(status: Document) -> Iterator[str]:
    for target in status["targets"]:
        for service in target["services"]:
            known = service.get("requests", {}).get("rollout", {})
            counts = {fate: known.get(fate, 0) for fate in ("drained", "lost", "refused")}
            if any(counts.values()):
                yield f"{full_name(service)}: " + ", ".join(f"{number} {fate}" for fate, number in counts.items())


def _warnings(status: Document) -> Iterator[str]:
    for target in status["targets"]:
        yield from (f"{target['name']}: {place(note)}" for note in target["notes"])
        yield from service_warnings(target)


def service_warnings(target: Document) -> Iterator[str]:
    """What may go wrong with its services, one line each."""
    for service in target["services"]:
        yield from (f"{full_name(service)}: {place(one)}" for one in service["warnings"])
        if service["fit"] and service["fit"]["tight"]:
            yield f"{full_name(service)}: memory: {service['fit']['line']}"


@dataclass(slots=True)
class Changes:
    """What changed since the last call, as lines of progress."""

    _seen: dict[str, str] = field(default_factory=dict)

    def since_last(self, status: Document) -> list[str]:
        """One line for each service, target or revision whose line changed."""
        now = dict(self._lines(status))
        if not status["daemon"]["passes"]:
            # A daemon that has just started has observed nothing yet: what it does not list may still exist.
            now = self._seen | now
        changed = [line for key, line in now.items() if self._seen.get(key) != line]
        changed += [f"{key}: removed" for key in self._seen if key not in now and "/" in key]
        self._seen = now
        return changed

    def _lines(self, status: Document) -> Iterator[tuple[str, str]]:
        yield "", revision_line(status)
        for target in status["targets"]:
            if not target["reachable"]:
                yield target["name"], _target_line(target)
        for target, service in services(status):
            what = (
                one_line(fault(service))
                if service["step"] == "" or service["suspended"]
                else f"{_state(service)}: {one_line(service['step'])}"
            )
            if is_under_way(service["stages"]):
                what = f"{what or _state(service)}; {stages_line(service['stages'], details=False)}"
            where = f"{target['name']} " if len(status["targets"]) > 1 else ""
            yield where + full_name(service), f"{where}{full_name(service)}: {what or _state(service)}"


def _state(service: Document) -> str:
    why = service["health"]["reason"]
    known = (
        f" ({why})"
        if service["health"]["status"] == HealthStatus.SUSPENDED
        and why in (ReasonCode.CORDONED, ReasonCode.DRAINED, ReasonCode.NOT_FOR_THIS_HOST)
        else ""
    )
    return f"{service['sync']}, {service['health']['status']}{known}"


# ---------------------------------------------------------------- validate


def review_blocks(review: Document) -> Iterator[Block]:
    """One line per finding, as compilers and editors write them, then the verdict."""
    kinds = (("error", "errors"), ("warning", "warnings"), ("not checked", "notChecked"))
    found = [(kind, one) for kind, key in kinds for one in review.get(key, ())]
    for kind, one in sorted(found, key=lambda pair: (pair[1]["file"], pair[1]["line"])):
        # An API server begins with the path by itself.
        where = f"{one['path']}: " if one["path"] and not one["message"].startswith(one["path"]) else ""
        yield one_line(f"{one['file']}:{one['line']}: {kind}: {where}{one['message']}")
    errors, warnings = counted(len(review["errors"]), "error"), counted(len(review["warnings"]), "warning")
    if unchecked := review.get("notChecked", ()):
        warnings += f"; not checked: {counted(len(unchecked), 'document')}"
    verdict = {True: "valid", False: "invalid", None: "not checked in full"}[review["valid"]]
    yield f"{verdict}: {errors}, {warnings}"


# ---------------------------------------------------------------- history


def approvals_table(deletions: Mapping[str, Document]) -> Table:
    """By target: what is held, and the approvals that are in force or withdrawn."""
    rows = []
    for name, found in deletions.items():
        if held := found["held"]:
            rows.append((name, held["hash"], "held", "-", "-", ", ".join(held["subjects"])))
        for one in found["approvals"]:
            state = "withdrawn" if one["withdrawn"] else "approved"
            who = one_line(f"{one['by']}: {one['reason']}" if one["reason"] else one["by"])
            rows.append((name, one["hash"], state, who, one["at"] or "-", ", ".join(one["subjects"])))
    return Table(("TARGET", "HASH", "STATE", "BY", "AT", "DELETES"), rows)


def history_table(entries: Sequence[Document]) -> Table:
    """Oldest first, as a log is read."""
    rows = [
        (
            one["at"],
            one["target"] or "-",
            one["service"] or "-",
            one["event"],
            short(one["revision"]),
            one_line(one["message"]),
        )
        for one in entries
    ]
    return Table(("AT", "TARGET", "SERVICE", "EVENT", "REVISION", "MESSAGE"), rows)
