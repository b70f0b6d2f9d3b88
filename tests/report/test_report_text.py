"""What people read of status and plan."""

from __future__ import annotations

import io
import os
import pty
from dataclasses import replace
from typing import Any

import pytest

from reconciler.model import (
    NO_ORIGIN,
    AskPreflight,
    Drain,
    Endpoint,
    EnsureProxy,
    Fit,
    Health,
    HealthStatus,
    Lease,
    Origin,
    Preflight,
    Reason,
    ReasonCode,
    Reject,
    ServiceId,
    ServiceRoute,
    SetRoutes,
    Signer,
    Start,
    Stop,
    Sync,
    Unreachable,
)
from reconciler.report.plan_text import plan_blocks
from reconciler.report.planned import plan_document
from reconciler.report.screen import show
from reconciler.report.status import RefusedRevision, RevisionInfo, TargetReport
from reconciler.report.status_parts import NOT_FETCHED
from reconciler.report.text import Block, Changes, review_blocks, stale_blocks, status_blocks
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
    with_service,
)

PROGRESSING = Health(
    HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "starts; 0 of 1 replicas serve", NO_ORIGIN)
)


def plain(blocks: Any) -> str:
    out = io.StringIO()
    show(blocks, out)
    return out.getvalue()


def plan_of(one: TargetReport) -> dict[str, Any]:
    assert one.desired
    assert one.observed
    assert one.plan
    return plan_document(status_of(one), [(one.desired, one.observed, one.plan)])


def start(number: int = 2) -> Start:
    ready = replica(digest=NEW, number=number)
    return Start(ready.id, NEW, SPEC, ready.origin, ready.lease, 10.0, "", REVISION, "git wants bbbbbbbb")


def test_status_shows_one_line_per_service() -> None:
    lines = plain(status_blocks(status_of(report()))).splitlines()
    assert lines[0] == "revision 4f1c2ab0 “Serve tiny”, applied"
    assert lines[2] == "a: http://127.0.0.1:8080, no GPU"
    assert lines[3].split() == ["SERVICE", "SYNC", "HEALTH", "READY", "GPUS", "LIVE", "NOW"]
    assert lines[4].split() == ["demo/tiny", "Synced", "Healthy", "1/1", "0", "aaaaaaaa"]
    assert len(lines) == 5


def test_status_says_what_is_wrong_with_file_and_line() -> None:
    refused = verdict(sync=Sync.OUT_OF_SYNC, rejected=rejection())
    text = plain(status_blocks(status_of(report(plan=planned(refused)))))
    assert "rejected bbbbbbbb: hosts/a/tiny.yaml:12: unrecognized argument --max-modle-len" in text


def head(one: TargetReport, revision: RevisionInfo | None = None) -> str:
    return plain(status_blocks(status_of(one, revision=revision))).splitlines()[0]


NO_GPU = (Reason(ReasonCode.INSUFFICIENT_GPU, "needs 1 GPU", Origin("hosts/a/tiny.yaml", 9)),)
MISSING = Health(HealthStatus.MISSING, Reason(ReasonCode.BLOCKED, "Blocked: needs 1 GPU", NO_ORIGIN))


def test_head_line_names_what_holds_an_applied_revision_up() -> None:
    blocked = verdict(sync=Sync.OUT_OF_SYNC, health=MISSING, blocked=NO_GPU)
    held = report(plan=planned(blocked))
    held_up = "held up by demo/tiny (InsufficientGPU)"
    assert head(held) == f"revision 4f1c2ab0 “Serve tiny”, applied where possible: {held_up}"
    older = RevisionInfo(desired=REVISION, applied="e" * 40)
    assert head(held, older) == f"revision 4f1c2ab0 desired, applied: eeeeeeee: {held_up}"


def test_head_line_names_the_signer_in_printable_words() -> None:
    signed = RevisionInfo(desired=REVISION, applied=REVISION, signer=Signer("Eve\x1b[2J\n<e@x>", "SHA256:abc"))
    line = head(report(), signed)
    assert line.startswith("revision 4f1c2ab0 signed by Eve")
    assert line.isprintable()
    assert status_of(report(), revision=signed)["revision"]["signer"]["fingerprint"] == "SHA256:abc"
    assert "signer" not in status_of(report())["revision"]


def test_revision_that_is_trusted_no_more_is_said_to_be_out_of_force() -> None:
    refused = RefusedRevision(REVISION, "4f1c2ab0 is not verified: it is not signed")
    status = status_of(report(), revision=RevisionInfo(error=refused.reason, refused=refused))
    assert "no revision in force: 4f1c2ab0 is not verified" in plain(status_blocks(status))
    assert "is refused; what runs stays, and nothing is started, until git has another." in plain(
        stale_blocks(status, 0.0)
    )


def test_head_line_never_says_applied_alone_while_out_of_sync() -> None:
    moving = report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC, health=PROGRESSING, step="starts")))
    assert head(moving) == "revision 4f1c2ab0 “Serve tiny”, applied; out of sync: demo/tiny"
    fresh = RevisionInfo(desired=REVISION, applied="")
    assert head(moving, fresh) == "revision 4f1c2ab0 desired, none applied yet; waiting for: demo/tiny"


def test_head_line_names_a_file_that_cannot_be_read() -> None:
    broken = (Reason(ReasonCode.INVALID_YAML, "no YAML", Origin("hosts/a/tiny.yaml", 3)),)
    seen = observed(replica(), owned={TINY: owned()})
    kept = report(
        desired=state(unreadable=broken), observed=seen, plan=planned(verdict(sync=Sync.UNKNOWN, kept=broken[0]))
    )
    lines = plain(status_blocks(status_of(kept))).splitlines()
    assert "applied where possible: held up by hosts/a/tiny.yaml:3 (InvalidYaml)" in lines[0]
    row = next(line for line in lines if line.startswith("demo/tiny"))
    assert row.split()[:4] == ["demo/tiny", "Unknown", "Healthy", "1/1"]
    assert row.endswith("kept, cannot be read: hosts/a/tiny.yaml:3")


def test_row_of_a_held_deletion_does_not_say_that_git_cannot_be_read() -> None:
    why = Reason(ReasonCode.APPROVAL_REQUIRED, "all of them would go", Origin("hosts/a/tiny.yaml", 3))
    seen = observed(replica(), owned={TINY: owned()})
    kept = report(desired=state(), observed=seen, plan=planned(verdict(sync=Sync.UNKNOWN, kept=why)))
    row = next(line for line in plain(status_blocks(status_of(kept))).splitlines() if line.startswith("demo/tiny"))
    assert row.endswith("kept, its deletion needs approval")


def test_unusable_service_row_names_its_file_and_line() -> None:
    broken = desired(
        spec=None,
        digest="",
        problems=(Reason(ReasonCode.INVALID_DOCUMENT, "runtime x is unknown", Origin("f.yaml", 3)),),
    )
    unusable = report(desired=state(broken), plan=planned(verdict(sync=Sync.OUT_OF_SYNC)))
    lines = plain(status_blocks(status_of(unusable))).splitlines()
    row = next(line for line in lines if line.startswith("demo/tiny"))
    assert row.split()[3] == "1/1", "what runs is kept, promoted or not"
    assert row.endswith("kept unchanged: f.yaml:3 cannot be used")


def with_canary(percent: int) -> TargetReport:
    lease = Lease(20002, ("GPU-5f2c91bc-0000",))
    trial = replica(digest=NEW, number=2, lease=lease, socket="/run/x/http.sock")
    route = ServiceRoute(TINY, (Endpoint(replica().id, 20001),), (Endpoint(trial.id, 20002),), percent)
    seen = replace(observed(replica(), trial, owned={TINY: owned()}, gpus=1), routes={TINY: route})
    wanted = desired(digest=NEW, canary_percent=20)
    return report(desired=state(wanted), observed=seen, plan=planned(verdict()))


def test_row_of_a_service_with_a_canary_says_so_with_its_share() -> None:
    text = plain(status_blocks(status_of(with_canary(20))))
    assert "canary bbbbbbbb gets 20% of requests\n" in text
    assert "canary bbbbbbbb gets 5% of requests, desired 20%\n" in plain(status_blocks(status_of(with_canary(5))))
    assert service_in(status_of(with_canary(20)))["ready"] == "2/2"
    assert "canary" not in plain(status_blocks(status_of(report())))


def test_detail_of_a_service_shows_role_and_gpus_of_each_replica() -> None:
    lines = plain(status_blocks(status_of(with_canary(20)), detail=True)).splitlines()
    rows = [line.split() for line in lines if line.startswith("demo.tiny")]
    assert [(row[0], row[1]) for row in rows] == [("demo.tiny.aaaaaaaa-1", "Ready"), ("demo.tiny.bbbbbbbb-2", "Ready")]
    assert rows[0][2:5] == ["stable", "-", "127.0.0.1:20001"]
    assert rows[1][2:6] == ["canary", "20%", "GPU-5f2c91bc", "/run/x/http.sock"]


def test_wide_status_shows_which_gpus_a_service_holds() -> None:
    lines = plain(status_blocks(status_of(with_canary(20)), wide=True)).splitlines()
    row = next(line for line in lines if line.startswith("demo/tiny"))
    assert row.split()[5] == "GPU-5f2c91bc"
    assert "DEVICES" not in plain(status_blocks(status_of(report()), wide=True)), "no column where there is no GPU"


@pytest.mark.parametrize(
    ("read_at", "now", "said"),
    [
        (180.0, 190.0, "git was last read 10 s ago;"),
        (180.0, 180.0 + 7 * 60, "git was last read 7 min ago;"),
        (180.0, 180.0 + 49 * 3600, "git was last read 2 d ago;"),
        (None, 80.0, "git could not be read since the daemon started 30 s ago;"),
    ],
)
def test_status_says_for_how_long_git_could_not_be_read(read_at: float | None, now: float, said: str) -> None:
    assert list(stale_blocks(status_of(report()), now)) == []
    lost = RevisionInfo(desired=REVISION, applied=REVISION, error="cannot ask it: no route", fetched_at=read_at)
    status = status_of(report(), revision=lost)
    assert "source: cannot ask it: no route" in plain(status_blocks(status))
    assert said in plain(stale_blocks(status, now))


def test_git_that_was_not_asked_yet_is_not_said_to_be_unreadable() -> None:
    status = status_of(report(), revision=RevisionInfo(REVISION, REVISION, error=NOT_FETCHED))
    assert "git has not answered yet since the daemon started 30 s ago" in plain(stale_blocks(status, 80.0))


def test_text_written_by_others_cannot_move_the_cursor() -> None:
    status = with_service(
        status_of(report()), step="\x1b[2Jgone", warnings=[{"code": "X", "message": "\x1b]0;t\x07w", "file": None}]
    )
    text = plain(status_blocks(status))
    assert "gone" in text
    assert "\x1b" not in text


def test_text_written_by_others_makes_no_line_of_its_own() -> None:
    text = "K\n::error file=x::fooled\u2028valid: 0 errors\x0bv1\x85 is not ours"
    found = {"file": "a.yaml", "line": 1, "path": "", "message": text}
    review = {"valid": True, "errors": [], "warnings": [found]}
    assert plain(review_blocks(review)).splitlines() == [
        "a.yaml:1: warning: K ::error file=x::fooled valid: 0 errorsv1 is not ours",
        "valid: 0 errors, 1 warning",
    ]
    status = with_service(status_of(report()), step=text, warnings=[{"code": "X", "message": text, "file": None}])
    assert not [line for line in plain(status_blocks(status)).splitlines() if line.startswith(("::", "valid"))]


def test_terminal_gets_a_coloured_table_with_the_same_words() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        show(status_blocks(status_of(report())), terminal)
        terminal.flush()
        text = os.read(master, 8192).decode()
    os.close(master)
    assert "demo/tiny" in text
    assert "\x1b[32mHealthy" in text


def test_converged_plan_says_that_nothing_is_to_do() -> None:
    document = plan_of(report())
    assert document["schema"] == "reconciler.host.plan/v2"
    assert document["counts"]["unchanged"] == 1
    assert plain(plan_blocks(document)).splitlines() == ["a at 4f1c2ab0", "Nothing to do: 1 service in sync."]


def test_rollout_shows_its_strategy_then_its_steps_with_reasons() -> None:
    rolling = verdict(
        sync=Sync.OUT_OF_SYNC, health=PROGRESSING, strategy="surge: start new, switch, drain old", step="starts"
    )
    actions = (
        EnsureProxy("the proxy is not responding"),
        start(),
        Drain(replica().id, "superseded"),
        Stop(replica().id, "left", True),
    )
    changing = report(desired=state(desired(digest=NEW)), plan=planned(rolling, actions=actions))
    lines = plain(plan_blocks(plan_of(changing))).splitlines()
    assert lines == [
        "a at 4f1c2ab0",
        "  * ensure proxy proxy: the proxy is not responding",
        "  ~ demo/tiny (hosts/a/tiny.yaml:7): surge: start new, switch, drain old; starts",
        "      start demo.tiny.bbbbbbbb-2: git wants bbbbbbbb",
        "      drain demo.tiny.aaaaaaaa-1: superseded",
        "      stop demo.tiny.aaaaaaaa-1 (kill): left",
        "4 actions; 1 change, 0 unchanged",
    ]


def test_plan_shows_memory_needs_and_status_warns_of_too_much() -> None:
    tight = Fit("weights 20.0 + KV 1.0 + 2.0 = 23.0 of 22.1 GiB", 1, 20, 1, 1, 2, 22, 8, 1.25, tight=True)
    seen = replace(observed(replica()), preflights={NEW: Preflight("{}", fit=tight)})
    changing = report(desired=state(desired(digest=NEW)), observed=seen, plan=planned(verdict(sync=Sync.OUT_OF_SYNC)))
    assert f"      memory: {tight.line}" in plain(plan_blocks(plan_of(changing))).splitlines()
    status = status_of(changing)
    assert f"  demo/tiny: memory: {tight.line}" in plain(status_blocks(status)).splitlines()
    fit = service_in(status)["fit"]
    assert (fit["fits"], fit["needBytes"], fit["haveBytes"], fit["concurrency"]) == (None, 23, 22, 1.25)
    assert service_in(status_of(report()))["fit"] is None


def test_plan_never_carries_specs() -> None:
    ask = AskPreflight(TINY, NEW, SPEC, Origin("f", 1), "not observed yet")
    reject = Reject(rejection(), "refused")
    routes = SetRoutes((), (TINY, ServiceId("demo", "x")), "gone")
    document = plan_of(report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC), actions=(ask, reject, routes, start()))))
    assert SPEC.image not in str(document)
    assert [one["subject"] for one in document["targets"][0]["actions"]] == [
        "bbbbbbbb",
        "bbbbbbbb",
        "demo/tiny, demo/x",
        "demo.tiny.bbbbbbbb-2",
    ]


def test_plan_has_one_word_for_what_happens_to_each_service() -> None:
    names = ("blocked", "broken", "create", "gone", "refused", "same", "waits")
    ids = {name: ServiceId("demo", name) for name in names}
    missing = Health(HealthStatus.MISSING, Reason(ReasonCode.NOT_SERVING, "0 of 1 replicas serve", NO_ORIGIN))
    out = Sync.OUT_OF_SYNC
    broken = desired(ids["broken"], spec=None, problems=(Reason(ReasonCode.INVALID_DOCUMENT, "bad", Origin("f", 2)),))
    wanted = [desired(ids[name]) for name in names if name not in ("broken", "gone")]
    verdicts = (
        verdict(ids["blocked"], out, missing, blocked=(Reason(ReasonCode.INSUFFICIENT_GPU, "needs 1 GPU", NO_ORIGIN),)),
        verdict(ids["broken"], Sync.UNKNOWN),
        verdict(ids["create"], out, missing),
        verdict(ids["gone"], out, PROGRESSING),
        verdict(ids["refused"], out, rejected=rejection(ids["refused"])),
        verdict(ids["same"]),
        verdict(ids["waits"], out, PROGRESSING),
    )
    creating = replica(ids["create"]).id
    actions = (
        Start(creating, OLD, SPEC, Origin("f", 1), replica().lease, 1.0, "", REVISION, "new"),
        Drain(replica(ids["gone"]).id, "deleted in git"),
    )
    seen = observed(replica(ids["gone"]), replica(ids["same"]), replica(ids["refused"]))
    document = plan_of(report(desired=state(*wanted, broken), observed=seen, plan=planned(*verdicts, actions=actions)))
    found = {one["name"]: one["change"] for one in document["targets"][0]["services"]}
    assert found == {
        "blocked": "blocked",
        "broken": "keep",
        "create": "create",
        "gone": "delete",
        "refused": "rejected",
        "same": "none",
        "waits": "wait",
    }
    text = plain(plan_blocks(document))
    assert "  ! demo/refused (hosts/a/refused.yaml:7): rejected bbbbbbbb: hosts/a/tiny.yaml:12: " in text
    assert "      live: aaaaaaaa" in text
    assert text.endswith("2 actions; 1 create, 1 delete, 1 wait, 1 blocked, 1 rejected, 1 keep, 1 unchanged\n")


def test_plan_for_an_unreachable_target_says_why_it_is_empty() -> None:
    silent = report(observed=Unreachable("a", 1.0, "no route"), plan=planned())
    assert "  unreachable: no route; nothing is planned" in plain(plan_blocks(plan_of(silent)))


def test_progress_names_only_what_changed() -> None:
    changes, status = Changes(), status_of(report())
    assert changes.since_last(status) == ["revision 4f1c2ab0 “Serve tiny”, applied", "demo/tiny: Synced, Healthy"]
    assert changes.since_last(status) == []
    moving = with_service(status, sync="OutOfSync", step="starting demo.tiny.b-2")
    assert changes.since_last(moving) == ["demo/tiny: OutOfSync, Healthy: starting demo.tiny.b-2"]
    gone = status | {"targets": [status["targets"][0] | {"services": []}]}
    assert changes.since_last(gone) == ["demo/tiny: removed"]


def test_stages_of_a_rollout_are_one_line_while_it_goes_on() -> None:
    starting = replica(digest=NEW, number=2, ready_at=None, ready_now=False)
    moving = verdict(sync=Sync.OUT_OF_SYNC, health=PROGRESSING, step="starting b-2")
    seen = observed(replica(), starting, owned={TINY: owned()})
    found = status_of(report(desired=state(desired(digest=NEW)), observed=seen, plan=planned(moving)))
    line = "staged (done) → started (done) → first token (active: starting b-2) → switched → promoted → drained"
    assert f"  demo/tiny: {line}\n" in plain(status_blocks(found))
    assert Changes().since_last(found)[1] == (
        f"demo/tiny: OutOfSync, Progressing: starting b-2; {line.replace(': starting b-2', '')}"
    )
    assert "staged" not in plain(status_blocks(status_of(report())))
    assert "  demo/tiny: staged (done)" in plain(status_blocks(status_of(report()), detail=True))


def test_columns_line_up_where_nobody_draws_them() -> None:
    other = ServiceId("production", "a-long-name")
    blocks: list[Block] = list(status_blocks(status_of(report(desired=state(desired(), desired(other))))))
    lines = plain(blocks).splitlines()
    header = next(line for line in lines if line.startswith("SERVICE"))
    rows = [line for line in lines if line.startswith(("demo/", "production/"))]
    assert all(row[header.index("SYNC") - 1] == " " and row[header.index("SYNC")] != " " for row in rows)


def test_several_reasons_stand_one_below_the_other() -> None:
    missing = Health(HealthStatus.MISSING, Reason(ReasonCode.BLOCKED, "Blocked", NO_ORIGIN))
    reasons = (
        Reason(ReasonCode.INSUFFICIENT_GPU, "needs 1 GPU", NO_ORIGIN),
        Reason(ReasonCode.NO_ENGINE, "no interpreter", Origin("f.yaml", 4)),
    )
    blocked = verdict(sync=Sync.OUT_OF_SYNC, health=missing, blocked=reasons)
    lines = plain(plan_blocks(plan_of(report(plan=planned(blocked))))).splitlines()
    assert lines[1:4] == [
        "  ! demo/tiny (hosts/a/tiny.yaml:7): Blocked for 2 reasons",
        "      needs 1 GPU",
        "      f.yaml:4: no interpreter",
    ]


def test_folder_that_is_missing_has_no_line() -> None:
    unreadable = (Reason(ReasonCode.MODEL_NOT_FOUND, "is missing from git", Origin("runtimes/", 1)),)
    document = plan_of(report(desired=state(desired(), unreadable=unreadable)))
    assert "  ! runtimes/: is missing from git" in plain(plan_blocks(document))


def test_findings_read_as_compilers_write_them() -> None:
    errors = [{"file": "b.yaml", "line": 4, "path": "spec.predictor", "message": "no runtime"}]
    warnings = [{"file": "a.yaml", "line": 9, "path": "", "message": "defined again"}]
    review = {"valid": False, "errors": errors, "warnings": warnings}
    assert plain(review_blocks(review)).splitlines() == [
        "a.yaml:9: warning: defined again",
        "b.yaml:4: error: spec.predictor: no runtime",
        "invalid: 1 error, 1 warning",
    ]


def test_plan_lists_the_warnings_of_services_also_where_nothing_changes() -> None:
    warned = desired(
        warnings=(Reason(ReasonCode.PLAINTEXT_SECRET, "--api-key is in git in plain text", Origin("a.yaml", 7)),)
    )
    for plan in (planned(verdict()), planned(verdict(sync=Sync.OUT_OF_SYNC), actions=(start(),))):
        document = plan_of(report(desired=state(warned), plan=plan))
        lines = plain(plan_blocks(document)).splitlines()
        assert "  demo/tiny: a.yaml:7: --api-key is in git in plain text" in lines[lines.index("Warnings:") :]
        assert document["targets"][0]["services"][0]["warnings"][0]["code"] == "PlaintextSecret"
    assert "Warnings:" not in plain(plan_blocks(plan_of(report())))
