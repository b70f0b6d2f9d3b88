"""The stages that people see while the planner of hosts rolls out: they go on, never back, and end where it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.config.settings import Routing
from reconciler.model import DesiredState, Strategy, Sync
from reconciler.report.status import Document, TargetReport
from tests.support.examples import examples
from tests.support.report_world import status_of
from tests.support.simulation import Host, state, wanted

OVER = {"done", "skipped"}
SURGE = ["staged", "started", "first token", "switched", "promoted", "drained"]
STOP_FIRST = ["staged", "drained", "started", "first token", "switched", "promoted"]


def rollout(host: Host, git: DesiredState, passes: int = 300) -> Iterator[list[Document]]:
    """The stages at each pass until nothing is to be done."""
    for _ in range(passes):
        observed = host.observe()
        plan = host.step(git)
        (service,) = status_of(TargetReport(git, observed, plan, Routing()))["targets"][0]["services"]
        yield service["stages"]
        (verdict,) = plan.verdicts.values()
        if not plan.actions and not verdict.step and not host.asking:
            return
        host.now += 0.5
    raise AssertionError("it does not end")


def names(stages: list[Document]) -> list[str]:
    return [one["name"] for one in stages]


def states(stages: list[Document]) -> dict[str, str]:
    return {one["name"]: one["state"] for one in stages}


def a_host(version: str, gpus: int, replicas: int, strategy: Strategy | None = None, uri: str | None = None) -> Host:
    """One where this version is promoted."""
    host = Host(gpus=gpus)
    first = state(wanted("a", version, replicas, gpus=1, strategy=strategy, uri=uri))
    assert host.converge(first).verdicts.popitem()[1].sync is Sync.SYNCED  # type: ignore[attr-defined]
    return host


STRATEGIES = st.sampled_from([None, Strategy(1, 0), Strategy(0, 1), Strategy(1, 1), Strategy(0, 3, recreate=True)])
URIS = st.sampled_from([None, "s3://models/b", "s3://flaky/b"])


@settings(max_examples=examples(50))
@given(st.integers(1, 3), st.integers(1, 4), STRATEGIES, URIS)
def test_stages_of_a_good_version_never_go_back(
    replicas: int, gpus: int, strategy: Strategy | None, uri: str | None
) -> None:
    gpus = max(gpus, replicas)
    host = a_host("good1", gpus, replicas, strategy)
    git = state(wanted("a", "good2", replicas, gpus=1, strategy=strategy, uri=uri))
    over: set[str] = set()
    for found in rollout(host, git):
        now = states(found)
        assert list(now.values()).count("active") <= 1
        done = {name for name, each in now.items() if each in OVER}
        assert over <= done
        over = done
    if gpus == replicas and strategy is not None and not strategy.max_unavailable:
        # Git lets no replica go, and there is room for no other.
        assert "active" not in now.values()
        assert next(one["detail"] for one in found if one["state"] == "waiting")
    else:
        assert over == set(SURGE)


@pytest.mark.parametrize(("gpus", "order"), [(2, SURGE), (1, STOP_FIRST)])
def test_stages_stand_in_the_order_in_which_they_happen(gpus: int, order: list[str]) -> None:
    host = a_host("good1", gpus, 1)
    seen = list(rollout(host, state(wanted("a", "good2", gpus=1))))
    # Until the arguments are accepted, no strategy is chosen.
    chosen = [found for found in seen if names(found) == order]
    active = [one["name"] for found in chosen for one in found if one["state"] == "active"]
    assert list(dict.fromkeys(active)) == [name for name in order if name in active]
    assert {"first token", "promoted", "drained"} <= set(active)


@pytest.mark.parametrize(
    ("version", "failed"),
    [("reject1", "started"), ("crash1", "first token"), ("never1", "first token"), ("late1", "promoted")],
)
@pytest.mark.parametrize("gpus", [1, 2])
def test_failed_version_ends_at_its_stage_and_the_last_good_one_is_back(version: str, failed: str, gpus: int) -> None:
    host = a_host("good1", gpus, 1)
    *_, last = rollout(host, state(wanted("a", version, gpus=1)))
    assert [one["name"] for one in last if one["state"] == "failed"] == [failed]
    assert states(last)["rolled back"] == "done"
