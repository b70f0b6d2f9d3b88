"""Why a service that git does not show is kept, and why it goes: each reason reaches every output."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from reconciler.host.health import Patience
from reconciler.host.plan import make_plan
from reconciler.model import (
    NO_ORIGIN,
    DesiredState,
    Drain,
    Forget,
    Holds,
    Origin,
    Plan,
    Reason,
    ReasonCode,
    ServiceId,
    ServicePlan,
    Sync,
)
from reconciler.report.convergence import convergence_of
from reconciler.report.diff import state_diff
from reconciler.report.plan_text import plan_blocks
from reconciler.report.planned import plan_document
from reconciler.report.text import Block, Table, status_blocks
from tests.support.report_world import (
    HEALTHY,
    TINY,
    desired,
    observed,
    owned,
    planned,
    replica,
    report,
    service_in,
    state,
    status_of,
    verdict,
)

TWO = ServiceId("demo", "two")
BROKEN = Reason(ReasonCode.INVALID_YAML, "is not YAML: x", Origin("hosts/a/z.yaml", 9))
FILE = "hosts/a/two.yaml"


def plan_for(wanted: DesiredState, route_only: bool = False) -> tuple[Plan, Any]:
    """`two` runs, and git does not show it."""
    seen = observed(replica(), replica(TWO, origin=Origin(FILE, 7)), owned={TINY: owned(), TWO: owned(TWO)})
    return make_plan(wanted, seen, Holds(), Patience(30.0, 600.0, 120.0, 10.0)), seen


def leaving(wanted: DesiredState) -> str:
    plan, _ = plan_for(wanted)
    (drain,) = [action for action in plan.actions if isinstance(action, Drain)]
    assert drain.replica.service == TWO
    assert plan.verdicts[TWO].kept is None
    return drain.reason


def kept(wanted: DesiredState) -> Reason:
    plan, _ = plan_for(wanted)
    assert not [action for action in plan.actions if isinstance(action, Drain | Forget)]
    reason = plan.verdicts[TWO].kept
    assert reason
    return reason


def skip(code: ReasonCode, message: str, origin: Origin | None = None) -> dict[str, Any]:
    return {"skipped": {FILE: Reason(code, message, origin or Origin(FILE, 1))}}


def test_deleted_service_goes_with_its_reason() -> None:
    assert leaving(state(desired())) == "deleted in git"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"paths": ("runtimes", "hosts/b")},
            f"{FILE} is not read any more: targets[].paths in the config is runtimes, hosts/b, and no kustomization",
        ),
        (
            skip(ReasonCode.FILE_IGNORED, "ignored by `two.*`", Origin(".reconcilerignore", 3)),
            "ignored by `two.*` (.reconcilerignore:3)",
        ),
        (skip(ReasonCode.EMPTY_FILE, "holds no document"), f"{FILE} holds no document"),
        (skip(ReasonCode.NOT_A_MANIFEST, "is not a manifest"), f"{FILE} is not a manifest"),
        (
            {"skipped": {f"{FILE}.bak": Reason(ReasonCode.MISNAMED_MANIFEST, "not read", NO_ORIGIN)}},
            f"{FILE}.bak is not read",
        ),
    ],
)
def test_service_whose_file_is_not_read_goes_and_says_so(more: dict[str, Any], said: str) -> None:
    assert said in leaving(state(desired(), **more))


@pytest.mark.parametrize("by_config", [True, False])
def test_service_in_another_namespace_now_says_which_and_why(by_config: bool) -> None:
    renamed = ServiceId("prod", "two")
    named = frozenset({renamed}) if by_config else frozenset()
    why = leaving(state(desired(), desired(renamed, origin=Origin(FILE, 7)), in_default_namespace=named))
    assert why.startswith("now prod/two: targets[].default_namespace" if by_config else "now prod/two: its file says")


def unusable(service: ServiceId, file: str) -> Any:
    return desired(service, problems=(BROKEN,), spec=None, origin=Origin(file, 7))


@pytest.mark.parametrize(
    ("successor", "file"),
    [(ServiceId("demo", "next"), FILE), (ServiceId("prod", "two"), FILE), (ServiceId("prod", "two"), "hosts/a/n.yaml")],
)
def test_renamed_service_is_kept_while_its_successor_is_unusable(successor: ServiceId, file: str) -> None:
    found = kept(state(desired(), unusable(successor, file)))
    assert (found.origin, str(successor) in found.message) == (BROKEN.origin, True)
    assert "deleted in git" in leaving(state(desired(), unusable(ServiceId("prod", "other"), "hosts/a/n.yaml")))
    # What was here before took nobody's place.
    assert "deleted in git" in leaving(state(unusable(TINY, FILE)))


def test_emptied_file_deletes_only_if_all_else_is_well() -> None:
    hollow = skip(ReasonCode.EMPTY_FILE, "holds no document")
    for faulty in (
        state(desired(), refused=(BROKEN,), **hollow),
        state(desired(problems=(BROKEN,), spec=None), **hollow),
        state(desired(), unreadable=(BROKEN,), **hollow),
    ):
        assert "hosts/a/z.yaml:9" in str(kept(faulty))


def test_service_in_a_hidden_file_is_kept() -> None:
    # Hidden files were read once: an upgrade must not delete what came from them.
    assert kept(state(desired(), **skip(ReasonCode.HIDDEN, "begins with a dot"))).origin == Origin(FILE, 1)


def test_missing_host_file_is_named_with_what_it_keeps() -> None:
    note = Reason(ReasonCode.NOT_PRUNABLE, "is missing", Origin("hosts/a/host.yaml", 1))
    reason = kept(state(desired(), prunable=False, notes=(note,)))
    assert (reason.code, reason.origin) == ("NotPrunable", note.origin)
    assert "hosts/a/host.yaml is missing" in reason.message


# ---------------------------------------------------------------- outputs


def text_of(blocks: Any) -> str:
    def lines(block: Block) -> str:
        return "\n".join(" | ".join(row) for row in block.rows) if isinstance(block, Table) else block

    return "\n".join(lines(block) for block in blocks)


def outputs(wanted: DesiredState, seen: Any, plan: Plan) -> dict[str, str]:
    """Everything that people and scripts are shown."""
    status = status_of(report(desired=wanted, observed=seen, plan=plan))
    document = plan_document(status, [(wanted, seen, plan)])
    diffs = state_diff(wanted, seen, plan.verdicts)
    return {
        "status": text_of(status_blocks(status)),
        "status -o json": json.dumps(status),
        "plan": text_of(plan_blocks(document)),
        "plan -o json": json.dumps(document),
        "diff": "\n".join(one.note for one in diffs),
        "diff -o json": json.dumps([one.document() for one in diffs]),
        "sync": "\n".join(convergence_of(status).faults),
    }


@pytest.mark.parametrize("suspended", [(), (TWO,)])
@pytest.mark.parametrize("elsewhere", [(), (Reason(ReasonCode.NOT_FOR_THIS_HOST, "its nodeSelector", NO_ORIGIN),)])
def test_kept_service_says_why_in_every_output(suspended: tuple[ServiceId, ...], elsewhere: tuple[Reason, ...]) -> None:
    services = (desired(), desired(TWO, replicas=0, not_here=elsewhere)) if elsewhere else (desired(),)
    wanted = state(*services, unreadable=(BROKEN,))
    _, seen = plan_for(wanted)
    plan = make_plan(wanted, seen, Holds(suspended=frozenset(map(str, suspended))), Patience(30.0, 600.0, 120.0, 10.0))
    shown = outputs(wanted, seen, plan)
    lines = {name: [line for line in text.split("\n") if "kept" in line] for name, text in shown.items()}
    assert all("hosts/a/z.yaml" in "".join(found) and "is not YAML: x" in "".join(found) for found in lines.values()), (
        lines
    )
    assert "hosts/a/z.yaml:9" in "".join(lines["status"] + lines["plan"] + lines["diff"] + lines["sync"])
    service = service_in(status_of(report(desired=wanted, observed=seen, plan=plan)), "two")
    assert (service["kept"]["file"], service["kept"]["line"]) == ("hosts/a/z.yaml", 9)


def test_sync_does_not_wait_for_what_is_kept() -> None:
    elsewhere = (Reason(ReasonCode.NOT_FOR_THIS_HOST, "its nodeSelector", NO_ORIGIN),)
    wanted = state(desired(TWO, replicas=0, not_here=elsewhere), unreadable=(BROKEN,))
    plan, seen = plan_for(wanted)
    status = status_of(report(desired=wanted, observed=seen, plan=plan))
    assert convergence_of(status).settled
    assert not convergence_of(status).converged


def test_service_known_by_its_route_alone_is_shown_when_kept() -> None:
    wanted = state(desired())
    ghost = verdict(TWO, Sync.UNKNOWN, kept=BROKEN)
    assert "is not YAML" in outputs(wanted, observed(replica()), planned(verdict(), ghost))["status"]


MARK = Reason(ReasonCode.NOT_FOR_THIS_HOST, "why-7f3a", Origin("hosts/a/mark.yaml", 77))


def worlds() -> dict[str, tuple[DesiredState, ServicePlan]]:
    """One world for each place where a plan, or what it was made from, can hold a reason."""
    fine, off = verdict(), replace(verdict(), health=replace(HEALTHY, reason=MARK))
    sound = desired()
    return {
        "state.unreadable": (state(sound, unreadable=(MARK,)), fine),
        "state.refused": (state(sound, refused=(MARK,)), fine),
        "state.notes": (state(sound, notes=(MARK,)), fine),
        "state.drain": (state(sound, drain=MARK), fine),
        "service.problems": (state(desired(problems=(MARK,), spec=None)), fine),
        "service.warnings": (state(desired(warnings=(MARK,))), fine),
        "service.warnings_without_gpu": (state(desired(warnings_without_gpu=(MARK,))), fine),
        "verdict.blocked": (state(sound), replace(fine, blocked=(MARK,))),
        "verdict.kept": (state(sound), replace(fine, kept=MARK)),
        "verdict.health": (state(sound), off),
    }


@pytest.mark.parametrize("where", worlds())
def test_reason_reaches_status_and_plan(where: str) -> None:
    wanted, said = worlds()[where]
    bad = where not in ("state.notes", "service.warnings", "service.warnings_without_gpu", "state.drain")
    if bad and where != "state.unreadable" and where != "state.refused":
        said = replace(said, sync=Sync.OUT_OF_SYNC)
    shown = outputs(wanted, observed(replica()), planned(said))
    for name in ("status", "status -o json", "plan -o json", *(("plan", "sync") if bad else ())):
        assert MARK.message in shown[name], name
    places = ("status", *(("plan", "sync") if bad else ()))
    assert all("hosts/a/mark.yaml:77" in shown[name] for name in places if where != "state.drain")


def test_note_of_a_plan_reaches_status_and_plan() -> None:
    plan = replace(planned(verdict()), notes=(MARK,))
    shown = outputs(state(desired()), observed(replica()), plan)
    assert all("why-7f3a" in shown[name] for name in ("status", "status -o json", "plan", "plan -o json"))
