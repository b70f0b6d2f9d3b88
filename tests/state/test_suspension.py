"""What a person suspended or drained by hand: it holds over restarts, says who and why, and ends at its time."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import Retryable
from reconciler.loop.reconcile import Pass, Reconciler
from reconciler.model import NO_ORIGIN, ByHand, Drain, Holds, Reason, ReasonCode, Start
from reconciler.report.convergence import convergence_of, fault
from reconciler.report.history import History
from reconciler.report.plan_text import plan_blocks
from reconciler.report.planned import plan_document
from reconciler.report.screen import plain_lines
from reconciler.report.text import Changes, status_blocks
from reconciler.state.suspension import HostDrain, Suspension
from reconciler.web.metrics import Metrics
from tests.loop.test_reconcile import Target, make_reconciler, snapshot
from tests.support.report_world import (
    desired,
    observed,
    planned,
    replica,
    report,
    service_in,
    state,
    status_of,
    verdict,
    with_service,
)

ASKED = ByHand("alice (as root)", 100.0, "a disk is replaced", 4_000_000_000.0)
SAID = "by alice (as root) until 2096-10-02T07:06:40Z: a disk is replaced"


def test_it_outlives_the_daemon(tmp_path: Path):
    Suspension(tmp_path / "s.json").add("default/a")
    again = Suspension(tmp_path / "s.json")
    assert again.names() == {"default/a"}
    again.lift("default/a")
    assert again.names() == frozenset()


def test_everything_is_lifted_by_naming_nothing(tmp_path: Path):
    suspension = Suspension(tmp_path / "s.json")
    suspension.add(None)
    suspension.add("default/a")
    with pytest.raises(Retryable, match="whole target"):
        suspension.lift("default/a")
    suspension.lift(None)
    assert suspension.names() == frozenset()


@pytest.mark.parametrize("text", ["{", "5", '{"a/b": 5}', '{"a/b": {"until": 1e300}}', '{"a/b": {"at": "x"}}'])
def test_file_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, text: str):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(Retryable, match="cannot be read"):
        Suspension(tmp_path / "s.json").names()


def test_suspension_file_of_an_older_daemon_is_read(tmp_path: Path):
    (tmp_path / "s.json").write_text('["*", "default/a"]')
    suspension = Suspension(tmp_path / "s.json")
    assert dict(suspension.in_force()) == {"*": ByHand(), "default/a": ByHand()}
    suspension.add("default/b", ASKED)
    assert json.loads((tmp_path / "s.json").read_text()).keys() == {"*", "default/a", "default/b"}
    assert Suspension(tmp_path / "s.json").in_force()["default/b"] == ASKED


def test_suspension_ends_at_its_time_whatever_the_clock_does_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    suspension = Suspension(tmp_path / "s.json")
    suspension.add("default/a", ByHand(until=2000.0))
    suspension.add("default/b")
    clock(monkeypatch, 1999.0)
    assert suspension.names() == {"default/a", "default/b"}
    assert not suspension.expire()
    clock(monkeypatch, 9e9)
    assert suspension.names() == {"default/b"}, "also where the clock jumped far beyond"
    assert suspension.expire().keys() == {"default/a"}
    clock(monkeypatch, 1000.0)
    assert suspension.names() == {"default/b"}, "what ended does not come back with a clock that is set back"


def clock(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr(time, "time", lambda: now)


# ---------------------------------------------------------------- passes


def passes(reconciler: Reconciler, target: Target) -> Pass:
    """Passes until nothing moves any more."""
    for _ in range(200):
        one_pass = reconciler.run_pass(snapshot("fine"))
        if one_pass.again_in is None or one_pass.again_in > 1000:
            return one_pass
        target.host.now += max(one_pass.again_in, 0.02)
    raise AssertionError("it never comes to rest")


def with_drain(folder: Path, target: Target | None = None) -> tuple[Reconciler, Target, HostDrain]:
    drain = HostDrain(folder / "drained.json")
    reconciler, mine = make_reconciler(folder, drain)
    mine.host = target.host if target else mine.host
    return reconciler, mine, drain


def events(folder: Path) -> list[tuple[str, str]]:
    history = History(folder / "state" / "state.db")
    try:
        return [(one["event"], one["message"]) for one in history.entries(50)]
    finally:
        history.close()


def test_drained_host_stops_everything_until_undrain_over_restarts(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target, drain = with_drain(tmp_path)
    passes(reconciler, target)
    assert target.host.serving("fine")
    drain.begin(ASKED)
    one_pass = passes(reconciler, target)
    assert not target.host.replicas
    assert any(isinstance(one, Drain) for one in target.host.log), "requests that run may end"
    assert one_pass.again_in is not None, "it looks again when the time is over"
    reconciler.run_pass(snapshot("fine", revision="b" * 40))
    assert reconciler.report.applied == "a" * 40, "what git wants since then is not applied while the host is drained"
    reconciler.close()

    restarted, target, drain = with_drain(tmp_path, target)
    began = len(target.host.log)
    passes(restarted, target)
    assert not [one for one in target.host.log[began:] if isinstance(one, Start)]
    assert drain.end() == ASKED
    passes(restarted, target)
    assert len(target.host.serving("fine")) == 1
    restarted.close()


def test_drain_ends_by_itself_at_its_time_and_history_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x").mkdir()
    reconciler, target, drain = with_drain(tmp_path)
    until = time.time() + 5000
    drain.begin(ByHand("root", until=until))
    assert 4000 < (passes(reconciler, target).again_in or 0) <= 5000
    assert not target.host.replicas
    clock(monkeypatch, until + 1)
    passes(reconciler, target)
    assert target.host.serving("fine")
    reconciler.close()
    assert ("host_undrained", "the time given for it is over") in events(tmp_path)


def test_suspension_ends_by_itself_in_a_pass_and_history_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    until = time.time() + 5000
    Suspension(tmp_path / "suspended.json").add("default/fine", ByHand("root", until=until))
    passes(reconciler, target)
    assert not target.host.replicas
    clock(monkeypatch, until)
    passes(reconciler, target)
    assert target.host.serving("fine")
    reconciler.close()
    assert ("resumed", "the time given for it is over") in events(tmp_path)
    assert not Suspension(tmp_path / "suspended.json").names()


# ---------------------------------------------------------------- what people read


def lines(status: dict[str, Any]) -> str:
    return "\n".join(plain_lines(status_blocks(status)))


def test_status_says_who_suspended_a_service_why_and_until_when():
    suspended = report(suspended=frozenset({"demo/tiny"}), suspensions={"demo/tiny": ASKED})
    status = status_of(suspended)
    assert service_in(status)["suspension"] == {
        "by": "alice (as root)",
        "at": "1970-01-01T00:01:40.000Z",
        "reason": "a disk is replaced",
        "until": "2096-10-02T07:06:40.000Z",
    }
    assert f"suspended {SAID}" in lines(status)
    waiting = service_in(status) | {"sync": "Unknown", "step": "suspended"}
    said = Changes().since_last(with_service(status, **waiting))[-1]
    assert said == f"demo/tiny: suspended {SAID}; `reconciler resume demo/tiny` resumes it"
    assert fault(waiting) == f"suspended {SAID}; `reconciler resume demo/tiny` resumes it"


def test_status_says_who_suspended_everything():
    status = status_of(report(suspended=frozenset({"*"}), suspensions={"*": ASKED}))
    assert f"a: http://127.0.0.1:8080, no GPU, suspended {SAID}" in lines(status)


def test_status_and_metrics_say_who_drained_the_host():
    why = Reason(ReasonCode.DRAINED, "the host is drained", NO_ORIGIN)
    plan = replace(planned(verdict()), holds=Holds(drained_by_hand=why))
    drained = report(observed=observed(replica()), plan=plan, drained=ASKED)
    status = status_of(drained)
    assert status["targets"][0]["drained"]["by"] == "alice (as root)"
    assert status["targets"][0]["cordoned"] is None, "git did not say so"
    assert f"Drained {SAID} (`reconciler host undrain` ends it)" in lines(status)
    assert lines(status).startswith("revision 4f1c2ab0 “Serve tiny”, applied where possible: held up by a (Drained)")
    convergence = convergence_of(status)
    assert (convergence.failed, convergence.faults) == (
        True,
        (f"a: drained {SAID}; `reconciler host undrain` ends it",),
    )
    assert b'reconciler_target_drained{target="a"} 1.0' in Metrics().text(status)
    assert b'reconciler_target_drained{target="a"} 0.0' in Metrics().text(status_of(report()))


def test_plan_of_a_drained_host_does_not_claim_what_git_says():
    why = Reason(ReasonCode.DRAINED, "the host is drained", NO_ORIGIN)
    plan = replace(planned(verdict()), holds=Holds(drained_by_hand=why))
    drained = report(desired=state(desired()), observed=observed(), plan=plan, drained=ASKED)
    assert drained.desired
    assert drained.plan
    document = plan_document(status_of(drained), [(drained.desired, observed(), drained.plan)])
    said = list(plan_blocks(document))
    assert f"  ! Drained {SAID} (`reconciler host undrain` ends it)" in said
    assert said[-1] == "Nothing to do while the host is drained manually."
