"""What became of a revision: the commit, and on each target its plan, its differences and its results. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from reconciler.forge.messages import CommentSection, CommitStatus
from reconciler.model import Outcome, Quarantine, Result
from reconciler.page.links import ForgeLinks
from reconciler.page.outcomes import TargetOutcome, outcomes, refusal
from reconciler.report.actions import action_name, services_of, short, subject_of
from reconciler.report.addresses import anchor, service_address
from reconciler.report.convergence import full_name, object_fault, object_name, services, split_place, unknown_because
from reconciler.report.planned import PlannedChange
from reconciler.report.redact import scrub_text
from reconciler.report.status import Document
from reconciler.report.status_parts import rejected_document
from reconciler.source.commits import Commit, CommitLine

SCHEMA = "reconciler.page.change/v1"
MOST_ENTRIES = 500
"""So many entries of the history are shown of one revision, the latest."""
MOST_SERVICES = 100
"""So many services that change are shown of one target; the Overview has all."""
_MOST_OBJECTS, _MOST_RESULTS, _MOST_FINDINGS = 200, 100, 100
_MOST_REJECTED, _MOST_WORDS, _LONGEST_WORDS = 50, 60, 2_000
_ORDER = (
    PlannedChange.REJECTED,
    PlannedChange.BLOCKED,
    PlannedChange.KEEP,
    PlannedChange.DELETE,
    PlannedChange.CHANGE,
    PlannedChange.CREATE,
    PlannedChange.WAIT,
    PlannedChange.SUSPENDED,
)
_QUIET = (PlannedChange.NONE, PlannedChange.ELSEWHERE)


@dataclass(frozen=True, slots=True)
class ChangeFacts:
    """All that is known of a revision. `plan` and `results` are of the targets that look at it now, as the desired one.

    `commit` is None where our copy of the repository does not have it, `commit_error` why it cannot be read now.
    `entries`: the latest of its history; `deciding`: all those that decide what became of it. `said`: what others were
    told. `sections`: what its pull request was told.
    """

    revision: str
    status: Document
    plan: Document
    results: Mapping[str, Sequence[Result]] = field(default_factory=dict)
    commit: Commit | None = None
    commit_error: str = ""
    entries: Sequence[Document] = ()
    deciding: Sequence[Document] = ()
    quarantines: Sequence[tuple[str, Quarantine]] = ()
    successor: str = ""
    said: Sequence[CommitStatus] = ()
    sections: Sequence[CommentSection] = ()


def change_document(facts: ChangeFacts, links: ForgeLinks) -> Document:
    """What the page of a revision shows."""
    revision = facts.revision
    rejected = _rejected(facts)
    known = {one.target: one for one in outcomes(facts.status, [revision], facts.deciding, rejected)[revision]}
    planned = {one["name"]: one for one in facts.plan["targets"]}
    targets = [
        _target(name, known.get(name), planned.get(name), facts, links)
        for name in dict.fromkeys((*planned, *known))
        if name
    ]
    taken = _anchors(targets)
    return {
        "schema": SCHEMA,
        "revision": revision,
        "isDesired": facts.status["revision"]["desired"] == revision,
        "isProposed": not (facts.entries or known or planned) and bool(facts.said or facts.sections),
        "forge": links.commit(revision),
        "commit": _commit(facts.commit, links) if facts.commit else None,
        "commitError": scrub_text(facts.commit_error),
        "signer": _signer(facts),
        "refusal": refusal(facts.status, revision, facts.deciding),
        "supersededBy": facts.successor,
        "targets": targets,
        "waiting": _waiting(facts.status, revision, planned),
        "rejected": [_with_address(one, revision, links, taken) for one in rejected[:_MOST_REJECTED]],
        "moreRejected": max(0, len(rejected) - _MOST_REJECTED),
        "said": [
            {"context": one.context, "state": one.state.value, "description": scrub_text(one.description)}
            for one in facts.said
        ],
        "sections": [
            {"pullRequest": one.pull_request, "target": one.target, "text": scrub_text(one.text)}
            for one in facts.sections
        ],
        "history": list(facts.entries)[-MOST_ENTRIES:],
        "historyIsCut": len(facts.entries) >= MOST_ENTRIES,
    }


def _waiting(status: Document, revision: str, planned: Collection[str]) -> list[Document]:
    """Targets that are to follow this revision, and have not looked at it yet; `reason` is why, where it is known."""
    if status["revision"]["desired"] != revision:
        return []
    return [
        {"name": one["name"], "reason": "" if one["reachable"] or not one["observedAt"] else unknown_because(one)}
        for one in status["targets"]
        if one["name"] not in planned
    ]


def _commit(commit: Commit, links: ForgeLinks) -> Document:
    return {
        "subject": scrub_text(commit.subject),
        "body": scrub_text(commit.body),
        "author": asdict(commit.author),
        "committer": asdict(commit.committer),
        "parents": list(commit.parents),
        "files": [asdict(one) | {"forge": links.line(commit.revision, one.path)} for one in commit.files],
        "fileCount": commit.file_count,
    }


def _signer(facts: ChangeFacts) -> str:
    """`NAME (FINGERPRINT)`; empty where signatures are not verified."""
    if facts.status["revision"]["desired"] == facts.revision and (signer := facts.status["revision"].get("signer")):
        return f"{signer['name']} ({signer['fingerprint']})"
    told = [one["message"] for one in facts.entries if one["event"] == "revision_verified"]
    return told[-1].removeprefix("signed by ") if told else ""


def _rejected(facts: ChangeFacts) -> list[Document]:
    """Each with its target and service: of the history, and what a cluster's objects remember."""
    found = [
        # What the engine said is scrubbed where it is shown: it may be much.
        {"target": name, "service": str(one.service)}
        | rejected_document(replace(one, last_words=()))
        | {"logTail": one.last_words}
        for name, one in facts.quarantines
        if one.revision == facts.revision
    ]
    for target, service in services(facts.status):
        if service["rejected"] and service["rejected"]["revision"] == facts.revision:
            found.append({"target": target["name"], "service": full_name(service)} | service["rejected"])
    return list({(one["target"], one["service"], one["digest"]): one for one in found}.values())


def _anchors(targets: Iterable[Document]) -> set[str]:
    return {service["anchor"] for one in targets if one["plan"] for service in one["plan"]["services"]}


def _with_address(one: Document, revision: str, links: ForgeLinks, taken: Collection[str]) -> Document:
    """`anchor` is empty where the service stands on the page already."""
    mine = anchor(f"{one['target']}/{one['service']}")
    return one | {
        "anchor": "" if mine in taken else mine,
        "page": service_address(one["target"], *one["service"].split("/")),
        "forge": links.line(revision, one["file"], one["line"]),
        "logTail": [scrub_text(line[: 2 * _LONGEST_WORDS])[:_LONGEST_WORDS] for line in one["logTail"][-_MOST_WORDS:]],
    }


# ---------------------------------------------------------------- one target


def _target(
    name: str, outcome: TargetOutcome | None, planned: Document | None, facts: ChangeFacts, links: ForgeLinks
) -> Document:
    of_status = next((one for one in facts.status["targets"] if one["name"] == name), None)
    document: Document = {
        "name": name,
        "anchor": anchor(name),
        "outcome": asdict(outcome) if outcome else None,
        "plan": None,
    }
    if planned is None or of_status is None:
        return document
    return document | {
        "plan": _plan(planned, facts.revision, links),
        "results": [_result(one) for one in facts.results.get(name, ())[:_MOST_RESULTS]],
        "lastFailure": of_status["lastFailure"],
    }


def _plan(target: Document, revision: str, links: ForgeLinks) -> Document:
    moving = sorted(
        (one for one in target["services"] if one["change"] not in _QUIET),
        key=lambda one: (_ORDER.index(one["change"]), full_name(one)),
    )
    objects, findings = target["objects"], list(_findings(target, revision, links))
    return {
        "kind": target["kind"],
        "reachable": target["reachable"],
        "reason": target["reason"],
        "findings": findings[:_MOST_FINDINGS],
        "moreFindings": max(0, len(findings) - _MOST_FINDINGS),
        "deletions": target["deletions"]["held"],
        "unchanged": len(target["services"]) - len(moving),
        "services": [_service(one, target["name"], revision, links) for one in moving[:MOST_SERVICES]],
        "moreServices": max(0, len(moving) - MOST_SERVICES),
        "objects": [_object(one, revision, links) for one in objects[:_MOST_OBJECTS]],
        "moreObjects": max(0, len(objects) - _MOST_OBJECTS),
        "actions": [one for one in target["actions"] if not one["services"]],
    }


def _findings(target: Document, revision: str, links: ForgeLinks) -> Iterator[Document]:
    for kind, key in (("error", "unreadable"), ("refused", "refused"), ("note", "notes")):
        for one in target[key]:
            yield {"kind": kind, **_placed(one, revision, links)}


def _placed(reason: Document, revision: str, links: ForgeLinks) -> Document:
    return reason | {"forge": links.line(revision, reason["file"], reason["line"])}


def _service(one: Document, target: str, revision: str, links: ForgeLinks) -> Document:
    why = [*one["problems"], *one["blocked"], *([one["kept"]] if one["kept"] else [])]
    file, line = split_place(one["origin"])
    return {
        "namespace": one["namespace"],
        "name": one["name"],
        "anchor": anchor(f"{target}/{full_name(one)}"),
        "page": service_address(target, one["namespace"], one["name"]),
        "change": one["change"],
        "headline": scrub_text(one["headline"]),
        "health": one["health"],
        "digest": one["digest"],
        "liveDigest": one["liveDigest"],
        "file": file,
        "line": line,
        "forge": links.line(revision, file, line),
        "actions": one["actions"],
        "differences": [_placed(each, revision, links) for each in one["differences"]],
        "reasons": [_placed(each, revision, links) for each in why],
        "warnings": [_placed(each, revision, links) for each in one["warnings"]],
    }


def _object(one: Document, revision: str, links: ForgeLinks) -> Document:
    file, line = split_place(one["origin"])
    return {
        "object": object_name(one),
        "service": one["service"],
        "change": one["change"],
        "why": one["why"],
        "fault": object_fault(one),
        "file": file,
        "line": line,
        "forge": links.line(revision, file, line),
        "differences": one["differences"],
        "reasons": [_placed(each, revision, links) for each in one["reasons"]],
    }


def _result(one: Result) -> Document:
    return {
        "action": action_name(one.action),
        "subject": scrub_text(subject_of(one.action)),
        "services": [str(each) for each in services_of(one.action)],
        "reason": scrub_text(one.action.reason),
        "outcome": one.outcome.value,
        "failed": one.outcome is Outcome.FAILED,
        "error": scrub_text(one.error),
    }


# ---------------------------------------------------------------- the list of revisions

CHANGES_SCHEMA = "reconciler.page.changes/v1"


@dataclass(frozen=True, slots=True)
class ChangesFacts:
    """Some of the revisions that this daemon has seen, the latest first, each with its place and when it came.

    `entries` are those of the history that decide what became of them; `older` is the place from which older ones
    follow, None where there are none.
    """

    status: Document
    revisions: Sequence[Mapping[str, str]]
    entries: Sequence[Document]
    rejected: Sequence[Document]
    lines: Mapping[str, CommitLine]
    older: int | None = None
    is_first: bool = True


def changes_document(facts: ChangesFacts, links: ForgeLinks) -> Document:
    """What the list of revisions shows."""
    names = [one["revision"] for one in facts.revisions]
    found = outcomes(facts.status, names, facts.entries, facts.rejected)
    return {
        "schema": CHANGES_SCHEMA,
        "revisions": [_row(one, found[one["revision"]], facts, links) for one in facts.revisions],
        "older": facts.older,
        "isFirst": facts.is_first,
        "error": facts.status["revision"]["error"],
    }


def _row(one: Mapping[str, str], found: Iterable[TargetOutcome], facts: ChangesFacts, links: ForgeLinks) -> Document:
    revision = one["revision"]
    line = facts.lines.get(revision)
    current = facts.status["revision"]
    subject = line.subject if line else current["subject"] if current["desired"] == revision else ""
    return {
        "revision": revision,
        "short": short(revision),
        "forge": links.commit(revision),
        "subject": scrub_text(subject),
        "author": line.author if line else "",
        "committedAt": line.at if line else None,
        "firstSeenAt": one["firstAt"],
        "isDesired": current["desired"] == revision,
        "outcomes": [asdict(each) for each in found],
    }
