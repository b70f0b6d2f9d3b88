"""What is said on a commit: of real status documents, of hosts and of clusters."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.forge.commit_status import answers, closing, digests, is_news, say_target
from reconciler.forge.description import cut, prefixed
from reconciler.forge.messages import MOST_DESCRIPTION, CommitState, CommitStatus
from reconciler.model import (
    NO_ORIGIN,
    Deletion,
    Guard,
    Health,
    HealthStatus,
    JudgedDeletions,
    ObjectChange,
    Origin,
    Reason,
    ReasonCode,
    ServiceId,
    Sync,
    Unreachable,
)
from reconciler.report.convergence import convergence_of
from reconciler.report.status import DaemonInfo, RefusedRevision, RevisionInfo, TargetReport, build_status
from tests.support.report_world import (
    NEW,
    OLD,
    REVISION,
    SETTINGS,
    TINY,
    cluster,
    desired,
    observed,
    owned,
    planned,
    rejection,
    replica,
    report,
    state,
    status_of,
    verdict,
)

PROGRESSING = Health(HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "loading for 12 s", NO_ORIGIN))
CHAT = ServiceId("demo", "chat")
SECRET = "hf_abcdefghijklmnopqrstuvwxyz0123"
BEFORE = "3f2a1b9c" + "0" * 32


def said(status: dict[str, Any], before: dict[str, str] | None = None) -> tuple[CommitState, str]:
    one = say_target(status, status["targets"][0], before)
    return one.state, one.description


def rejected(**fields: Any) -> TargetReport:
    failed = replace(rejection(), **fields)
    good = owned()
    assert good.promoted
    kept = replace(good, promoted=replace(good.promoted, revision=BEFORE))
    health = Health(HealthStatus.HEALTHY, Reason(ReasonCode.SERVING, "the last good version serves", NO_ORIGIN))
    return report(
        desired=state(desired(digest=NEW), desired(CHAT)),
        observed=observed(replica(), replica(CHAT), owned={TINY: kept}),
        plan=planned(verdict(sync=Sync.OUT_OF_SYNC, health=health, rejected=failed), verdict(CHAT)),
    )


# ---------------------------------------------------------------- the table


def test_revision_in_sync_and_healthy_is_a_success() -> None:
    assert said(status_of(report())) == (CommitState.SUCCESS, "1 in sync")


def test_success_tells_what_the_commit_changed() -> None:
    status = status_of(report())
    assert said(status, {"demo/tiny": NEW, "demo/gone": OLD})[1] == "1 updated, 1 deleted"
    assert said(status, digests(status["targets"][0]))[1] == "no change here"


def test_rejected_service_is_named_with_its_line_and_what_is_live() -> None:
    assert said(status_of(rejected()), {"demo/tiny": OLD, "demo/chat": NEW}) == (
        CommitState.FAILURE,
        "1 updated, 1 rejected: tiny: unrecognized argument --max-modle-len (hosts/a/tiny.yaml:12); 3f2a1b9c is live",
    )


def test_rejection_is_told_while_others_are_being_applied() -> None:
    one = rejected()
    assert one.plan
    moving = replace(one.plan, verdicts={**one.plan.verdicts, CHAT: verdict(CHAT, Sync.OUT_OF_SYNC, PROGRESSING)})
    state_, text = said(status_of(replace(one, plan=moving)))
    assert state_ is CommitState.FAILURE
    assert text.endswith("; the others are being applied")


def test_revision_that_is_being_applied_is_pending_without_figures() -> None:
    moving = report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC, health=PROGRESSING)))
    assert said(status_of(moving)) == (CommitState.PENDING, "being applied")
    assert said(status_of(moving), {"demo/tiny": NEW}) == (CommitState.PENDING, "being applied: tiny")


def test_revision_that_no_pass_has_seen_is_pending() -> None:
    status = status_of(report(), revision=RevisionInfo(desired="b" * 40, applied=REVISION))
    assert said(status)[0] is CommitState.PENDING
    assert said(status_of(TargetReport(None, None, None, report().routing, name="a")))[0] is CommitState.PENDING


def test_target_that_cannot_be_reached_is_an_error_once_it_lasts() -> None:
    status = status_of(report(observed=Unreachable("a", 9.0, "connection refused")))
    one = say_target(status, status["targets"][0])
    assert (one.state, one.lasting > 0) == (CommitState.ERROR, True)
    assert "connection refused" in one.description


def test_full_disk_is_an_error() -> None:
    info = RevisionInfo(desired=REVISION, applied=REVISION)
    daemon = DaemonInfo("1", 1.0, 1, 1, fault="/var/lib/x: cannot be written")
    assert said(build_status(revision=info, targets=[report()], daemon=daemon))[0] is CommitState.ERROR


@pytest.mark.parametrize(
    ("code", "state_"),
    [
        (ReasonCode.INVALID_ARGUMENT, CommitState.FAILURE),
        (ReasonCode.INSUFFICIENT_GPU, CommitState.FAILURE),
        (ReasonCode.DISK_FULL, CommitState.ERROR),
        (ReasonCode.PREFLIGHT_FAILED, CommitState.ERROR),
    ],
)
def test_blocked_service_is_blamed_by_its_reason(code: ReasonCode, state_: CommitState) -> None:
    why = Reason(code, "it does not go", Origin("hosts/a/tiny.yaml", 9))
    held = verdict(sync=Sync.OUT_OF_SYNC, health=Health(HealthStatus.HEALTHY, why), blocked=(why,))
    assert said(status_of(report(plan=planned(held)))) == (
        state_,
        "0 in sync, 1 blocked: tiny: it does not go (hosts/a/tiny.yaml:9)",
    )


def test_suspended_service_waits_for_a_person() -> None:
    why = Health(HealthStatus.SUSPENDED, Reason(ReasonCode.SUSPENDED, "suspended", NO_ORIGIN))
    one = report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC, health=why)), suspended=frozenset({"demo/tiny"}))
    state_, text = said(status_of(one))
    assert state_ is CommitState.PENDING
    assert "1 suspended: tiny" in text


def test_held_deletions_are_an_error_with_what_approves_them() -> None:
    why = Reason(ReasonCode.APPROVAL_REQUIRED, "3 of 4 objects would go", NO_ORIGIN)
    held = Guard("abc123", (why,), (Deletion("demo/x"), Deletion("demo/y")))
    kept = verdict(sync=Sync.OUT_OF_SYNC, kept=held.why_kept(NO_ORIGIN))
    one = report(plan=replace(planned(kept), deletions=JudgedDeletions(held=held)))
    state_, text = said(status_of(one))
    assert state_ is CommitState.ERROR
    assert "2 deletions wait for approval: abc123" in text


def test_object_of_a_cluster_that_is_refused_is_named() -> None:
    why = Reason(ReasonCode.REJECTED, "the webhook says no", Origin("a.yaml", 7))
    refused = replace(SETTINGS, sync=Sync.OUT_OF_SYNC, change=ObjectChange.CHANGE, reasons=(why,))
    state_, text = said(status_of(cluster(refused)))
    assert state_ is CommitState.FAILURE
    assert "ConfigMap team/settings: the webhook says no (a.yaml:7)" in text


def test_field_that_an_api_server_refuses_is_named_with_its_line() -> None:
    changed = replace(SETTINGS, sync=Sync.OUT_OF_SYNC, change=ObjectChange.CHANGE, why="git changed data.x")
    status = status_of(cluster(changed))
    why = "a.yaml:7: data.x: expected string"
    status["targets"][0] |= {"lastFailure": {"reason": why}, "lastError": f"apply_object failed: {why}"}
    state_, text = said(status)
    assert state_ is CommitState.FAILURE
    assert text.endswith("1 not applied: ConfigMap team/settings: data.x: expected string (a.yaml:7)")


def test_cluster_of_unchanged_services_is_not_called_unchanged() -> None:
    one = cluster(SETTINGS, applied=REVISION)
    assert said(status_of(one), {}) == (CommitState.SUCCESS, "no service changed")


def test_cluster_that_another_daemon_acts_on_is_not_answered_for() -> None:
    plan = replace(planned(), notes=(Reason(ReasonCode.NOT_LEADER, "this daemon only looks", NO_ORIGIN),))
    assert list(answers(status_of(cluster(plan=plan)))) == []


def test_status_links_to_what_the_page_says_of_its_subject() -> None:
    told = answers(status_of(rejected()), {"a": {"demo/chat": OLD}}, per_service=True, url="https://box/")
    found = {one.context: one.url for one, _ in told}
    page = f"https://box/changes/{REVISION}"
    assert found == {"reconciler/a": f"{page}#target-a", "reconciler/a/demo/tiny": f"{page}#target-a/demo/tiny"}


def test_refused_revision_is_answered_on_itself() -> None:
    newer = "c" * 40
    info = RevisionInfo(REVISION, REVISION, error="x", refused=RefusedRevision(newer, "main is not signed"))
    found = {one.revision: one for one, _ in answers(status_of(report(), revision=info), url="https://box")}
    assert found[newer] == CommitStatus(
        newer,
        "reconciler/a",
        CommitState.FAILURE,
        f"refused: main is not signed; {REVISION[:8]} is live",
        f"https://box/changes/{newer}#target-a",
    )
    assert found[REVISION].state is CommitState.SUCCESS


def test_services_have_statuses_of_their_own_where_they_changed() -> None:
    status = status_of(rejected())
    found = {one.context: one.state for one, _ in answers(status, {"a": {"demo/chat": OLD}}, per_service=True)}
    assert found == {"reconciler/a": CommitState.FAILURE, "reconciler/a/demo/tiny": CommitState.FAILURE}


def test_superseded_revision_tells_by_what() -> None:
    open_ = CommitStatus(REVISION, "reconciler/a", CommitState.PENDING, "being applied")
    closed = closing(open_, "1a2b3c4d" + "0" * 32, was_applied=False)
    assert (closed.state, closed.description) == (CommitState.SUPERSEDED, "superseded by 1a2b3c4d")
    assert closing(open_, "1a2b3c4d", was_applied=True).description.endswith("it was applied before")


# ---------------------------------------------------------------- news


def test_answered_revision_is_not_pending_again() -> None:
    done = CommitStatus(REVISION, "c", CommitState.SUCCESS, "1 in sync")
    again = replace(done, state=CommitState.PENDING, description="being applied")
    assert not is_news(again, done)
    assert is_news(again, replace(done, state=CommitState.SUPERSEDED))
    assert is_news(done, again)


def test_restart_of_the_daemon_makes_no_revision_unseen() -> None:
    document = status_of(report())
    (seen, _), *_ = answers(document | {"targets": [document["targets"][0] | {"observedAt": None}]})
    applied = replace(seen, description="being applied: tiny")
    assert is_news(seen, None)
    assert not is_news(seen, applied)
    assert is_news(applied, seen)


def test_free_memory_that_changes_is_no_news() -> None:
    one = CommitStatus(REVISION, "c", CommitState.FAILURE, "1 blocked: tiny: needs 20 GiB, 3.1 GiB are free")
    assert not is_news(replace(one, description=one.description.replace("3.1", "2.9")), one)
    assert is_news(replace(one, description=one.description.replace("1 blocked", "2 blocked")), one)


# ---------------------------------------------------------------- the text


def test_place_of_the_fault_outlives_a_long_message() -> None:
    text = cut("word " * 100, "services/granite.yaml:31", "; 3f2a1b9c is live", "2 updated, 1 rejected: granite:")
    assert len(text) <= MOST_DESCRIPTION
    assert text.startswith("2 updated, 1 rejected: granite: word")
    assert text.endswith("word… (services/granite.yaml:31); 3f2a1b9c is live")


def test_name_before_a_description_keeps_its_place_and_end() -> None:
    long = cut("word " * 100, "services/granite.yaml:31", "; 3f2a1b9c is live", "2 updated, 1 rejected: granite:")
    text = prefixed("gpu-17", long)
    assert len(text) <= MOST_DESCRIPTION
    assert text.startswith("gpu-17: 2 updated, 1 rejected: granite: word")
    assert text.endswith("(services/granite.yaml:31); 3f2a1b9c is live")
    assert prefixed("gpu-17", "1 in sync") == "gpu-17: 1 in sync"


def test_text_is_cut_at_the_border_of_a_word() -> None:
    assert cut("abcdefg " * 30).endswith("abcdefg…")


@pytest.mark.parametrize("text", ["not ready within 600 s", "not ready", "not ready at 2026-11-30T08:00:00Z"])
def test_times_are_left_out(text: str) -> None:
    assert cut(text) == "not ready"


def test_names_and_digests_like_times_stay() -> None:
    whole = "1 rejected: hunyuan-3d: not ready (services/7d.yaml:31); 1234567d is live"
    assert (
        cut("not ready within 600 s", "services/7d.yaml:31", "; 1234567d is live", "1 rejected: hunyuan-3d:") == whole
    )
    assert cut("hunyuan-3d of services/2s/x.yaml is 1234567d") == "hunyuan-3d of services/2s/x.yaml is 1234567d"
    assert prefixed("gpu-1d", whole) == f"gpu-1d: {whole}"
    assert cut("1,000,000 d behind") == "1,000,000 d behind"


def test_secret_in_a_message_is_hidden() -> None:
    assert SECRET not in cut(f"HF_TOKEN={SECRET} was refused")


ODD = [f"token={SECRET}", f"https://me:{SECRET}@h/x", "x" * 500, "a\nb\x1b[2J"]
MESSAGES = st.text(max_size=300) | st.sampled_from(ODD)
FILES = st.sampled_from(["hosts/a/tiny.yaml", "d/" * 90 + "x.yaml", "y" * 250])
REASONS = st.builds(
    Reason,
    st.sampled_from(list(ReasonCode)),
    MESSAGES,
    st.just(NO_ORIGIN) | st.builds(Origin, FILES, st.integers(1, 99_999)),
)
HEALTHS = st.builds(Health, st.sampled_from(HealthStatus), REASONS)


@st.composite
def reports(draw: st.DrawFn) -> TargetReport:
    names = draw(st.lists(st.sampled_from(["tiny", "chat", "granite"]), unique=True, max_size=3))
    services = [ServiceId("demo", name) for name in names]
    wants = [desired(one, problems=tuple(draw(st.lists(REASONS, max_size=1)))) for one in services]
    verdicts = [
        verdict(
            one,
            draw(st.sampled_from(Sync)),
            draw(HEALTHS),
            blocked=tuple(draw(st.lists(REASONS, max_size=2))),
            rejected=draw(st.none() | st.builds(lambda why: replace(rejection(), reason=why), REASONS)),
            kept=draw(st.none() | REASONS),
        )
        for one in services
    ]
    unreadable = tuple(draw(st.lists(REASONS, max_size=2)))
    looked = observed(*(replica(one) for one in services))
    away = Unreachable("a", 1.0, draw(MESSAGES))
    return report(
        desired=state(*wants, unreadable=unreadable),
        observed=draw(st.sampled_from([looked, looked, looked, away])),
        plan=planned(*verdicts),
        applied=draw(st.sampled_from([REVISION, "", BEFORE])),
        pass_error=draw(st.just("") | MESSAGES),
    )


@given(reports(), MESSAGES, st.none() | st.dictionaries(st.just("demo/tiny"), st.sampled_from([OLD, NEW])))
def test_every_answer_is_short_and_honest(one: TargetReport, error: str, before: dict[str, str] | None) -> None:
    info = RevisionInfo(REVISION, REVISION, error=error, refused=RefusedRevision(BEFORE, error) if error else None)
    status = status_of(one, revision=info)
    known = {"a": before} if before is not None else {}
    found = list(answers(status, known, per_service=True))
    assert found == list(answers(status, known, per_service=True))
    for said_, lasting in found:
        text = said_.description
        assert 0 < len(text) <= MOST_DESCRIPTION
        assert text == " ".join(text.split())
        assert text.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f]", text)
        assert SECRET not in text
        assert lasting >= 0
    assert len({(said_.revision, said_.context) for said_, _ in found}) == len(found)
    if say_target(status, status["targets"][0], before).state is CommitState.SUCCESS:
        assert convergence_of(status | {"revision": status["revision"] | {"error": ""}}).converged
