"""When a revision counts as applied, and what holds it up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.model import (
    NO_ORIGIN,
    DesiredState,
    Health,
    HealthStatus,
    Holds,
    Origin,
    Plan,
    Reason,
    ReasonCode,
    Start,
    Sync,
    Unreachable,
)
from reconciler.report.applied import holds_up, is_applied
from tests.support.report_world import (
    OLD,
    SPEC,
    TINY,
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

BY_HAND = Holds(drained_by_hand=Reason(ReasonCode.DRAINED, "by hand", NO_ORIGIN))
BLOCKED = verdict(
    sync=Sync.OUT_OF_SYNC,
    health=Health(HealthStatus.MISSING, Reason(ReasonCode.BLOCKED, "Blocked: no GPU", NO_ORIGIN)),
    blocked=(Reason(ReasonCode.INSUFFICIENT_GPU, "no GPU", NO_ORIGIN),),
)
REJECTED = verdict(sync=Sync.OUT_OF_SYNC, rejected=rejection())
MOVING = verdict(
    sync=Sync.OUT_OF_SYNC,
    health=Health(HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "starts", NO_ORIGIN)),
    step="starts",
)
CRASHING = verdict(
    sync=Sync.OUT_OF_SYNC,
    health=Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASH_LOOP_BACKOFF, "crashed repeatedly", NO_ORIGIN)),
)
HUNG = verdict(
    sync=Sync.OUT_OF_SYNC, health=Health(HealthStatus.DEGRADED, Reason(ReasonCode.HUNG, "it is replaced", NO_ORIGIN))
)
RESTORING = verdict(sync=Sync.OUT_OF_SYNC, health=MOVING.health, rejected=rejection())
ASKING = verdict(sync=Sync.OUT_OF_SYNC, step="asking the engine")
SUSPENDED = verdict(
    sync=Sync.UNKNOWN, health=Health(HealthStatus.SUSPENDED, Reason(ReasonCode.SUSPENDED, "by hand", NO_ORIGIN))
)
UNUSABLE = desired(spec=None, problems=(Reason(ReasonCode.INVALID_DOCUMENT, "runtime x is unknown", NO_ORIGIN),))
BROKEN = (Reason(ReasonCode.INVALID_YAML, "no YAML", Origin("hosts/a/x.yaml", 3)),)
LOST = Reason(ReasonCode.NOT_PRUNABLE, "kept, because this target's folder is missing", NO_ORIGIN)
OTHER = desired(TINY.__class__("demo", "other"))
START = Start(replica().id, OLD, SPEC, Origin("f", 1), replica().lease, 1.0, "", "", "new")


@pytest.mark.parametrize(
    ("wanted", "plan", "applied", "held"),
    [
        (state(desired()), planned(verdict()), True, []),
        (state(desired()), planned(BLOCKED), True, ["InsufficientGPU"]),
        (state(desired()), planned(REJECTED), True, ["Rejected"]),
        (state(UNUSABLE), planned(verdict(sync=Sync.OUT_OF_SYNC)), True, ["InvalidDocument"]),
        (
            state(unreadable=BROKEN),
            planned(verdict(sync=Sync.UNKNOWN, kept=BROKEN[0])),
            True,
            ["InvalidYaml", "InvalidYaml"],
        ),
        (state(desired(), refused=BROKEN), planned(verdict()), True, ["InvalidYaml"]),
        (state(prunable=False), planned(verdict(sync=Sync.UNKNOWN, kept=LOST)), True, ["NotPrunable"]),
        (state(desired(), OTHER), planned(SUSPENDED, verdict(OTHER.id)), True, ["Suspended"]),
        (state(desired()), planned(SUSPENDED), False, ["Suspended"]),
        (state(desired()), replace(planned(verdict()), holds=BY_HAND), False, ["Drained"]),
        (state(desired()), planned(CRASHING), True, ["CrashLoopBackOff"]),
        (state(desired()), planned(replace(CRASHING, strategy="surge: start new")), False, []),
        (state(desired()), planned(HUNG), False, []),
        (state(desired()), planned(MOVING), False, []),
        (state(desired()), planned(RESTORING), False, []),
        (state(desired()), planned(ASKING), False, []),
        (state(desired()), planned(verdict(), actions=(START,)), False, []),
        (state(), planned(verdict(sync=Sync.OUT_OF_SYNC)), False, []),
    ],
)
def test_revision_counts_as_applied_when_all_that_can_be_is(
    wanted: DesiredState, plan: Plan, applied: bool, held: list[str]
) -> None:
    assert is_applied(wanted, observed(replica()), plan) is applied
    assert [one.reason.code for one in holds_up(wanted, plan)] == held


def test_revision_is_not_applied_on_a_target_out_of_reach() -> None:
    assert not is_applied(state(desired()), Unreachable("a", 1.0, "no route"), planned())


def test_status_says_fully_applied_only_when_nothing_is_held_up() -> None:
    held = status_of(report(plan=planned(BLOCKED)))
    assert (held["revision"]["applied"], held["revision"]["fullyApplied"]) == (held["revision"]["desired"], False)
    assert held["revision"]["heldUpBy"] == [
        {
            "target": "a",
            "service": "demo/tiny",
            "code": "InsufficientGPU",
            "message": "no GPU",
            "file": None,
            "line": None,
        }
    ]
    assert status_of(report())["revision"]["fullyApplied"]
    assert not status_of(report(plan=planned(MOVING)))["revision"]["fullyApplied"], "it fell behind afterwards"
    assert not status_of(report(observed=Unreachable("a", 1.0, "no route")))["revision"]["fullyApplied"]
