"""Every recorded status sequence of a real KServe, step by step: health never misleads, and ends as it should."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.health.problems import Fault, HealthLimits
from reconciler.cluster.health.rollout import RolloutState, rollout_outcome
from reconciler.cluster.health.service import service_health
from reconciler.model import HealthStatus
from tests.cluster.health.recorded import SEQUENCES, START, Cluster, Sequence

LIMITS = HealthLimits()
LATER = 7200.0
each_sequence = pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda each: each.name)


def look(cluster: Cluster, now: float) -> ServingHealth:
    """The health at one time."""
    return service_health(cluster.service, cluster.children(), now, LIMITS)


def said(health: ServingHealth) -> str:
    """As the files write it."""
    return f"{health.health.phase} {health.health.reason.code}"


@each_sequence
def test_sequence_step_by_step_has_the_health_a_person_would_give(sequence: Sequence) -> None:
    expected = ""
    for now, cluster, frame in sequence.play():
        expected = frame.get("health", expected)
        assert said(look(cluster, now)) == expected, f"at {frame['t']} s: {frame}"


@each_sequence
def test_sequence_at_no_step_calls_what_is_not_there_healthy(sequence: Sequence) -> None:
    for now, cluster, frame in sequence.play():
        health = look(cluster, now)
        if health.health.phase is not HealthStatus.HEALTHY:
            continue
        assert cluster.deployment
        counts = cluster.deployment["status"]
        assert counts["updatedReplicas"] == counts["readyReplicas"] == counts["replicas"], frame
        assert counts["replicas"] == cluster.deployment["spec"]["replicas"] == health.ready, frame
        shown = cluster.deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        assert set(cluster.service["spec"]["predictor"]["model"].get("args", [])) <= set(shown), frame
        assert health.url, frame


@each_sequence
@pytest.mark.parametrize(("when", "seconds"), [("end", 0.0), ("later", LATER)])
def test_sequence_at_its_end_says_what_is_live_and_whose_fault(sequence: Sequence, when: str, seconds: float) -> None:
    *_, (now, cluster, _) = sequence.play()
    health = look(cluster, now + seconds)
    rollout = rollout_outcome(health, now + seconds, LIMITS)
    found: dict[str, Any] = {
        "health": said(health),
        "message": health.health.reason.message,
        "serving": health.serving,
        "rollout": str(rollout.state) + (f" {rollout.fault}" if rollout.fault else ""),
    }
    assert found == getattr(sequence, when)


def test_crash_of_an_update_is_the_commits_and_the_old_one_serves() -> None:
    [sequence] = [each for each in SEQUENCES if each.name == "healthy-to-crash"]
    [(now, health)] = [(now, look(cluster, now)) for now, cluster, frame in sequence.play() if frame.get("t") == 7.76]
    rollout = rollout_outcome(health, now, LIMITS)
    assert (rollout.state, rollout.fault, rollout.is_quarantined) == (RolloutState.FAILED, Fault.COMMIT, True)
    assert "the version before still serves with 1 replica" in health.health.reason.message
    proven = rollout_outcome(health, now, LIMITS, proven=True)
    assert not proven.is_quarantined


def test_update_without_gpu_is_waited_for_and_then_the_clusters() -> None:
    [sequence] = [each for each in SEQUENCES if each.name == "deadline-update-no-gpu"]
    states = {
        round(now - START, 2): rollout_outcome(look(cluster, now), now, LIMITS) for now, cluster, _ in sequence.play()
    }
    assert states[8.44].state is RolloutState.UNDER_WAY
    assert states[8.44].look_again_at == START + 8 + LIMITS.scheduling
    assert (states[609.37].state, states[609.37].fault) == (RolloutState.FAILED, Fault.CLUSTER)
    assert not states[609.37].is_quarantined
