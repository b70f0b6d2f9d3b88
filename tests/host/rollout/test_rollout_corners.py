"""Corners of a rollout where a request, a service or the room of a service could get lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.host.plan import make_plan
from reconciler.model import (
    NO_ORIGIN,
    AskPreflight,
    Drain,
    Holds,
    NoteCrash,
    Origin,
    Preflight,
    Quarantine,
    Reason,
    ReasonCode,
    Reattach,
    Reject,
    Restart,
    ServiceId,
    SetRoutes,
    Start,
    Stop,
)
from tests.support.arguments import written
from tests.support.simulation import PATIENCE, Host, state, wanted

A = ServiceId("default", "a")


def converged(*services, **more) -> Host:
    host = Host(**more)
    host.converge(state(*services))
    return host


def test_suspended_service_keeps_its_route_when_proxy_runs_another_table():
    commit = state(wanted("a", "good1"), wanted("b", "good1"))
    host = converged(*commit.services)
    before = host.routes
    # Nobody knows what was told before: the daemon died while telling it, or the domain has changed.
    observed = replace(host.observe(), routes={})
    plan = make_plan(commit, observed, host.holds(commit, A), PATIENCE)
    (told,) = [action for action in plan.actions if isinstance(action, SetRoutes)]
    assert {route.service: route for route in told.routes} == before


def test_digest_refused_for_its_files_is_tried_once_they_are_there():
    host = converged(wanted("a", "good1"))
    commit = state(wanted("a", "good2"))
    refused = Quarantine(A, "good2-a", Reason(ReasonCode.MODEL_NOT_FOUND, "/m: no such folder", NO_ORIGIN), "r", 0.0)
    known = {(A, "good2-a"): refused}

    def plan_with(preflight: Preflight | None, quarantines=known):
        found = {} if preflight is None else {"good2-a": preflight}
        return make_plan(commit, replace(host.observe(), preflights=found), Holds(quarantines=quarantines), PATIENCE)

    empty = Reason(ReasonCode.MODEL_NOT_FOUND, "/m: holds no config.json", NO_ORIGIN)
    still = plan_with(Preflight("", reasons=(empty,)))
    assert not still.actions
    assert still.verdicts[A].rejected == replace(refused, reason=empty)
    assert [type(action) for action in plan_with(None).actions] == [AskPreflight]
    assert any(isinstance(action, Start) for action in plan_with(Preflight("p")).actions)
    crashed = {(A, "good2-a"): replace(refused, reason=Reason(ReasonCode.CRASHED, "it ended", NO_ORIGIN))}
    assert not plan_with(Preflight("p"), crashed).actions


def test_nobody_waits_for_room_that_a_suspended_service_will_not_free():
    host = converged(wanted("a", "good1", gpus=1), wanted("b", "good1", gpus=1), gpus=2, busy_seconds=5.0)
    host.step(state(wanted("b", "good1", gpus=1)))
    assert any(isinstance(action, Drain) for action in host.log)
    commit = state(wanted("b", "good2", gpus=1))
    plan = make_plan(commit, host.observe(), host.holds(commit, A), PATIENCE)
    for _ in range(60):
        plan = make_plan(commit, host.observe(), host.holds(commit, {A}), PATIENCE)
        for action in plan.actions:
            host.perform(action)
        host.now += 0.5
    assert plan.look_again_at is None
    assert [replica.digest for replica in host.serving("b")] == ["good2-b"]


def test_canary_with_equivalent_arguments_keeps_the_stable_replicas():
    host = converged(wanted("a", "good1"))
    new = replace(wanted("a", "good1", canary=20), digest="good9-a")
    assert new.spec is not None
    new = replace(new, spec=replace(new.spec, args=written("--a=1")))
    host.preflights["good9-a"] = Preflight(parsed="good1-a")
    for _ in range(20):
        host.step(state(new))
        assert host.routes[A].stable
        host.now += 0.5
    host.converge(state(new))
    assert not any(isinstance(action, Stop) for action in host.log)


def test_planned_replica_that_is_not_wanted_any_more_is_not_started():
    host = converged(wanted("a", "good1", 2))
    youngest = max(host.replicas)
    host.replicas[youngest] = replace(host.replicas[youngest], spawned=False, alive=False, ready_at=None)
    plan = make_plan(state(wanted("a", "good1", 1)), host.observe(), Holds(), PATIENCE)
    assert [action.replica for action in plan.actions if isinstance(action, Stop)] == [youngest]
    assert not any(isinstance(action, Start) for action in plan.actions)


def test_service_of_no_replicas_stays_so_while_git_cannot_be_followed():
    host = converged(wanted("a", "good1"))
    host.converge(state(wanted("a", "good1", 0)))
    since = len(host.log)
    host.converge(state(replace(wanted("a", "good1"), spec=None, digest="")))
    host.converge(state(wanted("a", "reject2")))
    assert not any(isinstance(action, Start) for action in host.log[since:])
    host.converge(state(wanted("a", "good1")))
    assert len(host.serving("a")) == 1


def test_draining_replica_is_taken_back_while_a_new_digest_is_in_preflight():
    host = converged(wanted("a", "good1"), memory=1, busy_seconds=1.0)
    while not any(isinstance(action, Drain) for action in host.log):
        host.step(state(wanted("a", "good2")))
        host.now += 0.5
    host.converge(state(wanted("a", "reject3")))
    assert not any(isinstance(action, Stop) for action in host.log)


def test_commit_whose_port_is_always_taken_is_rejected_in_the_end():
    host = converged(wanted("a", "good1"), memory=1)
    commit = state(wanted("a", "never2"))
    for _ in range(400):
        host.step(commit)
        host.now += 0.5
        for key, replica in host.replicas.items():
            if replica.digest == "never2-a" and host.now - replica.created_at > 3:
                host.replicas[key] = replace(replica, alive=False, last_words=("Address already in use",))
    assert sum(isinstance(action, Reject) for action in host.log) == 1
    assert [replica.digest for replica in host.serving("a")] == ["good1-a"]


def test_service_that_moved_into_a_file_that_cannot_be_read_is_kept():
    host = converged(wanted("a", "good1"))
    broken = Reason(ReasonCode.INVALID_YAML, "broken", Origin("elsewhere/b.yaml", 3))
    plan = host.converge(state(unreadable=(broken,)))
    assert plan.verdicts[A].health.reason.code == "Serving"
    assert len(host.serving("a")) == 1
    host.converge(state())
    assert not host.replicas


def test_cut_of_who_knows_how_many_requests_is_not_called_none():
    host = converged(wanted("a", "good1"), busy_seconds=100.0)
    host.step(state())
    host.now += 11
    observed = host.observe()
    dumb = replace(observed, replicas=tuple(replace(r, in_flight=None) for r in observed.replicas))
    (stop,) = [a for a in make_plan(state(), dumb, Holds(), PATIENCE).actions if isinstance(a, Stop)]
    assert "an unknown number of running requests" in stop.reason


def test_death_counts_once_though_the_daemon_died_after_it_was_noted():
    commit = state(wanted("a", "good1"))
    host = converged(*commit.services)
    for deaths in (1, 2):
        ((key, replica),) = host.replicas.items()
        host.replicas[key] = replace(replica, alive=False)
        plan = make_plan(commit, host.observe(), Holds(), PATIENCE)
        noted = next(n for n, action in enumerate(plan.actions) if isinstance(action, NoteCrash))
        host.step(commit, die_after=noted + 1)
        host.now += 1
        host.converge(commit)
        assert len(host.owned[A].crashes) == deaths


# ---------------------------------------------------------------- restarts by others


@pytest.mark.parametrize("how", Restart)
def test_replica_that_was_restarted_goes_on_once_it_answers(how: Restart):
    commit = state(wanted("a", "good1"))
    host = converged(*commit.services)
    since = len(host.log)
    host.restart_processes("a", how)
    plan = host.step(commit)
    assert plan.verdicts[A].step.startswith(f"drift of good1-a-0: {how}")
    assert not host.routes[A].stable, "nobody is sent to who cannot answer"
    assert f"starting good1-a-0: {how}" in host.step(commit).verdicts[A].step
    host.converge(commit)
    assert [type(action) for action in host.log[since:] if isinstance(action, Reattach | Start | Stop)] == [Reattach]
    assert len(host.serving("a")) == 1
    assert len(host.owned[A].crashes) == (how is Restart.CRASHED)


def test_restarted_replica_that_serves_already_stays_in_service():
    commit = state(wanted("a", "good1"))
    host = converged(*commit.services)
    host.restart_processes("a", Restart.CRASHED)
    host.now += 10
    host.step(commit)
    assert host.routes[A].stable
    assert not host.step(commit).actions
    assert len(host.owned[A].crashes) == 1


def test_what_crashed_on_trial_has_failed_though_it_was_started_again():
    host = converged(wanted("a", "good1"))
    commit = state(wanted("a", "good2"))
    while not any(replica.digest == "good2-a" for replica in host.serving("a")):
        host.step(commit)
        host.now += 0.5
    host.replicas = {k: replace(r, restarted=Restart.CRASHED) for k, r in host.replicas.items()}
    host.converge(commit)
    assert sum(isinstance(action, Reject) for action in host.log) == 1
    assert [replica.digest for replica in host.serving("a")] == ["good1-a"]


def test_who_restarts_what_is_on_trial_gives_it_its_time_again():
    host = converged(wanted("a", "good1"))
    commit = state(wanted("a", "good2"))
    while not any(replica.digest == "good2-a" for replica in host.replicas.values()):
        host.step(commit)
        host.now += 0.5
    host.now += PATIENCE.ready_timeout - 1
    host.restart_processes("a", Restart.BY_HAND)
    host.converge(commit)
    assert not any(isinstance(action, Reject) for action in host.log)
    assert [replica.digest for replica in host.serving("a")] == ["good2-a"]


# ---------------------------------------------------------------- room


def test_two_services_never_count_on_the_same_free_gpu():
    host = converged(wanted("a", "good1", gpus=1), wanted("b", "good1", gpus=1), gpus=3)
    host.converge(state(wanted("a", "good2", gpus=2), wanted("b", "good2", gpus=2)))
    assert [len(host.serving(name)) for name in "ab"] == [1, 1]


def test_neighbour_does_not_grow_into_the_room_between_two_replicas():
    host = converged(wanted("a", "good1", gpus=1), wanted("b", "good1", gpus=1), gpus=2)
    host.converge(state(wanted("a", "good1", 2, gpus=1), wanted("b", "good2", gpus=1)))
    assert [replica.digest for replica in host.serving("b")] == ["good2-b"]


def test_last_good_spec_finds_its_room_again_after_a_smaller_one_failed():
    host = converged(wanted("a", "good1", gpus=2), gpus=2)
    host.converge(state(wanted("a", "crash2", gpus=1), wanted("n", "good1", gpus=1)))
    assert [replica.digest for replica in host.serving("a")] == ["good1-a"]
    assert not host.serving("n")


def test_newcomer_does_not_take_the_room_of_a_service_that_backs_off():
    old = wanted("z", "good1", gpus=1)
    host = converged(old, gpus=1)
    for _ in range(2):
        ((key, replica),) = host.replicas.items()
        host.replicas[key] = replace(replica, alive=False)
        host.step(state(old))
    host.converge(state(wanted("a", "good1", gpus=1), old))
    assert host.serving("z")
    assert not host.serving("a")


def test_gpu_that_host_does_not_offer_any_more_is_no_room_for_successor():
    host = converged(wanted("a", "good1", gpus=1), wanted("b", "good1", gpus=1), gpus=2)
    host.gpus = 1
    host.converge(state(wanted("a", "good1", gpus=1), wanted("b", "good2", gpus=1)))
    assert [replica.digest for replica in host.serving("b")] == ["good1-b"]


def test_two_rollouts_do_not_deadlock_on_a_host_that_shrank():
    second = state(wanted("a", "good2", 2), wanted("b", "good2", 2))
    host = converged(wanted("a", "good1", 2), wanted("b", "good1", 2), memory=4)
    for service in second.services:
        assert service.spec is not None
        youngest = max(key for key in host.replicas if key.service == service.id)
        host.replicas[youngest] = replace(host.replicas[youngest], digest=service.digest, spec=service.spec)
    host.converge(second)
    assert [r.digest for name in "ab" for r in host.serving(name)] == ["good2-a"] * 2 + ["good2-b"] * 2


def test_nobody_waits_for_what_stays_because_its_successor_was_rejected():
    host = converged(wanted("a", "good1"), wanted("b", "good1", 2), memory=3)
    host.converge(state(wanted("a", "good2"), wanted("b", "reject2")))
    assert [r.digest for r in host.serving("a")] == ["good2-a"]
    assert [r.digest for r in host.serving("b")] == ["good1-b"] * 2


def stop_by_hand(host: Host, digest: str) -> None:
    (replica,) = [replica for replica in host.replicas.values() if replica.digest == digest]
    host.replicas[replica.id] = replace(replica, alive=False, drift="its unit was stopped manually")


def test_replicas_stopped_by_hand_are_started_again_without_blame():
    host = converged(wanted("a", "good1"))
    for _ in range(4):
        stop_by_hand(host, "good1-a")
        host.converge(state(wanted("a", "good1")))
    reasons = [action.reason for action in host.log if isinstance(action, Stop)]
    assert reasons == ["its unit was stopped manually"] * 4
    assert not any(isinstance(action, NoteCrash | Reject) for action in host.log)
    assert host.now < 1060, "there is nothing to wait for before the next start"


def test_whoever_stops_a_replica_before_it_is_trusted_condemns_no_commit():
    host = converged(wanted("a", "good1"))
    commit = state(wanted("a", "good2"))
    for _ in range(40):
        host.step(commit)
        host.now += 0.25
        if any(replica.digest == "good2-a" for replica in host.replicas.values()):
            break
    stop_by_hand(host, "good2-a")
    host.converge(commit)
    assert not any(isinstance(action, Reject) for action in host.log)
    assert [replica.digest for replica in host.serving("a")] == ["good2-a"]
