"""Times of stages that no fact dates are those at which they were seen to be over, or none."""

from __future__ import annotations

import pytest

from reconciler.config.settings import Routing
from reconciler.loop.stage_times import StageTimes
from reconciler.model import DesiredState
from reconciler.report.status import Document, TargetReport
from tests.support.report_world import status_of
from tests.support.simulation import Host, state, wanted

SURGE = ["staged", "started", "first token", "switched", "promoted", "drained"]
STOP_FIRST = ["staged", "drained", "started", "first token", "switched", "promoted"]


def look(host: Host, git: DesiredState, times: StageTimes) -> list[Document]:
    """One pass, and the stages that are shown then."""
    observed = host.observe()
    found = status_of(TargetReport(git, observed, host.step(git), Routing()))
    times.complete(found)
    (service,) = found["targets"][0]["services"]
    return list(service["stages"])


def roll(host: Host, git: DesiredState, times: StageTimes, tick: float) -> list[Document]:
    """Until the rollout is over; the stages then."""
    for _ in range(400):
        stages = look(host, git, times)
        if all(one["state"] == "done" for one in stages):
            return stages
        host.now += tick
    raise AssertionError(f"it does not end: {stages}")


@pytest.mark.parametrize(("gpus", "order"), [(2, SURGE), (1, STOP_FIRST)])
def test_finished_rollout_keeps_its_order_and_its_times(gpus: int, order: list[str]) -> None:
    host, times = Host(gpus=gpus), StageTimes()
    first = state(wanted("a", "good1", gpus=1))
    host.converge(first)
    git = state(wanted("a", "good2", gpus=1))
    look(host, git, times)
    stages = roll(host, git, times, 0.5)
    assert [one["name"] for one in stages] == order
    known = [one["at"] for one in stages if one["name"] != "staged"]
    assert known == sorted(known), stages
    host.now += 1000
    assert look(host, git, times) == stages


def test_what_happened_between_two_distant_looks_has_no_time() -> None:
    host, times = Host(gpus=2), StageTimes()
    host.converge(state(wanted("a", "good1", gpus=1)))
    git = state(wanted("a", "good2", gpus=1))
    look(host, git, times)
    host.converge(git)
    host.now += 60
    found = {one["name"]: one["at"] for one in look(host, git, times)}
    assert (found["switched"], found["drained"]) == (None, None)
    assert found["promoted"] is not None


def test_daemon_that_was_restarted_says_that_it_does_not_know() -> None:
    host, times = Host(gpus=1), StageTimes()
    git = state(wanted("a", "good1", gpus=1))
    seen = {one["name"]: one["at"] for one in roll(host, git, times, 0.5)}
    assert seen["switched"] is not None
    assert {one["name"]: one["at"] for one in look(host, git, StageTimes())}["switched"] is None


def test_restart_of_a_rollout_forgets_the_times_of_the_one_before() -> None:
    host, times = Host(gpus=2), StageTimes()
    for version in ("good1", "good2"):
        stages = roll(host, state(wanted("a", version, gpus=1)), times, 0.5)
    host.now += 100
    again = roll(host, state(wanted("a", "good1", gpus=1)), times, 0.5)
    earlier = max(one["at"] for one in stages if one["at"])
    assert min(one["at"] for one in again if one["at"]) > earlier
