"""What needs a person: nothing that is bad is missing from it, and nothing that is fine is in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model import (
    EVERYTHING,
    NO_ORIGIN,
    ByHand,
    EnsureProxy,
    FailedAction,
    Health,
    HealthStatus,
    JudgedDeletions,
    ObjectChange,
    Origin,
    Outcome,
    ProxyBreak,
    Reason,
    ReasonCode,
    Result,
    ServiceId,
    ServicePlan,
    Sync,
    Unreachable,
)
from reconciler.model.guard import Deletion, Guard
from reconciler.page.attention import AttentionItem, Severity, attention
from reconciler.report.convergence import convergence_of, fault, full_name, is_moving, readiness, services
from reconciler.report.status import Document, LeftoverInfo, RefusedRevision, RevisionInfo
from tests.support.report_world import (
    OLD,
    REVISION,
    SETTINGS,
    TINY,
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

ALICE = ByHand("alice", 100.0, "replacing a disk", 5000.0)
WHERE = Origin("hosts/a/tiny.yaml", 12)


def reason(code: ReasonCode = ReasonCode.INVALID_DOCUMENT, message: str = "is not usable") -> Reason:
    return Reason(code, message, WHERE)


# ---------------------------------------------------------------- properties

NAMES = st.sampled_from(["a", "b", "c"]).map(lambda name: ServiceId("demo", name))
VERDICTS = st.builds(
    lambda service, sync, phase, code, extra: ServicePlan(
        service, sync, Health(phase, Reason(code, "said", NO_ORIGIN)), **extra(service)
    ),
    NAMES,
    st.sampled_from(Sync),
    st.sampled_from(HealthStatus),
    st.sampled_from([ReasonCode.SERVING, ReasonCode.HUNG, ReasonCode.INTERNAL_ERROR, ReasonCode.CRASH_LOOP_BACKOFF]),
    st.sampled_from(
        [
            lambda _: {},
            lambda _: {"blocked": (reason(ReasonCode.NO_ENGINE),)},
            lambda service: {"rejected": rejection(service)},
            lambda _: {"kept": reason(ReasonCode.INVALID_YAML)},
        ]
    ),
)


@st.composite
def reports(draw: st.DrawFn) -> Any:
    verdicts = {one.service: one for one in draw(st.lists(VERDICTS, max_size=3))}
    failed = draw(st.sets(NAMES, max_size=2))
    known = {
        "desired": state(
            *(desired(one, problems=draw(st.sampled_from([(), (reason(),)]))) for one in verdicts),
            unreadable=draw(st.sampled_from([(), (reason(ReasonCode.INVALID_YAML),)])),
        ),
        "observed": replace(observed(*map(replica, verdicts)), proxy_ready=draw(st.booleans())),
        "plan": planned(*verdicts.values()),
        "suspended": draw(st.frozensets(st.sampled_from(["demo/a", "demo/b", EVERYTHING]), max_size=2)),
        "drained": draw(st.sampled_from([None, ALICE])),
        "failures": tuple(FailedAction("start", OLD, (one,), "no room", 9.0, 3) for one in sorted(failed)),
    }
    away = draw(st.sampled_from(["", "", "", "unreachable", "never asked", "pass failed"]))
    if away:
        unreachable = None if away == "never asked" else Unreachable("a", 200.0, "no route")
        known |= {"observed": unreachable, "plan": None, "pass_error": "bug" if away == "pass failed" else ""}
    return report(name="a", **known)


def named(items: list[AttentionItem]) -> set[str]:
    return {item.service for item in items if item.service}


@given(reports())
def test_service_needs_a_person_if_nothing_else_mends_it(one: Any) -> None:
    status = status_of(one)
    items = attention(status)
    for target, service in services(status):
        needs = full_name(service) in named(items)
        held = service["suspended"]
        if not target["reachable"]:
            # Its target is named, once for all.
            assert not needs
        elif fault(service) and not is_moving(service, target):
            assert needs or (held and target["suspended"])
        elif needs:
            assert held or service["lastFailure"]
        else:
            assert not service["lastFailure"]
            assert not held or target["suspended"]


@given(reports())
def test_list_is_empty_if_and_only_if_all_is_well(one: Any) -> None:
    status = status_of(one)
    items = [item for item in attention(status) if item.severity is not Severity.INFO]
    target = status["targets"][0]
    well = convergence_of(status).converged and not readiness(status, 1.0, 60.0).waiting_for
    if well and not any(service["lastFailure"] for service in target["services"]):
        assert not items
    if convergence_of(status).failed and (target["observedAt"] or target["passError"]):
        assert attention(status)


@given(st.lists(reports(), max_size=2))
def test_what_makes_the_daemon_unready_is_an_error(some: Any) -> None:
    status = status_of(*some)
    waits = [each for each in readiness(status, 1.0, 60.0).waiting_for if not _is_young(each, status)]
    errors = [item for item in attention(status) if item.severity is Severity.ERROR]
    assert bool(waits) <= bool(errors)


def _is_young(waits: str, status: Document) -> bool:
    """A target that was not asked yet."""
    young = {f"target {one['name']}" for one in status["targets"] if not one["observedAt"]}
    return waits in young


@given(st.lists(reports(), max_size=2))
def test_the_worst_stands_first(some: Any) -> None:
    ranks = [list(Severity).index(item.severity) for item in attention(status_of(*some))]
    assert ranks == sorted(ranks)


# ---------------------------------------------------------------- each kind


def only(status: Document, **more: Any) -> AttentionItem:
    (item,) = attention(status, **more)
    return item


def test_nothing_is_said_of_what_is_well() -> None:
    assert attention(status_of(report(), cluster(SETTINGS))) == []


def test_rejected_service_names_the_line_and_leads_to_its_page() -> None:
    item = only(status_of(report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC, rejected=rejection())))))
    assert (item.severity, item.file, item.line) == (Severity.WARNING, "hosts/a/tiny.yaml", 12)
    assert item.message == "rejected bbbbbbbb: unrecognized argument --max-modle-len"
    assert item.address == "/services/a/demo/tiny"


def test_service_that_does_not_serve_is_an_error_at_its_own_line() -> None:
    crashed = Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASH_LOOP_BACKOFF, "crashed 5 times", NO_ORIGIN))
    item = only(status_of(report(plan=planned(verdict(health=crashed)))))
    assert (item.severity, item.subject, item.file, item.line) == (Severity.ERROR, "demo/tiny", "hosts/a/tiny.yaml", 7)
    assert "crashed 5 times" in item.message


def test_rollout_that_goes_on_needs_nobody() -> None:
    starting = Health(HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "starting", NO_ORIGIN))
    assert attention(status_of(report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC, health=starting))))) == []


def test_action_that_keeps_failing_is_named_though_it_is_tried_again() -> None:
    item = only(status_of(report(failures=(FailedAction("start", OLD, (TINY,), "no such image", 9.0, 4),))))
    assert (item.severity, item.message) == (Severity.WARNING, "start failed 4 times: no such image")


def test_suspension_tells_who_why_and_until_when() -> None:
    one = report(suspended=frozenset({"demo/tiny"}), suspensions={"demo/tiny": ALICE})
    item = only(status_of(one))
    assert (item.severity, item.kind) == (Severity.INFO, "suspended")
    assert item.message.startswith("suspended by alice until 1970-01-01T01:23:20Z: replacing a disk")


def test_action_that_failed_of_a_suspended_service_is_named() -> None:
    failed = (FailedAction("start", OLD, (TINY,), "no such image", 9.0, 1),)
    for held in ("demo/tiny", EVERYTHING):
        items = attention(status_of(report(suspended=frozenset({held}), failures=failed)))
        assert (items[0].severity, items[0].message) == (Severity.WARNING, "start failed once: no such image")


def test_rejected_service_that_is_suspended_is_named_for_what_is_wrong() -> None:
    refused = planned(verdict(sync=Sync.OUT_OF_SYNC, rejected=rejection()))
    item = only(status_of(report(suspended=frozenset({"demo/tiny"}), plan=refused)))
    assert (item.severity, item.message) == (
        Severity.WARNING,
        "rejected bbbbbbbb: unrecognized argument --max-modle-len",
    )


def test_host_that_somebody_drained_is_named() -> None:
    item = only(status_of(report(drained=ALICE)))
    assert (item.severity, item.kind, item.target) == (Severity.INFO, "drained", "a")
    assert "by alice" in item.message
    assert "reconciler host undrain" in item.message


def test_deletions_that_are_held_lead_to_their_approval() -> None:
    why = Reason(ReasonCode.APPROVAL_REQUIRED, "all of its services would go", NO_ORIGIN)
    held = JudgedDeletions(held=Guard("0123456789abcdef", (why,), (Deletion("demo/x"),)))
    item = only(status_of(report(plan=replace(planned(verdict()), deletions=held))))
    assert (item.severity, item.message) == (Severity.WARNING, "all of its services would go: demo/x")
    assert item.address == "/actions/approve?target=a&hash=0123456789abcdef"


def test_services_whose_deletion_is_held_are_named_once() -> None:
    why = Reason(ReasonCode.APPROVAL_REQUIRED, "its deletion needs approval", WHERE)
    held = JudgedDeletions(held=Guard("0123456789abcdef", (why,), (Deletion("demo/tiny"),)))
    kept = replace(planned(verdict(sync=Sync.UNKNOWN, kept=why)), deletions=held)
    assert only(status_of(report(plan=kept))).kind == "deletions"


def test_service_that_is_down_is_named_although_its_deletion_is_held() -> None:
    why = Reason(ReasonCode.APPROVAL_REQUIRED, "its deletion needs approval", WHERE)
    down = Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASH_LOOP_BACKOFF, "crashed 3 times", WHERE))
    item = only(status_of(report(plan=planned(verdict(sync=Sync.UNKNOWN, kept=why, health=down)))))
    assert (item.severity, item.kind) == (Severity.ERROR, "service")
    assert "crashed 3 times" in item.message


def test_suspended_target_is_named_once() -> None:
    drifted = planned(verdict(sync=Sync.OUT_OF_SYNC))
    item = only(status_of(report(suspended=frozenset({EVERYTHING}), suspensions={EVERYTHING: ALICE}, plan=drifted)))
    assert (item.kind, item.service) == ("suspended", "")


def test_suspended_service_that_fails_is_an_error() -> None:
    missing = Health(HealthStatus.MISSING, Reason(ReasonCode.CRASHED, "its process is gone", NO_ORIGIN))
    item = only(status_of(report(suspended=frozenset({"demo/tiny"}), plan=planned(verdict(health=missing)))))
    assert (item.severity, item.message) == (Severity.ERROR, "Missing, suspended: its process is gone")


def test_target_that_is_away_is_named_instead_of_its_services() -> None:
    item = only(status_of(report(observed=Unreachable("a", 200.0, "no route to host"))))
    assert (item.severity, item.subject, item.message) == (Severity.ERROR, "a", "unreachable: no route to host")


def test_target_that_was_never_asked_is_no_fault_yet() -> None:
    assert attention(status_of(report(desired=None, observed=None, plan=None, name="a"), passes=0)) == []


def test_failed_pass_is_an_error() -> None:
    one = report(observed=Unreachable("a", 200.0, "x"), pass_error="KeyError: 'x'")
    assert only(status_of(one)).message.startswith("the last pass failed: KeyError")


@pytest.mark.parametrize(("found", "said"), [(ProxyBreak.NONE, "is not responding"), (ProxyBreak.DEAF, "admin socket")])
def test_proxy_that_does_not_respond_is_an_error(found: ProxyBreak, said: str) -> None:
    item = only(status_of(report(observed=replace(observed(replica()), proxy_ready=False, proxy_break=found))))
    assert (item.severity, item.kind) == (Severity.ERROR, "proxy")
    assert said in item.message


def test_action_of_the_target_that_failed_is_an_error() -> None:
    failed = Result(EnsureProxy("x"), Outcome.FAILED, "disk full")
    assert "disk full" in only(status_of(report(last_results=(failed,)))).message


def test_git_that_is_away_is_a_warning_while_a_revision_is_in_force() -> None:
    item = only(status_of(report(), revision=RevisionInfo(REVISION, REVISION, error="no route to host")))
    assert (item.severity, item.subject, item.message) == (Severity.WARNING, "git", "no route to host")
    alone = attention(status_of(report(), revision=RevisionInfo(error="no route to host")))
    assert alone[0].severity is Severity.ERROR
    assert attention(status_of(report(desired=None, plan=planned()), revision=RevisionInfo(error="not fetched yet")))


def test_refused_revision_is_named_once_and_leads_to_its_change() -> None:
    refused = RefusedRevision("c" * 40, "not signed by a trusted key")
    info = RevisionInfo(REVISION, REVISION, error="not signed by a trusted key", refused=refused)
    item = only(status_of(report(), revision=info))
    assert (item.kind, item.address) == ("revision", f"/changes/{'c' * 40}")


def test_file_that_cannot_be_read_leads_to_the_repository() -> None:
    item = only(status_of(report(desired=state(desired(), unreadable=(reason(ReasonCode.INVALID_YAML, "not YAML"),)))))
    assert (item.message, item.file, item.line, item.address) == ("not YAML", "hosts/a/tiny.yaml", 12, "/repository")


def test_document_that_is_refused_is_named_with_its_line() -> None:
    refused = reason(ReasonCode.INVALID_DOCUMENT, "spec.predictor: required")
    item = only(status_of(report(desired=state(desired(), refused=(refused,)))))
    assert (item.kind, item.message, item.line) == ("manifest", "spec.predictor: required", 12)


def test_object_that_a_later_pass_changes_needs_nobody() -> None:
    differs = replace(SETTINGS, sync=Sync.OUT_OF_SYNC, change=ObjectChange.CHANGE, why="data.x differs")
    assert attention(status_of(cluster(differs))) == []
    kept = replace(differs, change=ObjectChange.KEEP)
    assert only(status_of(cluster(kept))).message == "OutOfSync: data.x differs"
    # Of a target that is suspended as a whole it is said once.
    assert only(status_of(cluster(kept, suspended=frozenset({EVERYTHING})))).kind == "suspended"


def test_object_out_of_sync_is_named_with_its_line() -> None:
    refused = replace(SETTINGS, sync=Sync.OUT_OF_SYNC, reasons=(reason(message="admission webhook denied it"),))
    item = only(status_of(cluster(refused)))
    assert (item.subject, item.message, item.line) == ("ConfigMap team/settings", "admission webhook denied it", 12)


def test_what_is_wrong_with_the_daemon_itself_is_named() -> None:
    status = status_of(report())
    status["daemon"] |= {"fault": "/x: No space left on device", "configFault": "targets: required"}
    status["forge"] = {
        "waiting": [{"destination": "github", "count": 3, "since": None, "error": "401"}],
        "dead": [{"destination": "chat", "message": "service.failed", "at": None, "error": "404"}],
        "deadCount": 1,
        "error": "",
    }
    status["pullRequests"] = {"error": "403"}
    kinds = [(item.kind, item.severity.value) for item in attention(status, stuck="no pass for 90 s")]
    assert kinds[:2] == [("state", "error"), ("daemon", "error")]
    assert sorted(kinds[2:]) == [("config", "warning"), *[("delivery", "warning")] * 3]


def test_target_that_left_the_config_is_named() -> None:
    status = status_of(report())
    left = LeftoverInfo("old", "/x", 1, ("demo/x",), "target old is gone from the config", "put it back")
    status["leftovers"] = [{"target": left.target, "message": left.message, "fix": left.fix}]
    assert only(status).message == "target old is gone from the config: put it back"
