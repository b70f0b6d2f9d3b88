"""What /readyz promises, and what it says when that does not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.loop.failures import DiskCheck
from reconciler.model import EnsureProxy, Outcome, Result, Unreachable
from reconciler.report.convergence import Readiness, convergence_of, readiness
from reconciler.report.status import RevisionInfo
from tests.support.report_world import REVISION, observed, replica, report, status_of


def ready(*reports: object, age: float = 1.0, **more: object) -> Readiness:
    return readiness(status_of(*(reports or (report(),)), **more), age, 60.0)  # type: ignore[arg-type]


def test_ready_when_all_that_is_promised_holds():
    assert ready() == Readiness((), ())
    assert ready().status == "ok"


def test_ready_waits_for_the_first_revision():
    assert ready(revision=RevisionInfo(error="no route to host")).waiting_for == (
        "the first revision that can be read",
    )


def test_ready_names_a_source_that_fails_now_and_stays_ready():
    found = ready(revision=RevisionInfo(desired=REVISION, error="https://host/x: 401"))
    assert (found.waiting_for, found.status) == ((), "degraded")
    assert found.failing
    assert "host" not in found.failing[0]


def test_not_ready_while_a_target_is_not_reached_or_not_looked_at():
    assert ready(report(observed=Unreachable("a", 1.0, "x")), passes=0).waiting_for == ("the first pass", "target a")
    assert "61 s ago" in ready(age=61.0).waiting_for[0]


def test_not_ready_while_the_proxy_does_not_answer():
    silent = replace(observed(replica()), proxy_ready=False)
    assert ready(report(observed=silent)).waiting_for == ("target a: its proxy is not responding",)


def test_not_ready_while_a_pass_cannot_act():
    failed = Result(EnsureProxy("x"), Outcome.FAILED, "/var/lib: disk full")
    (said,) = ready(report(last_results=(failed,))).waiting_for
    assert said.startswith("target a: its last pass")
    assert "/var" not in said


def test_not_ready_while_the_state_folder_takes_nothing():
    status = status_of(report())
    status["daemon"]["fault"] = "/x: cannot be written: No space left on device"
    assert readiness(status, 1.0, 60.0).waiting_for == ("the state folder is not writable",)
    assert convergence_of(status).faults == ("state folder: /x: cannot be written: No space left on device",)


def test_disk_that_takes_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check = DiskCheck(tmp_path)
    assert check.fault() == ""
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("reconciler.loop.failures._SECONDS", 0.0)
    gone = DiskCheck(tmp_path / "gone")
    assert gone.fault() == f"{tmp_path}/gone: cannot be written: No such file or directory"
    (tmp_path / "gone").mkdir()
    assert gone.fault() == ""
