"""The plan of a pull request's revision → what its comment and its commit status say of one target. Pure.

Who can push controls names and messages. All of that stands in code spans, where no forge sees a link, a mention, an
image or HTML. Nothing here changes while the plan stays the same, so that nothing is posted again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from reconciler.forge.messages import MOST_DESCRIPTION, CommentSection, CommitState, CommitStatus
from reconciler.model import ObjectChange
from reconciler.model.names import listed
from reconciler.report.actions import short
from reconciler.report.addresses import change_url
from reconciler.report.convergence import full_name, manual_text, object_name, place
from reconciler.report.planned import FAULTS, PlannedChange
from reconciler.report.redact import one_line, scrub_text
from reconciler.report.status import Document

_MOST_ROWS = 50
_MOST_LINES = 20
_MOST_CHANGES = 4
_LONGEST = 300
# More than any comment takes, where it is cut at a line's end; and little enough for the outbox.
_MOST_TEXT = 40_000
_LONGEST_NAME = 140
_QUIET = (PlannedChange.NONE, PlannedChange.ELSEWHERE, PlannedChange.SUSPENDED)
_ORDER = (*FAULTS, PlannedChange.DELETE, PlannedChange.CHANGE, PlannedChange.CREATE, PlannedChange.WAIT)
_RESTART, _NO_RESTART = "restart", "change without a restart"
_WORDS = {
    PlannedChange.CREATE: "start",
    PlannedChange.DELETE: "drained and stopped",
    PlannedChange.WAIT: "waiting",
    PlannedChange.BLOCKED: "blocked",
    PlannedChange.REJECTED: "rejected",
    PlannedChange.KEEP: "kept as it is",
}
_REJECTED = re.compile(r"rejected [0-9a-f]{8}: ")
_OBJECT_WORDS = {
    ObjectChange.CREATE: "created",
    ObjectChange.CHANGE: "changed",
    ObjectChange.REPAIR: "changed",
    ObjectChange.TAKE_OVER: "taken over",
    ObjectChange.DELETE: "deleted",
    ObjectChange.WAIT: "waiting",
    ObjectChange.KEEP: "kept as it is",
    ObjectChange.NONE: "unchanged",
}


def plan_context(target: str) -> str:
    """The context of a plan's commit status."""
    return f"reconciler/{target}/plan"


def is_concerned(target: Document) -> bool:
    """Does the plan change something here, or is something refused, or the state unknown?"""
    return bool(
        not target["reachable"]
        or target["unreadable"]
        or target["refused"]
        or target["objects"]
        or any(one["change"] not in _QUIET for one in target["services"])
    )


def plan_section(target: Document, pull_request: int, *, only_concerned: bool = False) -> CommentSection:
    """What the comment says of a target. With `only_concerned`, nothing where nothing changes."""
    if only_concerned and target["reachable"] and not is_concerned(target):
        return CommentSection(pull_request, target["name"], "")
    blocks = ["\n".join(block) for block in _blocks(target) if block]
    return CommentSection(pull_request, target["name"], "\n\n".join(blocks)[:_MOST_TEXT])


def plan_status(target: Document, url: str = "") -> CommitStatus:
    """The same in one line."""
    state = CommitState.SUCCESS
    if not target["reachable"]:
        state = CommitState.ERROR
    elif _faults(target):
        state = CommitState.FAILURE
    revision, name = target["revision"]["desired"], target["name"]
    page = change_url(url, revision, name)
    return CommitStatus(revision, plan_context(name), state, _description(target), page)


def failed_plan(revision: str, name: str, pull_request: int, why: str) -> tuple[CommitStatus, CommentSection]:
    """For a revision that cannot be planned: it is not understood, or too large, or git does not give it."""
    why = one_line(scrub_text(why))
    status = CommitStatus(revision, plan_context(name), CommitState.ERROR, cut(f"no plan: {why}", MOST_DESCRIPTION))
    text = f"#### {code(name)}: no plan\n\nWhat would change is **unknown**: {code(why, 1000)}"
    return status, CommentSection(pull_request, name, f"{text}\n\n{_about(revision)}")


# ---------------------------------------------------------------- text of others


def code(text: object, longest: int = _LONGEST) -> str:
    """Foreign text where no Markdown works: a code span, on one line, that nothing in it can end."""
    line = one_line(scrub_text(str(text)))
    # Line ends that only some renderers know; a tick ends a span, and a bar a table's cell even in a span.
    line = " ".join(line.replace("`", "'").replace("|", "¦").split())
    return f"`{cut(line, longest) or '-'}`"


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


# ---------------------------------------------------------------- the section


def _blocks(target: Document) -> Iterator[Sequence[str]]:
    yield [f"#### {code(target['name'])}: {_title(target)}"]
    if not target["reachable"]:
        yield [f"What would change is **unknown**: the target cannot be observed: {code(target['reason'])}"]
        yield [_about(target["revision"]["desired"])]
        return
    yield _services_table(target)
    yield _objects(target)
    yield [line for line in (_gpus(target), _downtime(target)) if line]
    yield _list("Faults", map(code, _faults(target)))
    yield _list("Deletions that a person must approve", _deletions(target))
    yield _list("Notes", map(code, _notes(target)))
    yield _unasked(target)
    yield [_about(target["revision"]["desired"])]


def is_plan_of(section: CommentSection, revision: str) -> bool:
    """Is it about this head of the pull request? Another may have been pushed since."""
    return _about(revision) in section.text


def _about(revision: str) -> str:
    return f"Plan of `{short(revision)}` against what is there now. Nothing was changed."


def _title(target: Document) -> str:
    if not target["reachable"]:
        return "unknown"
    parts = [_counted(number, word) for word, number in _counts(target).items()]
    unread = len(target["unreadable"]) + len(target["refused"])
    parts += [f"{unread} not usable"] if unread else []
    return ", ".join(parts) or "no change"


def _counted(number: int, word: str) -> str:
    """`2 objects changed`, `2 restarts`; what is said of services in a participle has no plural."""
    if number > 1 and word.startswith("object "):
        word = word.replace("object ", "objects ", 1)
    elif number > 1 and word in (_RESTART, _WORDS[PlannedChange.CREATE]):
        word += "s"
    return f"{number} {word}"


def _counts(target: Document) -> Counter[str]:
    """How many services, and other objects, of what happens; what is most urgent first."""
    found = Counter[str]()
    for service in _by_urgency(target):
        found[happens(service).partition(",")[0]] += 1
    for one in target["objects"]:
        if one["service"] is None:
            found[f"object {_object_word(one)}"] += 1
    quiet = sum(service["change"] in (PlannedChange.NONE, PlannedChange.SUSPENDED) for service in target["services"])
    found["unchanged"] = quiet if found else 0
    return +found


def _by_urgency(target: Document) -> list[Document]:
    changed = [service for service in target["services"] if service["change"] not in _QUIET]
    return sorted(changed, key=lambda one: (_ORDER.index(one["change"]), full_name(one)))


def happens(service: Document) -> str:
    """What becomes of a service, in our own words: `restart, stop-first`."""
    change = service["change"]
    if change != PlannedChange.CHANGE:
        return _WORDS[change]
    if not _restarts(service):
        return _NO_RESTART
    strategy = service["strategy"].partition(":")[0].partition(" ")[0].rstrip(",")
    known = strategy if strategy in ("surge", "stop-first", "Recreate", "RollingUpdate") else ""
    return f"{_RESTART}, {known}" if known else _RESTART


def _restarts(service: Document) -> bool:
    is_new = bool(service["digest"] and service["liveDigest"] and service["digest"] != service["liveDigest"])
    is_relabelled = any(action["action"] == "relabel" for action in service["actions"])
    return (is_new and not is_relabelled) or bool(service["strategy"] or service["outdated"])


def _services_table(target: Document) -> Sequence[str]:
    changed = _by_urgency(target)
    rows = [
        f"| {code(full_name(one), _LONGEST_NAME)} | {happens(one)} | {_why(one)} | {_amount(one['gpus'])} |"
        for one in changed[:_MOST_ROWS]
    ]
    if not rows:
        return ()
    more = [f"| … and {len(changed) - _MOST_ROWS} more | | | |"] if len(changed) > _MOST_ROWS else []
    return ("| Service | What happens | Why | GPUs |", "|---|---|---|---|", *rows, *more)


def _amount(gpus: Document) -> str:
    now, then = gpus["now"], gpus["then"]
    return f"{now:g}" if now == then else f"{now:g} → {then:g}"


def _why(service: Document) -> str:
    """The fields that differ with their lines, else what the plan says."""
    if service["change"] in FAULTS:
        return code(_fault(service))
    found = service["differences"]
    parts = [code(_difference(one)) for one in found[:_MOST_CHANGES]]
    if len(found) > _MOST_CHANGES:
        parts.append(f"… and {len(found) - _MOST_CHANGES} more")
    if not parts:
        where = f" ({service['origin']})" if service["origin"] else ""
        parts = [code(f"{service['headline']}{where}")]
    return "<br>".join(parts)


def _difference(one: Document) -> str:
    where = f" ({one['file']}:{one['line']})" if one["file"] else ""
    name = " ".join(one["path"][1:] or one["path"])
    return f"{name}: {_value(name, one['before'])} → {_value(name, one['after'])}{where}"


def _value(name: str, value: object) -> str:
    if name == "memory" and isinstance(value, int):
        return f"{value / (1 << 20):g}Mi"
    return cut("none" if value is None else str(value), 80)


def _objects(target: Document) -> Sequence[str]:
    """Of a cluster, what is applied and deleted."""
    if not target["objects"]:
        return ()
    return _list("Objects", map(_object, target["objects"]))


def _object_word(one: Document) -> str:
    return "refused" if one["reasons"] else _OBJECT_WORDS[one["change"]]


def _object(one: Document) -> str:
    where = f" ({one['origin']})" if one["origin"] else ""
    what = one["differences"][:_MOST_CHANGES] or [one["why"]]
    return f"{_object_word(one)}: {code(object_name(one) + where)}: {'; '.join(map(code, what))}"


def _gpus(target: Document) -> str:
    """`GPUs: 4 → 6 of 8, then 2 free`."""
    now, then = (sum(one["gpus"][key] for one in target["services"]) for key in ("now", "then"))
    total, leased = target["gpus"]["total"], target["gpus"]["leased"]
    if not (total or now or then):
        return ""
    amount = f"{now:g} → {then:g}" if now != then else f"{now:g}, as now"
    if total is None:
        return f"**GPUs**: {amount}; how many are free is unknown"
    free = total - (leased or 0) - (then - now)
    left = f"{free:g} free then" if free >= 0 else f"{-free:g} more than there are"
    return f"**GPUs**: {amount}, of {total}; {left}"


def _downtime(target: Document) -> str:
    """In words, from what the plan knows of each restart."""
    found = [one for one in _by_urgency(target) if happens(one).startswith(_RESTART)]
    if not found:
        return ""
    hurt = [one for one in found if happens(one) != f"{_RESTART}, surge"]
    if not hurt:
        return "**Downtime**: none; each new version is ready before the old one goes"
    parts = [f"{code(full_name(one), _LONGEST_NAME)}: {_outage(one)}" for one in hurt[:_MOST_LINES]]
    if len(hurt) > _MOST_LINES:
        parts.append(f"… and {len(hurt) - _MOST_LINES} more")
    return "**Downtime**: " + "; ".join(parts)


def _outage(service: Document) -> str:
    if not service["strategy"]:
        return "until the new one is ready, if old and new have no room at once"
    if happens(service) == f"{_RESTART}, stop-first":
        price = service["strategy"].rpartition("; ")[2]
        return code(price.replace("an unknown time while it starts", "until the new one is ready"))
    return code(service["strategy"])


def _faults(target: Document) -> list[str]:
    """What git asks for and does not get, each with its line."""
    found = [place(one) for one in (*target["unreadable"], *target["refused"])]
    for service in _by_urgency(target):
        if service["change"] in FAULTS:
            found.append(f"{full_name(service)}: {_fault(service)}")
    for one in target["objects"]:
        found += [f"{object_name(one)}: {place(reason)}" for reason in one["reasons"]]
    return list(dict.fromkeys(found))


def _fault(service: Document) -> str:
    """Why it does not happen; the table says already that it is rejected, and nobody knows the digest yet."""
    return _REJECTED.sub("", service["headline"])


def _deletions(target: Document) -> list[str]:
    held = target["deletions"]["held"]
    if not held:
        return []
    lines = [code(subject) for subject in held["subjects"]]
    gpus = f" ({held['gpus']:g} GPUs)" if held["gpus"] else ""
    return [f"{code(reason)}{gpus}" for reason in held["reasons"]] + lines


def _notes(target: Document) -> list[str]:
    found = [place(one) for one in filter(None, (*target["notes"], target["cordoned"]))]
    found += [f"the host is drained{manual_text(target['drained'])}"] if target["drained"] else []
    found += ["suspended: nothing is changed here until it is resumed"] if target["suspended"] else []
    for service in target["services"]:
        found += [f"{full_name(service)}: {place(one)}" for one in service["warnings"]]
        if service["fit"] and (service["fit"]["tight"] or service["fit"]["fits"] is False):
            found.append(f"{full_name(service)}: memory: {service['fit']['line']}")
    return list(dict.fromkeys(found))


def _unasked(target: Document) -> Sequence[str]:
    """What only the push will tell."""
    asking = {name for one in target["actions"] if one["action"] == "ask_preflight" for name in one["services"]}
    if not asking:
        return ()
    shown = listed([code(name, _LONGEST_NAME) for name in sorted(asking)], _MOST_LINES)
    return (f"The engine checks the arguments of {shown} only when this is merged.",)


def _list(title: str, lines: Iterable[str]) -> Sequence[str]:
    found = list(lines)
    if not found:
        return ()
    more = [f"- … and {len(found) - _MOST_LINES} more"] if len(found) > _MOST_LINES else []
    return (f"**{title}**", "", *(f"- {line}" for line in found[:_MOST_LINES]), *more)


# ---------------------------------------------------------------- the status


def _description(target: Document) -> str:
    if not target["reachable"]:
        return cut(f"unknown: {one_line(scrub_text(target['reason']))}", MOST_DESCRIPTION)
    faults = _faults(target)
    text = _title(target)
    if faults:
        return cut(f"{text}: {one_line(scrub_text(faults[0]))}", MOST_DESCRIPTION)
    gpus = _gpus(target).replace("**", "")
    return cut(f"{text}; {gpus}" if gpus and "→" in gpus else text, MOST_DESCRIPTION)
