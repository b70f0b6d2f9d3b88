"""What the planner says and does in the situations that people ask about."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from reconciler.host.plan import make_plan
from reconciler.model import (
    NO_ORIGIN,
    AskPreflight,
    Desired,
    Drain,
    Fit,
    HealthStatus,
    Holds,
    NoteCrash,
    Origin,
    Preflight,
    Promote,
    Reason,
    ReasonCode,
    Reject,
    Relabel,
    ServiceId,
    SetRoutes,
    Stage,
    Start,
    Stop,
    Strategy,
    Sync,
    Undrain,
)
from tests.support.arguments import written
from tests.support.simulation import PATIENCE, Host, beside, state, wanted


def kinds(host: Host, since: int = 0) -> list[str]:
    return [type(action).__name__ for action in host.log[since:]]


def served(**more) -> tuple[Host, object]:
    """A host that serves `a` in its first version."""
    host = Host(**more)
    commit = state(wanted("a", "good1"))
    host.converge(commit)
    return host, commit


def test_first_rollout_takes_every_step_in_order():
    host, _ = served()
    assert kinds(host) == [
        "EnsureProxy",
        "SetRoutes",  # the service exists and answers 503 until something is ready
        "AskPreflight",
        "TakeOwnership",
        "Start",
        "MarkReady",
        "SetRoutes",
        "Promote",
    ]


def test_service_is_new_to_clients_until_it_serves_and_never_again():
    host = Host()
    commit = state(wanted("a", "crash1"))
    plan = make_plan(commit, host.observe(), Holds(), PATIENCE)
    (route,) = next(action for action in plan.actions if isinstance(action, SetRoutes)).routes
    assert route.is_new
    host, _ = served()
    assert [each.is_new for each in host.routes.values()] == [False]
    host.converge(state(wanted("a", "good1", replicas=0)))
    assert [(each.stable, each.is_new) for each in host.routes.values()] == [((), False)]


def named(version: str, *names: str) -> Desired:
    """Two replicas that answer to more names than that of the service."""
    service = wanted("a", version, replicas=2)
    assert service.spec
    return replace(service, spec=replace(service.spec, args=written("--served-model-name", *names)), model_names=names)


def test_other_model_names_are_routed_while_every_replica_answers_to_them():
    host = Host()
    host.converge(state(named("good1", "old", "both")))
    seen = [[each.model_names for each in host.routes.values()]]
    commit = state(named("good2", "both", "new"))
    while len({r.digest for r in host.serving("a")} | {commit.services[0].digest}) > 1:
        host.step(commit)
        seen.append([each.model_names for each in host.routes.values()])
        host.now += 0.5
    host.converge(commit)
    assert [(each.model_names, each.canary_names) for each in host.routes.values()] == [(("both", "new"), ())]
    assert set(map(tuple, map(tuple, seen))) <= {(("old", "both"),), (("both",),), (("both", "new"),)}
    host.converge(state(named("reject3", "other")))
    assert [each.model_names for each in host.routes.values()] == [("both", "new")]


def test_with_room_the_new_one_is_trusted_before_the_old_one_is_drained():
    host, _ = served()
    since = len(host.log)
    host.converge(state(wanted("a", "good2")))
    order = kinds(host, since)
    assert order.index("Promote") < order.index("Drain") < order.index("Stop") < order.index("Remove")


def test_without_room_the_plan_says_stop_first_and_why():
    host, _ = served(memory=1)
    said = set()
    for _ in range(60):
        plan = host.step(state(wanted("a", "good2")))
        said.add(next(iter(plan.verdicts.values())).strategy)
        host.now += 0.5
    (stop_first,) = [text for text in said if text.startswith("stop-first")]
    assert "needs 1.0 GiB of memory, 0.0 GiB of 1.0 GiB free" in stop_first


def test_nothing_is_stopped_for_a_successor_that_would_not_fit():
    host, _ = served(memory=2)
    since = len(host.log)
    commit = state(wanted("a", "good2", memory=4))
    verdict = next(iter(host.converge(commit).verdicts.values()))
    assert not [a for a in host.log[since:] if isinstance(a, Drain | Stop)]
    assert verdict.blocked[0].message == "needs 4.0 GiB, this host has 2.0 GiB"
    assert verdict.blocked[0].origin == commit.services[0].origin
    assert (verdict.sync, verdict.health.phase) == (Sync.OUT_OF_SYNC, HealthStatus.HEALTHY)


def test_blocked_service_names_holders_of_gpus_and_starts_when_one_is_free():
    host = Host(gpus=2)
    three = state(*[wanted(name, "good1", gpus=1) for name in "abc"])
    host.converge(three)
    verdict = host.step(three).verdicts[three.services[2].id]
    assert verdict.blocked[0].message == "needs 1 nvidia.com/gpu, 0 of 2 free; held by default/a, default/b"
    assert verdict.blocked[0].origin
    host.converge(state(three.services[1], three.services[2]))
    assert len(host.serving("c")) == 1


def test_host_without_gpus_blocks_with_every_reason_and_the_gpu_first():
    host = Host()
    blocked = wanted("a", "good1", gpus=1, blocked=(Reason(ReasonCode.NO_ENGINE, "no interpreter", NO_ORIGIN),))
    verdict = next(iter(host.converge(state(blocked)).verdicts.values()))
    assert [r.message for r in verdict.blocked] == ["needs 1 nvidia.com/gpu, this host has 0", "no interpreter"]
    assert verdict.health.phase is HealthStatus.MISSING
    assert not host.replicas


def test_explicit_rolling_update_without_room_is_blocked_and_harms_nothing():
    host = Host(memory=1)
    strategy = Strategy(1, 0)
    host.converge(state(wanted("a", "good1", strategy=strategy)))
    commit = state(wanted("a", "good2", strategy=strategy))
    plan = host.converge(commit)
    assert next(iter(plan.verdicts.values())).blocked
    assert len(host.serving("a")) == 1


def test_max_surge_zero_is_blocked_where_no_replica_makes_room():
    host, strategy = Host(memory=2), Strategy(0, 1)
    neighbour = wanted("b", "good1")
    host.converge(state(wanted("a", "good1", strategy=strategy), neighbour))
    commit = state(wanted("a", "good2", memory=2, strategy=strategy), neighbour)
    verdict = host.converge(commit).verdicts[commit.services[0].id]
    assert [one.code for one in verdict.blocked] == ["InsufficientMemory"]
    assert [r.digest for r in host.serving("a")] == ["good1-a"]


def test_recreate_ends_every_old_replica_before_a_new_one_starts():
    host = Host()
    strategy = Strategy(0, 2, recreate=True)
    host.converge(state(wanted("a", "good1", 2, strategy=strategy)))
    since = len(host.log)
    host.converge(state(wanted("a", "good2", 2, strategy=strategy)))
    order = kinds(host, since)
    last_remove = len(order) - 1 - order[::-1].index("Remove")
    assert last_remove < order.index("Start")


def test_two_services_share_the_room_for_one_extra_replica():
    host = Host(memory=5)
    host.converge(state(wanted("a", "good1", 2), wanted("b", "good1", 2)))
    both = state(wanted("a", "good2", 2), wanted("b", "good2", 2))
    for _ in range(200):
        plan = host.step(both)
        assert not any("stop-first" in v.strategy for v in plan.verdicts.values())
        assert len(host.serving("a")) >= 2
        assert len(host.serving("b")) >= 2
        host.now += 0.5
    assert host.step(both).actions == ()


def test_arguments_that_are_only_written_differently_restart_nothing():
    host, _ = served()
    new = replace(wanted("a", "good1"), digest="good9-a")
    assert new.spec is not None
    new = replace(new, spec=replace(new.spec, args=written("--a=1")))
    host.preflights["good9-a"] = Preflight(parsed="good1-a")
    since = len(host.log)
    host.converge(state(new))
    assert kinds(host, since) == ["Relabel", "Promote"]
    assert isinstance(host.log[since], Relabel)


def test_commit_that_is_taken_back_while_the_old_one_drains_takes_it_back():
    host, first = served(busy_seconds=100.0)
    second = state(wanted("a", "good2"))
    while not any(isinstance(action, Drain) for action in host.log):
        host.step(second)
        host.now += 0.5
    since = len(host.log)
    host.step(first)
    assert any(isinstance(action, Undrain) for action in host.log[since:])
    host.converge(first)
    assert not any(isinstance(action, Start) for action in host.log[since:])


def test_undrain_starts_no_surplus_replica():
    host = Host(busy_seconds=5)
    commit = state(wanted("a", "good1", 2))
    host.converge(commit)
    began = len(host.log)
    host.step(replace(commit, drain=Reason(ReasonCode.DRAINED, "closed", NO_ORIGIN)))
    host.now += 0.5
    assert not host.serving("a")
    host.converge(commit)
    assert kinds(host, began).count("Undrain") == 2
    assert "Start" not in kinds(host, began)
    assert len(host.serving("a")) == 2


def test_newer_commit_cancels_a_start_that_is_not_ready():
    host, _ = served(start_seconds=20.0)
    second, third = state(wanted("a", "good2")), state(wanted("a", "good3"))
    for _ in range(6):
        host.step(second)
        host.now += 0.5
    since = len(host.log)
    host.converge(third)
    stops = [a for a in host.log[since:] if isinstance(a, Stop)]
    assert stops[0].reason == "superseded by good3-a"
    assert [r.digest for r in host.serving("a")] == ["good3-a"]


def test_canary_larger_than_what_it_stands_beside_says_what_it_lacks():
    host = Host(memory=2)
    host.converge(state(wanted("a", "good1")))
    canary = state(wanted("a", "good2", memory=2, canary=20))
    verdict = host.converge(canary).verdicts[canary.services[0].id]
    assert [one.code for one in verdict.blocked] == ["InsufficientMemory"]


def test_canary_gets_its_share_and_never_costs_a_stable_replica():
    host, _ = served()
    canary = state(wanted("a", "good2", canary=20))
    host.converge(canary)
    route = host.routes[canary.services[0].id]
    assert (len(route.stable), len(route.canary), route.canary_percent) == (1, 1, 20)
    host.converge(state(wanted("a", "good2")))
    assert [r.digest for r in host.serving("a")] == ["good2-a"]
    full, _ = served(memory=1)
    plan = full.converge(canary)
    assert next(iter(plan.verdicts.values())).blocked
    assert [r.digest for r in full.serving("a")] == ["good1-a"]


def test_second_version_beside_waits_for_the_first_and_then_gets_its_share():
    host = Host()
    both = state(beside(wanted("a", "good1", replicas=2), "good9", 20))
    host.converge(both)
    order = [action.digest for action in host.log if isinstance(action, Start)]
    assert order == ["good1-a", "good1-a", "good9-a-beside"]
    route = host.routes[both.services[0].id]
    assert (len(route.stable), len(route.canary), route.canary_percent) == (2, 1, 20)
    assert host.owned[both.services[0].id].promoted.digest == "good1-a", "a canary is never promoted"
    plan = host.step(both)
    assert plan.actions == ()
    assert next(iter(plan.verdicts.values())).sync is Sync.SYNCED


def test_second_version_may_get_all_requests_and_the_first_stays():
    host = Host()
    all_of_it = state(beside(wanted("a", "good1"), "good9", 100))
    host.converge(all_of_it)
    route = host.routes[all_of_it.services[0].id]
    assert (len(route.stable), len(route.canary), route.canary_percent) == (1, 1, 100)
    assert host.step(all_of_it).actions == ()


def test_second_version_that_fails_goes_away_and_the_first_never_notices():
    host = Host()
    bad = state(beside(wanted("a", "good1"), "late9", 50))
    plan = host.converge(bad)
    verdict = next(iter(plan.verdicts.values()))
    assert verdict.rejected
    assert verdict.rejected.digest == "late9-a-beside"
    assert [r.digest for r in host.serving("a")] == ["good1-a"]
    since = len(host.log)
    host.converge(state(wanted("a", "good1")))
    assert not [action for action in host.log[since:] if isinstance(action, Start | Drain | Stop)]


def test_canary_pauses_while_the_predictor_rolls_out():
    host = Host()
    host.converge(state(beside(wanted("a", "good1"), "good9", 20)))
    since, commit = len(host.log), state(beside(wanted("a", "good2"), "good9", 20))
    key = commit.services[0].id
    for _ in range(60):
        host.step(commit)
        route = host.routes[key]
        on_trial = {r.id for r in host.replicas.values() if r.digest == "good9-a-beside"}
        assert not on_trial & {endpoint.replica for endpoint in route.stable}
        assert route.canary_percent in (0, 20)
        assert any(not e.draining for e in route.stable)
        host.now += 0.5
    assert sorted(r.digest for r in host.serving("a")) == ["good2-a", "good9-a-beside"]
    assert [a.digest for a in host.log[since:] if isinstance(a, Start)] == ["good2-a", "good9-a-beside"]


def test_stopped_service_stops_its_second_version_too():
    host = Host()
    host.converge(state(beside(wanted("a", "good1"), "good9", 20)))
    host.converge(state(beside(wanted("a", "good1", replicas=0), "good9", 20)))
    assert not host.replicas


def test_canary_that_fails_goes_away_and_the_stable_one_stays():
    host, _ = served()
    plan = host.converge(state(wanted("a", "late2", canary=20)))
    assert next(iter(plan.verdicts.values())).rejected
    assert [r.digest for r in host.serving("a")] == ["good1-a"]


def test_more_gpus_in_the_arguments_than_in_the_resources_is_rejected():
    host = Host(gpus=4)
    commit = state(wanted("a", "good1", gpus=1))
    host.preflights["good1-a"] = Preflight(parsed="x", gpus=2)
    verdict = next(iter(host.converge(commit).verdicts.values()))
    assert verdict.rejected
    assert "need 2 GPUs" in verdict.rejected.reason.message


def test_replica_that_cannot_fit_in_memory_is_blocked_before_any_stop():
    host, _ = served(memory=1)
    since = len(host.log)
    too_large = Fit("weights 30.0", refusal="its weights alone take 30.0 GiB")
    host.preflights["good2-a"] = Preflight(parsed="x", fit=too_large)
    commit = state(wanted("a", "good2"))
    verdict = next(iter(host.converge(commit).verdicts.values()))
    assert [reason.code for reason in verdict.blocked] == ["DoesNotFit"]
    assert verdict.blocked[0].message == "its weights alone take 30.0 GiB"
    assert (verdict.rejected, verdict.health.phase) == (None, HealthStatus.HEALTHY)
    assert not [a for a in host.log[since:] if isinstance(a, Drain | Stop | Start)]
    # Nothing is held against the digest: with a larger GPU it goes on.
    host.preflights["good2-a"] = Preflight(parsed="x", fit=Fit("weights 30.0"))
    host.converge(commit)
    assert [r.digest for r in host.serving("a")] == ["good2-a"]


GONE = (Reason(ReasonCode.ENGINE_BROKEN, "the interpreter is not there", NO_ORIGIN),)


def test_what_cannot_start_here_is_blocked_before_anything_is_stopped():
    host, _ = served(memory=1)
    since = len(host.log)
    host.blockers["good2-a"] = GONE
    commit = state(wanted("a", "good2"))
    verdict = next(iter(host.converge(commit).verdicts.values()))
    assert (verdict.blocked, verdict.rejected, verdict.health.phase) == (GONE, None, HealthStatus.HEALTHY)
    assert not host.log[since:], "nothing is asked, drained or started"
    host.blockers.clear()
    host.converge(commit)
    assert [r.digest for r in host.serving("a")] == ["good2-a"]


def test_what_is_promoted_stops_nothing_while_it_cannot_start_here():
    host, commit = served(memory=1)
    while [r.digest for r in host.serving("a")] != ["good2-a"]:
        host.step(state(wanted("a", "good2")))
        host.now += 0.5
    assert host.owned[ServiceId("default", "a")].promoted.digest == "good1-a", "the other is on trial"
    since = len(host.log)
    host.blockers["good1-a"] = GONE
    verdict = next(iter(host.converge(commit).verdicts.values()))
    assert verdict.blocked == GONE
    assert not [a for a in host.log[since:] if isinstance(a, Drain | Stop | Start)]


def test_engine_without_a_verdict_is_asked_again_and_waited_for_by_nobody():
    host = Host()
    failed = Reason(ReasonCode.PREFLIGHT_FAILED, "preflight with python is not possible", Origin("a.yaml", 7))
    host.blockers["good1-a"] = (failed,)
    plan = make_plan(state(wanted("a", "good1")), host.observe(), Holds(), PATIENCE)
    verdict = next(iter(plan.verdicts.values()))
    assert (verdict.blocked, verdict.step, verdict.health.phase) == ((failed,), "", HealthStatus.MISSING)
    assert [type(action) for action in plan.actions if isinstance(action, AskPreflight)] == [AskPreflight]
    assert plan.look_again_at is not None


def test_estimate_harms_nothing_that_runs_already():
    host, commit = served()
    host.preflights["good1-a"] = Preflight(parsed="good1-a", fit=Fit("x", refusal="its weights alone are too large"))
    assert host.converge(commit).actions == ()
    host.replicas.clear()
    host.converge(commit)
    assert len(host.serving("a")) == 1


def test_rollout_while_another_is_on_trial_drains_the_unproven_replica():
    host = Host(memory=2)
    host.converge(state(wanted("a", "good1")))
    trial = state(wanted("a", "good2"))
    while not any(r.digest == "good2-a" and r.ready_at for r in host.replicas.values()):
        host.step(trial)
        host.now += 0.5
    began = len(host.log)
    commit = state(wanted("a", "crash3"))
    for _ in range(40):
        host.step(commit)
        host.now += 0.5
        assert host.serving("a")[0].digest == "good1-a"
    drained = [action.replica.serial for action in host.log[began:] if isinstance(action, Drain)]
    assert [serial.split("-")[0] for serial in drained] == ["good2"]
    assert (wanted("a", "crash3").id, "crash3-a") in host.quarantines


def test_replicas_that_all_end_at_once_are_no_crash_loop_nor_bad_commit():
    host = Host()
    host.converge(state(wanted("a", "good1"), wanted("b", "good1")))
    commit = state(wanted("a", "good2"), wanted("b", "good1"))
    while not any(r.digest == "good2-a" for r in host.replicas.values()):
        host.step(commit)
        host.now += 0.5
    for _ in range(3):
        host.replicas = {key: replace(r, alive=False) for key, r in host.replicas.items()}
        for _ in range(4):
            host.step(commit)
            host.now += 0.5
    host.converge(commit)
    assert not host.quarantines
    assert not any(owned.crashes for owned in host.owned.values())
    assert [r.digest for r in host.serving("a")] == ["good2-a"]


def test_engine_that_dies_with_the_proxy_is_not_blamed_but_not_for_ever():
    host = Host()
    commit = state(wanted("a", "good1"))
    deaths = 0
    while not host.quarantines:
        host.step(commit)
        host.now += 0.5
        if any(r.alive for r in host.replicas.values()):
            deaths += 1
            host.replicas = {key: replace(r, alive=False) for key, r in host.replicas.items()}
            host.proxy = False
    assert deaths == 4


def test_ready_timeout_is_extended_by_time_in_which_nothing_could_run():
    host = Host()
    commit = state(wanted("a", "never1"))
    while not host.replicas:
        host.step(commit)
        host.now += 0.5
    ((key, replica),) = host.replicas.items()
    host.now += 1000
    host.replicas[key] = replace(replica, watched_since=host.now)
    host.step(commit)
    assert not host.quarantines
    host.now += PATIENCE.ready_timeout + 1
    host.step(commit)
    assert host.quarantines


def test_taken_port_is_nobodys_fault():
    host = Host()
    commit = state(wanted("a", "good1"))
    while not host.replicas:
        host.step(commit)
        host.now += 0.5
    ((key, replica),) = host.replicas.items()
    host.replicas[key] = replace(replica, alive=False, last_words=("OSError: [Errno 98] Address already in use",))
    host.converge(commit)
    assert not any(isinstance(action, Reject) for action in host.log)
    assert len(host.serving("a")) == 1


def test_after_a_reboot_everything_starts_again_and_nothing_is_blamed():
    host, commit = served()
    second = state(wanted("a", "good2"))
    while sum(isinstance(a, Start) for a in host.log) < 2:
        host.step(second)
        host.now += 0.5
    for key, replica in host.replicas.items():
        host.replicas[key] = replace(replica, alive=False, rebooted=True)
    since = len(host.log)
    host.converge(second)
    assert not [a for a in host.log[since:] if isinstance(a, Reject | NoteCrash)]
    assert [r.digest for r in host.serving("a")] == ["good2-a"]
    assert commit


def test_crash_after_promotion_restarts_at_once_and_repeated_ones_back_off():
    host, commit = served()

    def crash() -> float | None:
        """Kill the replica; how long after that did its successor start?"""
        ((key, replica),) = host.replicas.items()
        host.replicas[key] = replace(replica, alive=False)
        died, since = host.now, len(host.log)
        while not any(isinstance(action, Start) for action in host.log[since:]):
            host.step(commit)
            host.now += 0.5
        return host.now - 0.5 - died

    delays = []
    for _ in range(4):
        delays.append(crash())
        if len(delays) < 4:
            host.converge(commit)
    assert delays == [0.0, 10.0, 20.0, 40.0]
    for _ in range(10):
        host.step(commit)
    verdict = next(iter(host.step(commit).verdicts.values()))
    assert (verdict.health.phase, verdict.health.reason.code) == (HealthStatus.DEGRADED, "CrashLoopBackOff")
    assert verdict.rejected is None


def test_restart_comes_before_a_newcomer():
    host, _ = served(gpus=1)
    host = Host(gpus=1)
    old = wanted("z", "good1", gpus=1)
    host.converge(state(old))
    ((key, replica),) = host.replicas.items()
    host.replicas[key] = replace(replica, alive=False)
    host.converge(state(wanted("a", "good1", gpus=1), old))
    assert host.serving("z")
    assert not host.serving("a")


def test_nothing_is_drained_while_the_proxy_does_not_answer():
    host, _ = served()
    second = state(wanted("a", "good2"))
    while len(host.serving("a")) < 2:
        host.step(second)
        host.now += 0.5
    host.now += 10
    observed = host.observe()
    silent = replace(
        observed, proxy_ready=False, replicas=tuple(replace(r, routed="Unknown") for r in observed.replicas)
    )
    plan = make_plan(second, silent, Holds(), PATIENCE)
    assert not [a for a in plan.actions if isinstance(a, Drain | Stop | Promote)]


def test_preflight_is_asked_once_and_its_verdict_waited_for():
    host = Host()
    commit = state(wanted("a", "good1"))
    host.step(commit)
    host.step(commit)
    assert sum(isinstance(action, AskPreflight) for action in host.log) == 1


def test_files_are_staged_before_preflight_and_before_any_stop():
    host, _ = served(memory=1)
    since = len(host.log)
    commit = state(wanted("a", "good2", uri="s3://bucket/a"))
    host.converge(commit)
    order = kinds(host, since)
    assert order.index("Stage") < order.index("AskPreflight") < order.index("Drain") < order.index("Start")
    assert order.count("Stage") == 1


def test_while_files_are_fetched_old_serves_and_step_tells_bytes():
    host, _ = served()
    commit = state(wanted("a", "good2", uri="s3://key:secret@bucket/a?X-Sig=abc"))
    host.step(commit)
    verdict = next(iter(host.step(commit).verdicts.values()))
    assert verdict.step == "staging: s3://bucket/a, 50 bytes of 100 bytes"
    assert (verdict.sync, verdict.health.phase) == (Sync.OUT_OF_SYNC, HealthStatus.HEALTHY)
    assert host.serving("a")


def test_failing_model_source_backs_off_and_is_never_quarantined():
    host = Host()
    commit = state(wanted("a", "good1", uri="s3://flaky/a"))
    begun = []
    while not host.serving("a"):
        before = len(host.log)
        host.step(commit)
        begun += [host.now for action in host.log[before:] if isinstance(action, Stage)]
        host.now += 0.5
    pauses = [later - earlier for earlier, later in pairwise(begun)]
    assert [round(pause) for pause in pauses] == [7, 12]  # 2 s until it failed, then 5 s and 10 s
    assert not host.quarantines


def test_missing_model_blocks_the_rollout_and_the_old_replica_stays():
    host, _ = served()
    since = len(host.log)
    commit = state(wanted("a", "good2", uri="s3://gone/a"))
    for _ in range(20):
        verdict = next(iter(host.step(commit).verdicts.values()))
        host.now += 0.5
    assert [(r.code, r.message) for r in verdict.blocked] == [("StagingFailed", "s3://gone/a: it is down")]
    assert kinds(host, since) == ["Stage"]
    assert verdict.health.phase is HealthStatus.HEALTHY
    assert not host.quarantines


def test_image_is_pulled_before_preflight_and_before_any_stop():
    host, _ = served(memory=1)
    since = len(host.log)
    host.unpulled["a:good2"] = None
    commit = state(wanted("a", "good2", uri="s3://bucket/a"))
    host.step(commit)
    verdict = next(iter(host.step(commit).verdicts.values()))
    assert verdict.health.phase is HealthStatus.HEALTHY
    host.converge(commit)
    order = kinds(host, since)
    assert {*order[:2]} == {"Stage", "StageImage"}, "both at once"
    assert order.index("StageImage") < order.index("AskPreflight") < order.index("Drain") < order.index("Start")
    assert order.count("StageImage") == 1


def test_image_pull_that_finds_nothing_blocks_and_the_old_replica_stays():
    host, _ = served()
    since = len(host.log)
    host.unpulled["a:goodgone"] = None
    commit = state(wanted("a", "goodgone"))
    for _ in range(20):
        verdict = next(iter(host.step(commit).verdicts.values()))
        host.now += 0.5
    assert [(r.code, r.message) for r in verdict.blocked] == [("ImagePullFailed", "image a:goodgone: manifest unknown")]
    assert kinds(host, since) == ["StageImage"]
    assert verdict.health.phase is HealthStatus.HEALTHY
    assert not host.quarantines


def test_unused_files_are_pruned_only_when_git_is_seen_in_full():
    host = Host()
    host.converge(state(wanted("a", "good1", uri="s3://bucket/a")))
    host.converge(state(unreadable=(Reason(ReasonCode.UNREADABLE, "broken", Origin("b.yaml", 1)),)))
    host.converge(state(prunable=False))
    assert len(host.staging) == 1
    host.converge(state(wanted("a", "good2", uri="s3://bucket/b")))
    assert "Unstage" in kinds(host)
    assert len(host.staging) == 1
    host.converge(state())
    assert not host.staging


def test_files_that_vanish_are_fetched_again_before_a_replica_is_replaced():
    host = Host()
    commit = state(wanted("a", "good1", uri="s3://bucket/a"))
    host.converge(commit)
    host.staging.clear()
    host.replicas = {key: replace(one, alive=False) for key, one in host.replicas.items()}
    since = len(host.log)
    host.converge(commit)
    order = kinds(host, since)
    assert order.index("Stage") < order.index("Start")


def test_stopped_service_is_drained_then_suspended_and_comes_back():
    host, commit = served()
    since = len(host.log)
    plan = host.converge(state(wanted("a", "good1", replicas=0)))
    verdict = next(iter(plan.verdicts.values()))
    assert [kind for kind in kinds(host, since) if kind in ("Drain", "Stop", "Remove")] == ["Drain", "Stop", "Remove"]
    assert (verdict.sync, verdict.health.phase) == (Sync.SYNCED, HealthStatus.SUSPENDED)
    assert not host.replicas
    host.converge(commit)
    assert len(host.serving("a")) == 1


def test_whether_the_proxy_guards_a_service_follows_git_without_a_restart():
    host, commit = served()
    (service,) = commit.services
    since = len(host.log)
    host.converge(state(replace(service, guarded=True)))
    assert kinds(host, since) == ["SetRoutes"]
    assert host.routes[service.id].guarded
    host.converge(state(replace(service, passthrough=True, guarded=True)))
    assert host.routes[service.id].passthrough
    broken = replace(service, spec=None, digest="", problems=(Reason(ReasonCode.NO_AUTH, "no key", NO_ORIGIN),))
    host.converge(state(broken))
    assert (host.routes[service.id].guarded, host.routes[service.id].passthrough) == (True, True)
