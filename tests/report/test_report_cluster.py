"""What people read of a cluster's objects that belong to no service."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

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
    Sync,
)
from reconciler.report.convergence import convergence_of, only
from reconciler.report.plan_text import plan_blocks
from reconciler.report.planned import plan_document
from reconciler.report.screen import show
from reconciler.report.text import status_blocks
from tests.support.report_world import SETTINGS, cluster, status_of

ROUTE = replace(SETTINGS, object=ObjectId("gateway.networking.k8s.io", "HTTPRoute", "team", "chat"))
CHANGED = replace(ROUTE, sync=Sync.OUT_OF_SYNC, change=ObjectChange.CHANGE, why="git changed it")
REFUSED = replace(CHANGED, reasons=(Reason(ReasonCode.REJECTED, "the webhook says no", Origin("a.yaml", 7)),))
DEGRADED = replace(
    ROUTE, health=Health(HealthStatus.DEGRADED, Reason(ReasonCode.NOT_SERVING, "no listener", NO_ORIGIN))
)


def text(blocks: Any) -> str:
    out = io.StringIO()
    show(blocks, out)
    return out.getvalue()


def test_status_counts_objects_and_names_those_out_of_sync() -> None:
    said = text(status_blocks(status_of(cluster(SETTINGS, REFUSED))))
    assert "2 other objects: 1 in sync, 1 not" in said
    assert "HTTPRoute.gateway.networking.k8s.io team/chat: a.yaml:7: the webhook says no" in said
    assert "ConfigMap" not in said


@pytest.mark.parametrize(
    ("found", "converged", "settled"),
    [
        (SETTINGS, True, True),
        (CHANGED, False, False),
        (REFUSED, False, True),
        (DEGRADED, False, True),
        (replace(CHANGED, change=ObjectChange.WAIT), False, False),
        (replace(CHANGED, change=ObjectChange.KEEP), False, True),
    ],
)
def test_object_counts_for_what_status_concludes(found: ObjectPlan, converged: bool, settled: bool) -> None:
    known = convergence_of(status_of(cluster(found)))
    assert (known.converged, known.settled) == (converged, settled)


def test_status_of_one_service_leaves_other_objects_out() -> None:
    assert only(status_of(cluster(REFUSED)), "team/chat")["targets"] == []


def test_plan_without_changes_counts_services_and_objects() -> None:
    known = cluster(SETTINGS, ROUTE)
    assert known.desired
    assert known.observed
    assert known.plan
    plan = plan_document(status_of(known), [(known.desired, known.observed, known.plan)])
    assert "Nothing to do: 0 services and 2 other objects in sync." in text(plan_blocks(plan))
