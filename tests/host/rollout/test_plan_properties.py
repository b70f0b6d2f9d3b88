"""Safety and progress of the planner, whatever the history."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.fault_isolation import Faults
from reconciler.host.capacity import Ledger
from reconciler.host.plan import make_plan
from reconciler.host.rollout import decide, fast_path
from reconciler.host.rollout.inputs import Inputs, make_contexts
from reconciler.model import (
    GPU,
    MIG,
    NO_ORIGIN,
    AskPreflight,
    Desired,
    Drain,
    HealthStatus,
    Holds,
    Observed,
    Origin,
    Quarantine,
    Reason,
    ReasonCode,
    Restart,
    Start,
    Stop,
    Strategy,
    Sync,
    Unreachable,
)
from tests.support.arguments import written
from tests.support.examples import examples
from tests.support.simulation import GIB, PATIENCE, Host, beside, state, wanted

VERSIONS = (
    "good1",
    "good2",
    "good3",
    "reject1",
    "large1",
    "crash1",
    "late1",
    "hang1",
    "never1",
    "nostart1",
    "nohost1",
    "starve1",
)
NAMES = {"good2": ("one",), "good3": ("one", "two")}
SOURCES = (None, None, "s3://bucket/a", "s3://more/b", "s3://flaky/a")
STRATEGIES = (
    None,
    Strategy(1, 0),
    Strategy(0, 1),
    Strategy(2, 1),
    Strategy(0, 3, recreate=True),
)


ELSEWHERE = (Reason(ReasonCode.NOT_FOR_THIS_HOST, "nodeSelector requires disk=ssd", Origin("x.yaml", 4)),)
DRAINED = Reason(ReasonCode.DRAINED, "the host is drained", Origin("host.yaml", 6))
CORDONED = Reason(ReasonCode.CORDONED, "the host is cordoned", Origin("host.yaml", 7))


def elsewhere(service: Desired) -> Desired:
    """In sync once it is for other hosts."""
    return replace(service, replicas=0, not_here=ELSEWHERE)


# Whole GPUs, a share of one in thousandths, or the profile of a MIG device.
DEVICES = st.one_of(
    st.tuples(st.integers(0, 2), st.just(0), st.just("")),
    st.tuples(st.just(1), st.sampled_from((200, 400, 500, 700)), st.just("")),
    st.tuples(st.just(0), st.just(0), st.sampled_from(("1g.10gb", "3g.40gb"))),
)
PARTS = ((), ("1g.10gb",), ("1g.10gb", "3g.40gb", "1g.10gb"))


@st.composite
def services(draw: st.DrawFn, name: str, versions: tuple[str, ...] = VERSIONS):
    gpus, share, mig = draw(DEVICES)
    memory = draw(st.integers(1, 4))
    version = draw(st.sampled_from(versions))
    service = wanted(
        name,
        version,
        replicas=draw(st.integers(0, 3)),
        gpus=gpus,
        memory=memory,
        strategy=draw(st.sampled_from(STRATEGIES)),
        canary=draw(st.sampled_from((None, None, None, 0, 20, 100))),
        uri=draw(st.sampled_from(SOURCES)),
        share=share,
        mig=mig,
    )
    # A digest is a hash of the whole spec: other resources, another digest.
    model = service.spec.mounts[0].uri[5:9] if service.spec and service.spec.mounts else "none"
    service = replace(service, digest=f"{version}-{name}-{gpus}-{share}-{mig}-{memory}-{model}")
    if service.spec and (names := NAMES.get(version)):
        args = written("--served-model-name", *names)
        service = replace(service, spec=replace(service.spec, args=args), model_names=names)
    if draw(st.integers(0, 7)) == 7:
        return elsewhere(service)
    if service.canary_percent is not None or not draw(st.booleans()):
        return service
    return beside(service, draw(st.sampled_from(versions)), draw(st.sampled_from((0, 20, 100))))


@st.composite
def commits(draw: st.DrawFn, versions: tuple[str, ...] = VERSIONS):
    names = draw(st.lists(st.sampled_from("abc"), unique=True, max_size=3))
    drain = DRAINED if draw(st.integers(0, 7)) == 7 else None
    return state(*[draw(services(name, versions)) for name in names], drain=drain)


hosts = st.builds(
    Host,
    gpus=st.integers(0, 6),
    mig=st.sampled_from(PARTS),
    memory=st.integers(2, 24),
    start_seconds=st.sampled_from((0.5, 2.0, 5.0)),
    stagger=st.sampled_from((0.0, 3.0)),
    busy_seconds=st.sampled_from((0.0, 1.0, 5.0, 100.0)),
    ports=st.sampled_from((1, 2, 3, 100)),
)
histories = st.lists(st.tuples(commits(), st.integers(0, 40)), min_size=1, max_size=5)


def play(host: Host, history, deaths: random.Random | None = None):
    """Commit after commit, each for some passes; the last one until it converges."""
    for commit, passes in history:
        for _ in range(passes):
            host.step(commit, deaths.choice((None, None, 0, 1, 2, 3)) if deaths else None)
            host.now += 0.5
    return history[-1][0]


@given(hosts, histories)
@settings(max_examples=examples(300), deadline=None)
def test_every_history_converges_and_then_plans_nothing(host, history):
    last = play(host, history)
    # The simulated `late` engine crashes forever once promoted: its restarts back off and never end.
    plan = host.converge(last, passes=2000)
    assert plan.actions == ()
    again = host.step(last)
    assert again.actions == ()


@given(
    st.integers(1, 3),
    st.sampled_from((None, *STRATEGIES[1:4])),
    st.integers(0, 2),
    st.integers(0, 40),
    st.sampled_from(("good3", "crash1", "never1", "good1")),
    st.sampled_from(("ready", "starting", "dead")),
)
@settings(max_examples=examples(150), deadline=None)
def test_rollout_on_a_trial_gives_up_what_was_never_promoted_first(count, strategy, spare, passes, third, proven):
    host = Host(memory=count + spare)
    host.converge(state(wanted("a", "good1", count, strategy=strategy)))
    play(host, [(state(wanted("a", "good2", count, strategy=strategy)), passes)])
    for key, replica in list(host.replicas.items()):
        if replica.digest == "good1-a" and proven == "dead":
            host.replicas[key] = replace(replica, alive=False)
    if proven == "starting":
        host.restart_processes("a", Restart.BY_HAND)
    # The host checks at every pass that what is promoted goes last.
    commit = state(wanted("a", third, count, strategy=strategy))
    play(host, [(commit, 60)])
    host.converge(commit, passes=2000)


@given(hosts, histories, st.randoms(use_true_random=False))
@settings(max_examples=examples(200), deadline=None)
def test_daemon_that_dies_anywhere_ends_in_the_same_place(host, history, deaths):
    last = play(host, history, deaths)
    host.converge(last, passes=2000)
    for service in last.services:
        running = [r for r in host.replicas.values() if r.service == service.id]
        if service.replicas == 0 or last.drain:
            assert not running


@given(hosts, histories, st.randoms(use_true_random=False))
@settings(max_examples=examples(100), deadline=None)
def test_whatever_fails_on_the_way_ends_in_the_same_place(host, history, luck):
    for commit, passes in history:
        for _ in range(passes):
            host.stumble(commit, luck)
            host.now += 0.5
    host.memory, host.gpus = max(2, host.memory - luck.randint(0, 3)), max(0, host.gpus - luck.randint(0, 1))
    plan = host.converge(history[-1][0], passes=2000)
    assert plan.actions == ()


@st.composite
def moves(draw: st.DrawFn):
    """Two commits over the same services; the first is good and fits."""
    names = draw(st.lists(st.sampled_from("abc"), unique=True, min_size=1, max_size=3))
    every = [(draw(services(name, ("good1",))), draw(services(name, VERSIONS))) for name in names]
    first = [replace(one, replicas=max(1, one.replicas), canary_percent=None, not_here=()) for one, _ in every]
    second = [replace(one, replicas=max(1, one.replicas), not_here=()) for _, one in every]
    gpus = _gpus_for(first)
    mig = tuple(profile for one in first for profile in _profiles(one) * one.replicas)
    memory = sum(one.replicas * one.spec.resources.memory_bytes for one in first) // GIB
    memory += sum(one.canary is not None for one in first)
    spare = draw(st.integers(0, 2)), draw(st.integers(0, 4))
    return state(*first), state(*second), Host(gpus=gpus + spare[0], mig=mig, memory=memory + spare[1])


@given(st.integers(0, 3), st.sampled_from(PARTS), st.lists(st.tuples(DEVICES, st.integers(1, 3)), max_size=4))
@settings(max_examples=examples(150), deadline=None)
def test_whatever_fits_on_its_devices_starts_sooner_or_later(gpus, mig, asked):
    host = Host(gpus=gpus, mig=mig)
    wishes = [
        wanted(name, "good1", replicas, gpus=whole, share=share, mig=profile)
        for name, ((whole, share, profile), replicas) in zip("abcd", asked, strict=False)
    ]
    plan = host.converge(state(*wishes))
    used: dict[str, int] = {}
    for replica in host.replicas.values():
        for uuid in replica.lease.gpus:
            used[uuid] = used.get(uuid, 0) + (replica.spec.resources.gpu_share_millis or 1000)
    for one, ((whole, share, profile), replicas) in zip(wishes, asked, strict=False):
        kind = f"{MIG}{profile}" if profile else GPU
        fitting = [g for g in host.devices() if g.kind == kind and used.get(g.uuid, 0) + (share or 1000) <= 1000]
        serving = len(host.serving(one.id.name))
        assert serving == replicas or len(fitting) < max(whole, 1), (one.id, plan.verdicts[one.id])
        assert bool(plan.verdicts[one.id].blocked) == (serving < replicas)


def _profiles(service: Desired) -> tuple[str, ...]:
    return tuple(kind.removeprefix(MIG) for kind, _ in service.spec.resources.other) if service.spec else ()


def _gpus_for(wishes: list[Desired]) -> int:
    """As many as they need when shares are packed one after another."""
    every = [one.spec.resources for one in wishes if one.spec for _ in range(one.replicas)]
    shared: list[int] = []
    for share in sorted((each.gpu_share_millis for each in every if each.gpu_share_millis), reverse=True):
        room = next((n for n, used in enumerate(shared) if used + share <= 1000), None)
        if room is None:
            shared.append(share)
        else:
            shared[room] += share
    return len(shared) + sum(each.gpus for each in every if not each.gpu_share_millis)


@pytest.mark.slow
@given(moves(), st.integers(0, 30), commits(("good3",)))
@settings(max_examples=examples(200), deadline=None)
def test_what_serves_is_never_lost_to_a_commit(move, passes, between):
    first, second, host = move
    host.converge(first)
    kept = {one.id for one in first.services}
    for commit in (state(*first.services, *(one for one in between.services if one.id not in kept)), second):
        for _ in range(passes):
            host.step(commit)
            host.now += 0.5
    host.converge(second, passes=2000)
    for service in second.services:
        assert host.serving(service.id.name), service


@given(hosts, histories, st.randoms(use_true_random=False))
@settings(max_examples=examples(120), deadline=None)
def test_order_of_answers_is_irrelevant(host, history, shuffler):
    last = play(host, history)
    observed = host.observe()
    mixed = list(observed.replicas)
    shuffler.shuffle(mixed)
    wished = list(last.services)
    shuffler.shuffle(wished)
    shuffled = replace(observed, replicas=tuple(mixed))
    plan = make_plan(last, observed, host.holds(last), PATIENCE)
    assert make_plan(replace(last, services=tuple(wished)), shuffled, host.holds(last), PATIENCE) == plan


@pytest.mark.slow
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(STRATEGIES[:4]),
    st.integers(0, 3),
    st.sampled_from(("good2", "reject1", "crash1", "never1", "late1")),
    st.sampled_from((0.5, 2.0)),
)
@settings(max_examples=examples(200), deadline=None)
def test_serving_never_falls_below_the_floor_nor_above_the_ceiling(before, after, strategy, spare, version, start):
    host = Host(memory=max(before, after) + spare, start_seconds=start)
    host.converge(state(wanted("a", "good1", before, strategy=strategy)))
    assert len(host.serving("a")) == before
    commit = state(wanted("a", version, after, strategy=strategy))
    for _ in range(300):
        count = len(host.serving("a"))
        plan = host.step(commit)
        strategy_said = plan.verdicts[commit.services[0].id].strategy
        unavailable = strategy.max_unavailable if strategy else (1 if strategy_said.startswith("stop-first") else 0)
        surge = strategy.max_surge if strategy else 1
        if any(isinstance(a, Drain) for a in plan.actions):
            floor = min(before, after) - unavailable
            assert len(host.serving("a")) >= min(floor, count), (strategy_said, plan.actions)
        assert len(host.replicas) <= max(before, after) + surge
        host.now += 0.5
    if version != "late1":
        assert (
            len(host.serving("a")) == (after if version == "good2" else before)
            or plan.verdicts[commit.services[0].id].blocked
        )


@pytest.mark.slow
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(STRATEGIES),
    st.integers(0, 3),
    st.sampled_from(("s3://bucket/a", "s3://more/b", "s3://flaky/a")),
    st.sets(st.integers(0, 40), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_files_that_vanish_in_middle_of_rollout_cost_nothing_that_serves(before, after, strategy, spare, uri, moments):
    host = Host(memory=max(before, after) + spare)
    host.converge(state(wanted("a", "good1", before, strategy=strategy, uri="s3://bucket/a")))
    commit = state(wanted("a", "good2", after, strategy=strategy, uri=uri))
    for moment in range(60):
        if moment in moments:
            host.lose_files()
        served = {replica.id for replica in host.serving("a")}
        # That nothing is drained for a successor whose files are missing, and started without them, the host checks.
        plan = host.step(commit)
        taken = {a.replica for a in plan.actions if isinstance(a, Drain | Stop)} & served
        assert served - taken <= {replica.id for replica in host.serving("a")}
        if taken and strategy and not strategy.recreate:
            assert len(served - taken) >= min(before, after) - strategy.max_unavailable
        host.now += 0.5
    host.converge(commit, passes=2000)
    if strategy is None or strategy.max_unavailable or spare:
        assert [replica.digest for replica in host.serving("a")] == ["good2-a"] * after


@given(hosts, commits(("good1", "good2")), st.integers(0, 60))
@settings(max_examples=examples(150), deadline=None)
def test_what_git_cannot_show_is_kept(host, commit, passes):
    play(host, [(commit, passes)])
    alive = {r.id for r in host.replicas.values() if r.draining_at is None and r.stopping_at is None}
    for gone in (
        state(prunable=False),
        state(unreadable=tuple(Reason(ReasonCode.INVALID_YAML, "broken", Origin(f"{n}.yaml", 3)) for n in "abc")),
        state(unreadable=(Reason(ReasonCode.MODEL_NOT_FOUND, "gone", Origin("", 1)),), prunable=False),
    ):
        plan = make_plan(gone, host.observe(), host.holds(gone), PATIENCE)
        touched = {a.replica for a in plan.actions if isinstance(a, Drain | Stop)}
        ended = {r.id for r in host.observe().replicas if not r.alive}
        assert not (touched & alive) - ended
        assert all(v.sync is Sync.UNKNOWN for v in plan.verdicts.values())


@given(hosts, commits())
@settings(max_examples=examples(50), deadline=None)
def test_unreachable_target_plans_nothing(host, commit):
    plan = make_plan(commit, Unreachable("host", 1.0, "no answer"), Holds(), PATIENCE)
    assert plan.actions == ()
    assert all(v.health.phase is HealthStatus.UNKNOWN for v in plan.verdicts.values())


@given(hosts, histories)
@settings(max_examples=examples(100), deadline=None)
def test_suspended_service_is_left_alone(host, history):
    last = play(host, history)
    observed = host.observe()
    everyone = (
        {s.id for s in last.services}
        | {r.service for r in observed.replicas}
        | set(observed.owned)
        | set(observed.routes)
    )
    plan = make_plan(last, observed, host.holds(last, *everyone), PATIENCE)
    assert [a for a in plan.actions if type(a).__name__ != "EnsureProxy"] == []


@given(st.integers(1, 3), st.integers(0, 2))
@settings(max_examples=examples(30), deadline=None)
def test_quarantined_digest_is_not_started(replicas, gpus):
    host = Host(gpus=6)
    bad = wanted("a", "good1", replicas, gpus)
    host.quarantines[(bad.id, bad.digest)] = Quarantine(
        bad.id, bad.digest, Reason(ReasonCode.CRASHED, "x", NO_ORIGIN), "r", 1.0
    )
    host.converge(state(bad))
    assert not [a for a in host.log if isinstance(a, Start)]


@given(hosts, commits(("good1",)), st.integers(0, 60))
@settings(max_examples=examples(100), deadline=None)
def test_everything_deleted_in_git_is_drained_and_nothing_is_left(host, commit, passes):
    play(host, [(commit, passes)])
    host.converge(state())
    assert not host.replicas
    assert all(route.left_at for route in host.routes.values()), "only names are left"
    assert not host.owned


@given(hosts, histories, st.booleans())
@settings(max_examples=examples(80), deadline=None)
def test_drained_host_runs_nothing_and_goes_on_afterwards(host, history, unreadable):
    last = replace(play(host, history), drain=None)
    host.converge(last, passes=2000)
    served = {one.id: sum(r.digest == one.digest for r in host.serving(one.id.name)) for one in last.services}
    promoted = {key: owned.promoted for key, owned in host.owned.items()}
    # A file that cannot be read stops no drain: host.yaml itself is readable.
    broken = (Reason(ReasonCode.INVALID_YAML, "broken", Origin("a.yaml", 3)),) if unreadable else ()
    began = len(host.log)
    plan = host.converge(replace(last, drain=DRAINED, unreadable=broken), passes=2000)
    assert not host.replicas
    assert not [one for one in host.log[began:] if isinstance(one, Start | AskPreflight)]
    assert {verdict.health.phase for verdict in plan.verdicts.values()} <= {HealthStatus.SUSPENDED}
    assert {key: owned.promoted for key, owned in host.owned.items()} == promoted
    host.converge(last, passes=2000)
    # Where not all had room before, another one of them may have it now.
    if all(served[one.id] == one.replicas for one in last.services):
        for one in last.services:
            if one.digest.startswith("good") and one.canary_percent is None:
                # A canary may run next to it, too.
                serving = [r for r in host.serving(one.id.name) if r.digest == one.digest]
                assert len(serving) == one.replicas, one.id


@given(hosts, histories, commits(), st.integers(1, 60))
@settings(max_examples=examples(120), deadline=None)
def test_cordoned_host_starts_nothing_new_and_ends_nothing_that_serves(host, history, commit, passes):
    last = replace(play(host, history), drain=None)
    host.converge(last, passes=2000)
    cordoned = replace(commit, drain=None, unschedulable=CORDONED)
    stays = {one.id for one in commit.services if one.spec and one.replicas and not one.not_here}
    promoted = {key: one.promoted for key, one in host.owned.items() if one.promoted}
    for _ in range(passes):
        serving = {r.id: r for name in "abc" for r in host.serving(name)}
        plan = host.step(cordoned)
        for action in plan.actions:
            if isinstance(action, Start):
                known = promoted.get(action.replica.service)
                assert known is not None, "a new service"
                assert action.digest == known.digest, "a new digest"
            assert not isinstance(action, AskPreflight)
            if isinstance(action, Drain) and action.replica in serving and action.replica.service in stays:
                # Git itself asks for fewer, or takes back a change.
                wish = next(one for one in commit.services if one.id == action.replica.service)
                assert wish.digest == promoted[wish.id].digest
        for key, known in promoted.items():
            running = [r for r in host.replicas.values() if r.service == key and r.digest == known.digest]
            assert len([r for r in running if r.stopping_at is None and r.draining_at is None]) <= known.replicas
        host.now += 0.5


@given(hosts, commits(("good1", "good2")), st.integers(0, 60))
@settings(max_examples=examples(80), deadline=None)
def test_service_moved_to_another_host_goes_only_while_git_is_readable(host, commit, passes):
    commit = replace(commit, drain=None)
    play(host, [(commit, passes)])
    alive = {r.id for r in host.observe().replicas if r.alive and r.draining_at is None and r.stopping_at is None}
    moved = replace(commit, services=tuple(elsewhere(one) for one in commit.services))
    for doubtful in (
        replace(moved, prunable=False),
        replace(moved, unreadable=(Reason(ReasonCode.INVALID_YAML, "broken", NO_ORIGIN),)),
    ):
        plan = make_plan(doubtful, host.observe(), host.holds(doubtful), PATIENCE)
        assert not {a.replica for a in plan.actions if isinstance(a, Drain | Stop)} & alive
    plan = host.converge(moved)
    assert not host.replicas
    assert all(route.left_at for route in host.routes.values()), "only names are left"
    assert not host.owned
    assert {v.sync for v in plan.verdicts.values()} <= {Sync.SYNCED}
    assert {v.health.reason.code for v in plan.verdicts.values()} <= {"NotForThisHost"}


@pytest.mark.slow
@given(hosts, histories)
@settings(max_examples=examples(120), deadline=None)
def test_short_way_says_what_the_long_way_says(host, history):
    last = play(host, history)
    for _ in range(60):
        observed = host.observe()
        ledger = Ledger(observed.capacity, observed.replicas)
        for s in make_contexts(Inputs(last, observed, host.holds(last), PATIENCE, Faults(""))):
            if (short := fast_path(s)) is not None:
                assert short == decide(s, ledger)
        host.step(last)
        host.now += 0.5


def test_observed_and_desired_are_only_data():
    assert Observed.__dataclass_params__.frozen  # type: ignore[attr-defined]
