"""What the pages of changes show, as documents."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.model import (
    NO_ORIGIN,
    Health,
    HealthStatus,
    ObjectChange,
    ObjectId,
    ObjectPlan,
    Origin,
    Reason,
    ReasonCode,
    ServiceId,
    Sync,
    Unreachable,
)
from reconciler.page.change import ChangeFacts, ChangesFacts, change_document, changes_document
from reconciler.page.links import ForgeLinks
from reconciler.page.outcomes import EVENTS, outcomes
from reconciler.page.rendering import render
from reconciler.report.history import FETCHED
from reconciler.report.planned import plan_document
from reconciler.report.status import Document, RefusedRevision, RevisionInfo, TargetReport
from reconciler.source.commits import CommitLine
from tests.support.report_world import (
    REVISION,
    cluster,
    desired,
    observed,
    planned,
    rejection,
    replica,
    report,
    state,
    status_of,
    verdict,
)

OTHER = "c" * 40
LATE = Health(HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "starting", NO_ORIGIN))


def facts(one: TargetReport, **more: Any) -> ChangeFacts:
    status = status_of(one)
    plans = [(one.desired, one.observed, one.plan)] if one.desired and one.observed and one.plan else []
    return ChangeFacts(REVISION, status, plan_document(status, plans), **more)


def entry(event: str, revision: str = REVISION, target: str = "a", service: str = "") -> Document:
    at = "2026-11-30T08:00:00.000Z"
    return {"at": at, "target": target, "revision": revision, "service": service, "event": event, "message": "why"}


def shown(document: Document, page: str = "change") -> str:
    known = {"visitor": None, "visitor_part": "", "attention": None, "here": "/changes", "host": "h", "version": "1"}
    return render(page, document=document, now=2e9, **known)


def words(revision: str, status: Document, *entries: Document, rejected: Any = ()) -> list[tuple[str, str]]:
    return [(one.target, one.word) for one in outcomes(status, [revision], entries, rejected)[revision]]


def test_objects_of_a_cluster_are_shown_with_their_differences() -> None:
    edited = ObjectPlan(
        ObjectId("", "ConfigMap", "team", "settings"),
        Sync.OUT_OF_SYNC,
        LATE,
        ObjectChange.REPAIR,
        origin=Origin("a.yaml", 3),
        why="somebody edited it",
        lines=("data.a: 1 → 2",),
    )
    document = change_document(facts(cluster(edited)), ForgeLinks())
    (one,) = document["targets"][0]["plan"]["objects"]
    assert (one["object"], one["file"], one["line"]) == ("ConfigMap team/settings", "a.yaml", 3)
    page = shown(document)
    assert "data.a: 1 → 2" in page
    assert "a.yaml:3" in page


def test_target_that_cannot_be_reached_is_unknown_and_plans_nothing() -> None:
    document = change_document(facts(report(observed=Unreachable("a", 1.0, "no route"), plan=planned())), ForgeLinks())
    assert document["targets"][0]["outcome"]["word"] == "unknown"
    assert "The target cannot be observed, so nothing is planned: no route" in shown(document)


def test_target_that_has_not_planned_the_desired_revision_says_why() -> None:
    bug = report(observed=Unreachable("a", 1.0, "x"), plan=None, pass_error="unexpected KeyError")
    # What the pass before it planned was of another revision.
    document = change_document(replace(facts(bug), plan={"targets": []}), ForgeLinks())
    (waiting,) = document["waiting"]
    assert (waiting["name"], waiting["reason"]) == (
        "a",
        "the last pass failed: unexpected KeyError; models keep serving",
    )
    assert "a has not planned it yet: the last pass failed" in shown(document)
    assert change_document(facts(report()), ForgeLinks())["waiting"] == []


def test_services_that_need_a_person_come_before_others() -> None:
    calm, bad = ServiceId("demo", "a-calm"), ServiceId("demo", "z-bad")
    moving = verdict(calm, Sync.OUT_OF_SYNC, LATE)
    refused = verdict(bad, Sync.OUT_OF_SYNC, rejected=replace(rejection(bad), revision=REVISION))
    one = report(
        desired=state(desired(calm), desired(bad)),
        observed=observed(replica(calm), replica(bad)),
        plan=planned(moving, refused),
    )
    document = change_document(facts(one), ForgeLinks())
    assert [each["name"] for each in document["targets"][0]["plan"]["services"]] == ["z-bad", "a-calm"]
    (rejected,) = document["rejected"]
    # Its row of the plan has that id already.
    assert rejected["anchor"] == ""
    assert document["targets"][0]["outcome"]["word"] == "1 rejected"
    page = shown(document)
    assert page.count('id="target-a/demo/z-bad"') == 1


def test_page_stays_small_however_much_is_wrong() -> None:
    many = [ServiceId("demo", f"s{number}") for number in range(300)]
    broken = tuple(Reason(ReasonCode.INVALID_DOCUMENT, "x", Origin(f"{one.name}.yaml", 1)) for one in many)
    bad = [replace(rejection(one), revision=REVISION, last_words=("w" * 9_999,) * 500) for one in many]
    one = report(
        desired=state(*map(desired, many), unreadable=broken),
        observed=observed(),
        plan=planned(*(verdict(one, Sync.OUT_OF_SYNC, LATE) for one in many)),
    )
    document = change_document(facts(one, quarantines=[("a", each) for each in bad]), ForgeLinks())
    plan = document["targets"][0]["plan"]
    assert (len(plan["services"]), plan["moreServices"]) == (100, 200)
    assert (len(plan["findings"]), plan["moreFindings"]) == (100, 200)
    assert (len(document["rejected"]), document["moreRejected"]) == (50, 250)
    assert max(len(line) for each in document["rejected"] for line in each["logTail"]) == 2_000
    page = shown(document)
    for text in ("200 more services change", "and 200 more: the", "250 more were rejected"):
        assert text in page


def test_desired_revision_is_applied_held_up_or_on_its_way() -> None:
    moving = report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC, health=LATE)))
    assert words(REVISION, status_of(report())) == [("a", "applied")]
    info = RevisionInfo(REVISION, "", "x", fetched_at=1.0)
    assert words(REVISION, status_of(moving, revision=info)) == [("a", "being applied")]
    suspended = status_of(replace(moving, suspended=frozenset("*")), revision=info)
    assert words(REVISION, suspended) == [("a", "suspended")]


def test_older_revision_is_applied_rejected_or_passed_over() -> None:
    status = status_of(report())
    seen = entry(FETCHED, OTHER)
    assert words(OTHER, status, seen) == [("a", "superseded")]
    assert words(OTHER, status, seen, entry("applied", OTHER)) == [("a", "applied")]
    gone = entry("digest_quarantined", OTHER, service="demo/tiny")
    assert words(OTHER, status, seen, entry("applied", OTHER), gone, gone) == [("a", "1 rejected")]
    assert words(OTHER, status) == []


def test_refused_revision_is_so_until_it_is_accepted() -> None:
    status, refused = status_of(report()), entry("revision_refused", OTHER, target="")
    assert words(OTHER, status, refused) == [("", "refused")]
    assert words(OTHER, status, refused, entry(FETCHED, OTHER)) == [("a", "superseded")]
    info = RevisionInfo(REVISION, REVISION, refused=RefusedRevision(OTHER, "not signed"))
    assert words(OTHER, status_of(report(), revision=info)) == [("", "refused")]


REVISIONS = st.sampled_from((REVISION, OTHER))
OF_TARGETS = st.builds(
    entry,
    st.sampled_from((*(one for one in EVENTS if one != "revision_refused"), "replica_started")),
    REVISIONS,
    st.sampled_from(("a", "b")),
    st.sampled_from(("demo/tiny", "demo/other")),
)
ENTRIES = OF_TARGETS | st.builds(entry, st.just("revision_refused"), REVISIONS, st.just(""))


@given(st.lists(ENTRIES, max_size=12))
def test_every_target_on_record_has_one_outcome(entries: list[Document]) -> None:
    found = outcomes(status_of(report()), [REVISION, OTHER], entries, ())
    for revision, each in found.items():
        names = [one.target for one in each]
        assert len(names) == len(set(names))
        told = {one["target"] for one in entries if one["revision"] == revision and one["event"] == FETCHED}
        assert told <= set(names) or names == [""]
    (now,) = [one.word for one in found[REVISION] if one.target in ("a", "")][:1]
    assert now in ("applied", "refused") or now.endswith(" rejected")


@settings(max_examples=25)
@given(st.lists(ENTRIES, max_size=12), st.text(max_size=50))
def test_pages_of_any_history_are_made_and_are_json(entries: list[Document], text: str) -> None:
    entries = [one | {"message": text} for one in entries]
    one = change_document(facts(report(), entries=entries, deciding=entries), ForgeLinks())
    revisions = [{"revision": each, "firstAt": "2026-11-30T08:00:00.000Z"} for each in (REVISION, OTHER)]
    lines = {OTHER: CommitLine(text, text, 1)}
    listed = changes_document(ChangesFacts(status_of(report()), revisions, entries, (), lines), ForgeLinks())
    for document, page in ((one, "change"), (listed, "changes")):
        assert json.loads(json.dumps(document)) == document
        assert "</html>" in shown(document, page)
