"""What became of revisions on each target, in one word and a sentence. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reconciler.model.names import listed
from reconciler.report.history import FETCHED
from reconciler.report.status import Document

EVENTS = (FETCHED, "applied", "digest_quarantined", "rejected", "revision_refused")
"""The kinds of entries of the history that decide it."""
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class TargetOutcome:
    """`word` is what people read first, with the colour of `kind`; `text` may be empty. Of a revision that is refused
    as a whole, `target` is empty."""

    target: str
    kind: Literal["good", "busy", "bad", "held", "unknown"]
    word: str
    text: str = ""


def outcomes(
    status: Document, revisions: Collection[str], entries: Iterable[Document], rejected: Iterable[Document]
) -> Mapping[str, tuple[TargetOutcome, ...]]:
    """By revision. `entries` and `rejected` may be about others as well."""
    by_revision: dict[str, list[Document]] = {one: [] for one in revisions}
    for entry in entries:
        if entry["revision"] in by_revision and entry["event"] in EVENTS:
            by_revision[entry["revision"]].append(entry)
    failed: dict[str, list[Document]] = {}
    for one in rejected:
        failed.setdefault(one["revision"], []).append(one)
    return {
        revision: tuple(_of_revision(status, revision, found, failed.get(revision, ())))
        for revision, found in by_revision.items()
    }


def refusal(status: Document, revision: str, entries: Iterable[Document]) -> str:
    """Why a revision is not accepted as a whole; empty where it was."""
    refused = status["revision"].get("refused")
    if refused and refused["revision"] == revision:
        return str(refused["reason"])
    told = [one for one in entries if one["revision"] == revision and one["event"] in ("revision_refused", FETCHED)]
    # What was refused once may have been accepted since: signed by whom the config trusts now.
    is_accepted = status["revision"]["desired"] == revision or any(one["event"] == FETCHED for one in told)
    return str(told[-1]["message"]) if told and not is_accepted else ""


def _of_revision(
    status: Document, revision: str, entries: Sequence[Document], rejected: Sequence[Document]
) -> Iterable[TargetOutcome]:
    if why := refusal(status, revision, entries):
        yield TargetOutcome("", "bad", "refused", why)
        return
    targets = {target["name"]: target for target in status["targets"]}
    failed: dict[str, set[str]] = {}
    for one in (*rejected, *(one for one in entries if one["event"] in ("digest_quarantined", "rejected"))):
        failed.setdefault(one["target"], set()).add(one["service"])
    looked = {one["target"] for one in entries if one["event"] != "revision_refused"}
    current = {name for name, one in targets.items() if one["revision"]["desired"] == revision}
    applied = {one["target"] for one in entries if one["event"] == "applied"}
    for name in sorted(looked | current | failed.keys()):
        bad = sorted(failed.get(name, ()))
        if name in current:
            yield _now(name, targets[name], bad)
        else:
            yield _then(name, name in applied, bad)


def _now(name: str, target: Document, rejected: Sequence[str]) -> TargetOutcome:
    if not target["reachable"]:
        return TargetOutcome(name, "unknown", "unknown", target["passError"] or target["reason"])
    if rejected:
        return TargetOutcome(name, "bad", f"{len(rejected)} rejected", listed(rejected, _MOST_NAMED))
    revision = target["revision"]
    if revision["fullyApplied"]:
        return TargetOutcome(name, "good", "applied")
    held = [one["service"] or one["message"] for one in revision["heldUpBy"]]
    if revision["applied"] == revision["desired"]:
        text = f"held up: {listed(held, _MOST_NAMED)}" if held else ""
        return TargetOutcome(name, "held" if held else "good", "applied where possible" if held else "applied", text)
    if target["suspended"]:
        return TargetOutcome(name, "held", "suspended")
    return TargetOutcome(name, "busy", "being applied")


def _then(name: str, is_applied: bool, rejected: Sequence[str]) -> TargetOutcome:
    if rejected:
        return TargetOutcome(name, "bad", f"{len(rejected)} rejected", listed(rejected, _MOST_NAMED))
    if is_applied:
        return TargetOutcome(name, "good", "applied")
    return TargetOutcome(name, "held", "superseded", "another revision came before it was applied")
