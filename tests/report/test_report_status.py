"""The status document is readable for people and machines."""

from __future__ import annotations

import json

import pytest

from reconciler.model import (
    NO_ORIGIN,
    FailedAction,
    Health,
    HealthStatus,
    Lease,
    Origin,
    Outcome,
    Reason,
    ReasonCode,
    Result,
    ServiceId,
    Silence,
    Start,
    Sync,
    Unreachable,
)
from reconciler.report.convergence import convergence_of, fault
from reconciler.report.status import RevisionInfo
from reconciler.report.text import status_blocks
from tests.support.report_world import (
    NEW,
    OLD,
    REVISION,
    SPEC,
    TINY,
    desired,
    observed,
    owned,
    planned,
    rejection,
    replica,
    report,
    service_in,
    state,
    status_of,
    verdict,
)

PROGRESSING = Health(HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "starting", NO_ORIGIN))
MISSING = Health(HealthStatus.MISSING, Reason(ReasonCode.BLOCKED, "Blocked", NO_ORIGIN))
DEGRADED = Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASH_LOOP_BACKOFF, "crashed repeatedly", NO_ORIGIN))


def test_converged_world_is_one_json_document() -> None:
    status = status_of(report())
    again = json.loads(json.dumps(status))
    assert again == status
    assert status["schema"] == "reconciler.status/v2"
    assert status["daemon"] == {
        "version": "1.2.3",
        "startedAt": "1970-01-01T00:00:50.000Z",
        "pid": 42,
        "passes": 1,
    }
    assert status["revision"]["desired"] == REVISION
    service = service_in(status)
    assert (service["sync"], service["health"]["status"], service["ready"]) == ("Synced", "Healthy", "1/1")
    assert (service["digest"], service["liveDigest"], service["origin"]) == (OLD, OLD, "hosts/a/tiny.yaml:7")
    assert convergence_of(status).converged


def test_endpoints_name_the_three_ways_in() -> None:
    assert service_in(status_of(report()))["endpoints"] == {
        "host": "tiny-demo.example.com",
        "path": "/demo/tiny",
        "model": "tiny",
    }


def test_name_used_twice_is_asked_for_with_its_namespace() -> None:
    other = ServiceId("prod", "tiny")
    status = status_of(report(desired=state(desired(), desired(other))))
    assert [one["endpoints"]["model"] for one in status["targets"][0]["services"]] == ["demo/tiny", "prod/tiny"]


def test_unreachable_target_leaves_everything_unknown() -> None:
    status = status_of(report(observed=Unreachable("a", 200.0, "no route to host"), plan=planned()))
    target, service = status["targets"][0], service_in(status)
    assert (target["reachable"], target["reason"]) == (False, "no route to host")
    assert (service["sync"], service["health"]["status"]) == ("Unknown", "Unknown")
    assert service["health"]["reason"] == "TargetUnreachable"
    assert convergence_of(status).failed


def test_target_that_was_never_asked_is_not_reachable_yet() -> None:
    status = status_of(report(desired=None, observed=None, plan=None, name="a"), passes=0)
    assert status["targets"][0]["name"] == "a"
    assert status["targets"][0]["reason"] == "not observed yet"


def test_service_gone_from_git_is_listed_until_nothing_is_left() -> None:
    gone = ServiceId("demo", "gone")
    seen = observed(replica(), replica(gone), owned={gone: owned(gone)})
    leaving = verdict(gone, Sync.OUT_OF_SYNC, PROGRESSING, step="drains")
    status = status_of(report(observed=seen, plan=planned(verdict(), leaving)))
    service = service_in(status, "gone")
    assert (service["inGit"], service["ready"], service["origin"]) == (False, "1/0", "hosts/a/gone.yaml:3")
    assert not convergence_of(status).settled


def test_ready_does_not_count_a_replica_that_does_not_answer() -> None:
    seen = observed(replica(), replica(number=2, silence=Silence.SILENT, silent_why="no answer for 12 s"))
    assert service_in(status_of(report(desired=state(desired(replicas=2)), observed=seen)))["ready"] == "1/2"


def test_unusable_document_keeps_the_count_that_proved_itself() -> None:
    broken = desired(
        spec=None,
        digest="",
        problems=(Reason(ReasonCode.INVALID_DOCUMENT, "runtime x is unknown", Origin("f.yaml", 3)),),
    )
    seen = observed(replica(), replica(number=2), owned={TINY: owned(replicas=2)})
    status = status_of(report(desired=state(broken), observed=seen, plan=planned(verdict(sync=Sync.UNKNOWN))))
    service = service_in(status)
    assert service["ready"] == "2/2"
    assert service["lastError"] == "f.yaml:3: runtime x is unknown"
    assert fault(service) == "not usable: f.yaml:3: runtime x is unknown"


def test_rejection_names_file_and_line_and_hides_secrets_in_last_words() -> None:
    refused = verdict(sync=Sync.OUT_OF_SYNC, rejected=rejection())
    status = status_of(report(desired=state(desired(digest=NEW)), plan=planned(refused)))
    rejected = service_in(status)["rejected"]
    assert (rejected["file"], rejected["line"], rejected["digest"]) == ("hosts/a/tiny.yaml", 12, NEW)
    assert rejected["logTail"] == ["usage: vllm", "error: HF_TOKEN=***"]
    assert service_in(status)["liveDigest"] == OLD
    assert convergence_of(status).failed
    assert "hosts/a/tiny.yaml:12: unrecognized argument --max-modle-len" in convergence_of(status).faults[0]


def test_blocked_lists_every_reason() -> None:
    reasons = (
        Reason(ReasonCode.INSUFFICIENT_GPU, "needs 1 nvidia.com/gpu, this host has 0", NO_ORIGIN),
        Reason(ReasonCode.NO_ENGINE, "no interpreter", NO_ORIGIN),
    )
    status = status_of(
        report(observed=observed(), plan=planned(verdict(TINY, Sync.OUT_OF_SYNC, MISSING, blocked=reasons)))
    )
    assert [one["code"] for one in service_in(status)["blocked"]] == ["InsufficientGPU", "NoEngine"]
    assert convergence_of(status).failed
    assert convergence_of(status).faults == (
        "demo/tiny: Blocked: needs 1 nvidia.com/gpu, this host has 0; no interpreter",
    )


def test_failed_action_stays_in_the_status_until_it_succeeds() -> None:
    failure = FailedAction("start", OLD, (TINY,), "no user vllm, token=hunter2", 150.0, tries=3)
    proxy = FailedAction("ensure_proxy", "", (), "cannot bind", 151.0)
    status = status_of(report(failures=(failure, proxy)))
    last = service_in(status)["lastFailure"]
    assert last == {
        "action": "start",
        "reason": "no user vllm, token=***",
        "at": "1970-01-01T00:02:30.000Z",
        "tries": 3,
    }
    assert status["targets"][0]["lastFailure"]["action"] == "ensure_proxy"
    lines = [block for block in status_blocks(status) if isinstance(block, str)]
    assert "  demo/tiny: start failed 3 times, last at 1970-01-01T00:02:30.000Z: no user vllm, token=***" in lines
    assert service_in(status_of(report()))["lastFailure"] is None


def test_failure_of_an_action_is_the_last_error_of_its_service() -> None:
    start = Start(replica().id, OLD, SPEC, Origin("f", 1), Lease(20000), 1.0, "", REVISION, "first")
    failed = Result(start, Outcome.FAILED, "cannot fork: password=hunter2")
    status = status_of(report(last_results=(failed,)))
    assert service_in(status)["lastError"] == "start failed: cannot fork: password=***"


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({}, "Ready"),
        ({"ready_at": None, "ready_now": False}, "Starting"),
        ({"draining_at": 120.0}, "Draining"),
        ({"stopping_at": 120.0}, "Draining"),
        ({"stopping_at": 120.0, "alive": False}, "Stopped"),
        ({"alive": False}, "Failed"),
        ({"alive": False, "rebooted": True}, "Stopped"),
        ({"healthy": False}, "Failed"),
        ({"healthy": None}, "Ready"),
    ],
)
def test_replica_has_one_phase(fields: dict[str, object], phase: str) -> None:
    status = status_of(report(observed=observed(replica(**fields))))
    assert service_in(status)["replicas"][0]["phase"] == phase


def test_live_is_the_old_digest_until_it_no_longer_serves() -> None:
    old, new = replica(created_at=1.0), replica(digest=NEW, number=2, created_at=2.0)
    assert service_in(status_of(report(observed=observed(new, old))))["liveDigest"] == OLD
    draining = replica(created_at=1.0, draining_at=5.0)
    assert service_in(status_of(report(observed=observed(new, draining))))["liveDigest"] == NEW


def test_gpus_are_counted_by_what_replicas_hold() -> None:
    status = status_of(report(observed=observed(replica(lease=Lease(20000, ("GPU-0", "GPU-1"))), gpus=4)))
    gpus = status["targets"][0]["gpus"]
    assert (gpus["total"], gpus["leased"], len(gpus["devices"])) == (4, 2, 4)
    assert service_in(status)["gpus"] == 2


def test_order_of_input_does_not_matter() -> None:
    ids = [ServiceId("demo", name) for name in ("c", "a", "b")]
    one = status_of(report(desired=state(*map(desired, ids)), observed=observed(*map(replica, ids))))
    other = status_of(report(desired=state(*map(desired, ids[::-1])), observed=observed(*map(replica, ids[::-1]))))
    assert one == other


def test_source_that_cannot_be_read_is_not_converged() -> None:
    revision = RevisionInfo(REVISION, REVISION, error="cannot fetch https://me:pw@git/x: refused")
    convergence = convergence_of(status_of(report(), revision=revision))
    assert not convergence.converged
    assert convergence.faults == ("source: cannot fetch https://***@git/x: refused",)


def test_revision_that_is_not_applied_yet_is_still_moving() -> None:
    convergence = convergence_of(status_of(report(), revision=RevisionInfo(REVISION, "0" * 40)))
    assert (convergence.converged, convergence.settled) == (False, False)


def test_one_service_in_progress_keeps_everything_unsettled() -> None:
    other = ServiceId("demo", "other")
    verdicts = (verdict(TINY, Sync.OUT_OF_SYNC, DEGRADED), verdict(other, Sync.OUT_OF_SYNC, PROGRESSING))
    assert not convergence_of(
        status_of(report(desired=state(desired(), desired(other)), plan=planned(*verdicts)))
    ).settled
    assert convergence_of(status_of(report(plan=planned(verdicts[0])))).failed


def test_service_suspended_by_hand_is_settled_but_not_as_git_says() -> None:
    waiting = verdict(sync=Sync.OUT_OF_SYNC)
    for names in (frozenset({"demo/tiny"}), frozenset({"*"})):
        convergence = convergence_of(status_of(report(plan=planned(waiting), suspended=names)))
        assert convergence.failed
        assert "reconciler resume demo/tiny" in convergence.faults[0]


def test_what_is_kept_because_git_cannot_be_read_does_not_move() -> None:
    kept = verdict(sync=Sync.UNKNOWN)
    status = status_of(report(desired=state(), plan=planned(kept)))
    assert convergence_of(status).failed


def test_target_that_has_not_looked_at_the_newest_revision_is_not_done() -> None:
    newer = RevisionInfo(desired="e" * 40, applied=REVISION)
    status = status_of(report(applied=REVISION), revision=newer)
    assert not convergence_of(status).settled


def test_warning_about_missing_gpus_is_shown_only_where_they_are_missing() -> None:
    doubt = Reason(ReasonCode.ACCELERATOR_MISMATCH, "none of them here", NO_ORIGIN)
    service = desired(warnings_without_gpu=(doubt,))
    for gpus, codes in ((0, ["AcceleratorMismatch"]), (1, [])):
        status = status_of(report(desired=state(service), observed=observed(replica(), gpus=gpus)))
        assert [one["code"] for one in service_in(status)["warnings"]] == codes


def test_what_is_shown_on_a_dashboard_and_where_metrics_are_comes_from_git() -> None:
    service = service_in(status_of(report(desired=state(desired(dashboard=False, metrics_path="/m")))))
    assert (service["dashboard"], service["metricsPath"]) == (False, "/m")
    gone = service_in(status_of(report(desired=state())))
    assert (gone["inGit"], gone["dashboard"], gone["metricsPath"]) == (False, True, "/metrics")
