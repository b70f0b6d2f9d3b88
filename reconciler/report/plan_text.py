"""A plan's document as readable text: what changes of each service and object, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reconciler.model import ObjectChange
from reconciler.model.names import counted
from reconciler.report.actions import short
from reconciler.report.convergence import full_name, object_name, place
from reconciler.report.planned import PlannedChange
from reconciler.report.redact import one_line
from reconciler.report.status import Document
from reconciler.report.text import Block, drained_line, service_warnings

_MARKS: Mapping[str, str] = {
    PlannedChange.CREATE: "+",
    PlannedChange.CHANGE: "~",
    PlannedChange.DELETE: "-",
    PlannedChange.WAIT: "…",
    PlannedChange.BLOCKED: "!",
    PlannedChange.REJECTED: "!",
    PlannedChange.KEEP: "!",
}
_OBJECT_MARKS: Mapping[str, str] = {
    ObjectChange.CREATE: "+",
    ObjectChange.CHANGE: "~",
    ObjectChange.REPAIR: "~",
    ObjectChange.TAKE_OVER: ">",
    ObjectChange.DELETE: "-",
    ObjectChange.WAIT: "…",
}


def plan_blocks(plan: Document) -> Iterator[Block]:
    """Per changed service one headline and its next steps; then all warnings."""
    for target in plan["targets"]:
        yield f"{target['name']} at {short(target['revision']['desired']) or 'no revision'}"
        if not target["reachable"]:
            yield f"  unreachable: {one_line(target['reason'])}; nothing is planned"
        notes = (*target["unreadable"], *target["refused"], *target["notes"], *filter(None, [target["cordoned"]]))
        yield from (f"  ! {one_line(place(one))}" for one in notes)
        if target["drained"]:
            yield f"  ! {drained_line(target)}"
        if target["kind"] == "host":
            yield from (f"  * {_action_line(one)}" for one in target["actions"] if not one["services"])
        for one in target["objects"]:
            yield from object_lines(one)
        for service in target["services"]:
            yield from _plan_lines(service)
    if warnings := [line for target in plan["targets"] for line in service_warnings(target)]:
        yield ""
        yield "Warnings:"
        yield from (f"  {one_line(one)}" for one in warnings)
        yield ""
    yield _count_line(plan["counts"], drained=any(target["drained"] for target in plan["targets"]))


def _plan_lines(service: Document) -> Iterator[str]:
    mark = _MARKS.get(service["change"])
    if mark is None:
        return
    # Several reasons are easier to read one per line.
    several = service["blocked"] if service["change"] == PlannedChange.BLOCKED and len(service["blocked"]) > 1 else []
    headline = f"Blocked for {len(several)} reasons" if several else service["headline"]
    yield f"  {mark} {full_name(service)} ({service['origin']}): {one_line(headline)}"
    yield from (f"      {one_line(place(one))}" for one in several)
    if service["fit"]:
        yield f"      memory: {one_line(service['fit']['line'])}"
    if service["change"] == PlannedChange.REJECTED and service["liveDigest"]:
        yield f"      live: {short(service['liveDigest'])}"
    yield from (f"      {_action_line(action)}" for action in service["actions"])


def object_lines(one: Document) -> Iterator[str]:
    """One object of a cluster, why it changes, and how."""
    origin = f" ({one['origin']})" if one["origin"] else ""
    yield one_line(f"  {_OBJECT_MARKS.get(one['change'], '!')} {object_name(one)}{origin}: {one['why']}")
    yield from (f"      {one_line(place(reason))}" for reason in one["reasons"])
    yield from (f"      {one_line(line)}" for line in one["differences"])


def _action_line(action: Document) -> str:
    return one_line(f"{action['action'].replace('_', ' ')} {action['subject']}: {action['reason']}")


def _count_line(counts: Document, *, drained: bool) -> str:
    parts = [f"{counts[change]} {change}" for change in _MARKS if counts[change]]
    others = f"{counts['elsewhere']} not for this host" if counts["elsewhere"] else ""
    if not parts and not counts["actions"]:
        objects = f" and {counted(counts['objects'], 'other object')}" if counts["objects"] else ""
        text = f"Nothing to do: {counted(counts['services'] - counts['elsewhere'], 'service')}{objects} in sync"
        text = "Nothing to do while the host is drained manually" if drained else text
        return ", ".join(filter(None, (text, others))) + "."
    parts += filter(None, (f"{counts['unchanged']} unchanged", others))
    return f"{counted(counts['actions'], 'action')}; {', '.join(parts)}"
