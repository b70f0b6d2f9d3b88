"""Memory of GPUs that others hold, or that is not back yet: nothing is started without it, nothing stopped in vain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.host.capacity.gpu_ledger import has_room, no_room, will_have_room
from reconciler.model import (
    Desired,
    Drain,
    EffectiveSpec,
    ForeignProcess,
    GpuUse,
    ReasonCode,
    Remove,
    Start,
    Stop,
    Strategy,
)
from tests.support.arguments import written
from tests.support.examples import examples
from tests.support.simulation import Host, spec, state, wanted

GIB = 1 << 30
SHARES = (50, 92)
amounts = st.integers(0, 100)


strangers = st.lists(st.builds(ForeignProcess, st.integers(1, 9), st.just("x"), amounts | st.none()), max_size=3)
uses = st.builds(lambda free, seen: GpuUse(100, free, tuple(seen)), amounts, strangers)


# ---------------------------------------------------------------- one GPU


@given(uses, st.floats(0.01, 1.0))
def test_who_asks_for_less_never_finds_less_room(use: GpuUse, share: float) -> None:
    if has_room(use, share):
        assert has_room(use, share / 2)
    if will_have_room(use, share):
        assert will_have_room(use, share / 2)


@given(uses, st.floats(0.01, 1.0))
def test_memory_of_unknown_size_may_be_all_that_is_taken(use: GpuUse, share: float) -> None:
    unknown = replace(use, strangers=(*use.strangers, ForeignProcess(7, "y", None)))
    assert will_have_room(unknown, share) == has_room(use, share)


@given(uses, st.floats(0.01, 1.0))
def test_lost_gpu_has_no_room_and_an_unknown_one_always(use: GpuUse, share: float) -> None:
    lost = replace(use, fault="GPU is lost")
    assert not has_room(lost, share)
    assert not will_have_room(lost, share)
    assert has_room(None, share)
    assert will_have_room(None, share)


def test_reason_names_the_holders_and_what_is_missing() -> None:
    use = GpuUse(24 * GIB, 4 * GIB, (ForeignProcess(4711, "python3", 20 * GIB), ForeignProcess(12, "Xorg", None)))
    lost = GpuUse(0, 0, (), "GPU is lost")
    assert no_room(0.92, [("GPU-1", use), ("GPU-2", replace(use, strangers=())), ("GPU-3", lost)]).message == (
        "needs 0.92 of a GPU's memory free: "
        "GPU-1 has 4.0 GiB of the 22.1 GiB free, held by process 4711 (python3, 20.0 GiB), process 12 (Xorg); "
        "GPU-2 has 4.0 GiB of the 22.1 GiB free, and no visible process holds the rest; "
        "GPU-3 cannot be used: GPU is lost"
    )
    many = replace(use, strangers=tuple(ForeignProcess(number, "x", GIB) for number in range(1, 8)))
    assert no_room(0.92, [("GPU-1", many)]).message.endswith("process 4 (x, 1.0 GiB) and 3 more")


# ---------------------------------------------------------------- a host


def asking(spec: EffectiveSpec, share: int) -> EffectiveSpec:
    return replace(spec, args=written(f"--gpu-memory-utilization=0.{share}"))


@st.composite
def commits(draw: st.DrawFn):
    """Services that all together may or may not fit."""
    services = []
    for name in draw(st.lists(st.sampled_from("abc"), unique=True, min_size=1, max_size=3)):
        version, gpus = draw(st.sampled_from(("good1", "good2"))), draw(st.integers(0, 2))
        share, strategy = draw(st.sampled_from(SHARES)), draw(st.sampled_from((None, None, Strategy(0, 1))))
        millis = draw(st.sampled_from((0, 0, 300, 500))) if gpus == 1 else 0
        made = wanted(name, version, draw(st.integers(1, 2)), gpus, strategy=strategy, share=millis)
        asked = made.spec if millis else asking(spec(f"{name}:{version}", gpus), share)
        services.append(replace(made, spec=asked, digest=f"{version}-{name}-{gpus}-{millis or share}"))
    return state(*services)


hosts = st.builds(Host, gpus=st.integers(1, 5), release_seconds=st.sampled_from((0.0, 2.0, 10.0)))
crowds = st.dictionaries(st.sampled_from([f"GPU-{n}" for n in range(5)]), st.sampled_from((4, 30, 60, 100)), max_size=4)


@given(hosts, st.lists(st.tuples(commits(), crowds, st.integers(0, 30)), min_size=1, max_size=4))
@settings(max_examples=examples(80), deadline=None)
def test_others_on_the_gpus_only_delay_what_git_says(host: Host, history) -> None:
    """The simulation itself refuses starts without memory, and drains for the sake of such starts."""
    for commit, crowd, passes in history:
        host.strangers = crowd
        for _ in range(passes):
            host.step(commit)
            host.now += 0.5
    last = history[-1][0]
    host.strangers = {}
    host.converge(last, passes=2000)
    # A strategy of the user may forbid what room there is.
    is_free = not any(one.strategy for one in last.services)
    if is_free and sum(one.replicas * one.spec.resources.gpus for one in last.services) <= host.gpus:
        assert [len(host.serving(one.id.name)) for one in last.services] == [one.replicas for one in last.services]


def test_last_replica_on_shared_gpu_is_not_drained_and_taken_back_by_turns() -> None:
    """Found by the property above: the other one could not start next to it in the pass that took it back."""

    def want(name: str, version: str, replicas: int, gpus: int, share: int = 92, millis: int = 0) -> Desired:
        made = wanted(name, version, replicas, gpus, share=millis)
        asked = made.spec if millis else asking(spec(f"{name}:{version}", gpus), share)
        return replace(made, spec=asked, digest=f"{version}-{name}-{gpus}-{millis or share}")

    cpu = want("a", "good1", 2, 0, 50)
    shared = want("c", "good1", 2, 1, millis=300)
    crowd = {"GPU-0": 60, "GPU-1": 60, "GPU-3": 30, "GPU-4": 4}
    later = {"GPU-2": 30, "GPU-4": 60, "GPU-1": 30, "GPU-3": 100}
    strict = replace(want("c", "good2", 1, 2, 50), strategy=Strategy(0, 1))
    last = state(want("c", "good1", 2, 2), want("b", "good1", 2, 1), cpu)
    host = Host(gpus=4, release_seconds=10.0)
    for commit, strangers, passes in (
        (state(replace(cpu, replicas=1), want("b", "good1", 2, 2), shared), crowd, 14),
        (state(want("b", "good1", 1, 1), strict), {}, 1),
        (state(want("b", "good2", 2, 1, millis=300)), later, 22),
        (last, {}, 6),
    ):
        host.strangers = strangers
        for _ in range(passes):
            host.step(commit)
            host.now += 0.5
    host.converge(last)
    assert [one.digest for one in host.serving("c")] == ["good1-c-2-92"]


@pytest.mark.parametrize("gpus", [1, 2])
def test_service_waits_for_others_on_its_gpu_and_starts_when_they_are_gone(gpus: int) -> None:
    host = Host(gpus=gpus, strangers={f"GPU-{n}": 20 for n in range(gpus)})
    commit = state(wanted("a", "good1", gpus=1))
    for _ in range(10):
        plan = host.step(commit)
        host.now += 0.5
    (verdict,) = plan.verdicts.values()
    assert [one.code for one in verdict.blocked] == [ReasonCode.INSUFFICIENT_GPU_MEMORY]
    assert "held by process 1 (python3" in verdict.blocked[0].message
    assert plan.look_again_at == plan.at + 5
    assert not [one for one in host.log if isinstance(one, Start)]
    host.strangers.clear()
    host.converge(commit)
    assert len(host.serving("a")) == 1


def test_small_service_starts_beside_others_and_a_free_gpu_is_taken_first() -> None:
    host = Host(gpus=2, strangers={"GPU-0": 40})
    small = wanted("a", "good1", gpus=1)
    small = replace(small, spec=asking(small.spec, 50))
    host.converge(state(small, wanted("b", "good1", gpus=1)))
    assert {r.service.name: r.lease.gpus for r in host.replicas.values()} == {"a": ("GPU-0",), "b": ("GPU-1",)}


@pytest.mark.parametrize("strategy", [None, Strategy(0, 1), Strategy(0, 1, recreate=True)])
def test_what_serves_is_not_stopped_for_what_others_keep_from_starting(strategy: Strategy | None) -> None:
    host = Host(gpus=1)
    host.converge(state(wanted("a", "good1", gpus=1, strategy=strategy)))
    host.strangers["GPU-0"] = 20
    began, commit = len(host.log), state(wanted("a", "good2", gpus=1, strategy=strategy))
    for _ in range(30):
        plan = host.step(commit)
        host.now += 0.5
    (verdict,) = plan.verdicts.values()
    assert [one.code for one in verdict.blocked] == [ReasonCode.INSUFFICIENT_GPU_MEMORY]
    assert not [one for one in host.log[began:] if isinstance(one, Drain | Stop | Start)]
    assert len(host.serving("a")) == 1
    host.strangers.clear()
    host.converge(commit)
    assert [r.digest for r in host.serving("a")] == ["good2-a"]


def test_next_start_on_a_gpu_waits_until_its_memory_is_back() -> None:
    host = Host(gpus=1, release_seconds=5.0)
    host.converge(state(wanted("a", "good1", gpus=1)))
    said = set()
    commit = state(wanted("a", "good2", gpus=1))
    while not [one for one in host.log if isinstance(one, Start) and one.digest == "good2-a"]:
        plan = host.step(commit)
        said.add(plan.verdicts[commit.services[0].id].step)
        host.now += 0.5
    assert any("waiting until the driver gives back its GPU memory" in step for step in said)
    kinds = [type(one) for one in host.log if isinstance(one, Stop | Remove | Start)]
    # One stop: memory of ended processes needs no force.
    assert kinds == [Start, Stop, Remove, Start]


def test_service_may_grow_and_change_its_gpus_at_once() -> None:
    host = Host(gpus=2)
    host.converge(state(wanted("a", "good1", gpus=2)))
    host.converge(state(wanted("a", "good2", 2, gpus=1)))
    assert sorted(r.lease.gpus for r in host.serving("a")) == [("GPU-0",), ("GPU-1",)]


def test_stop_first_says_how_long_it_will_hurt() -> None:
    host = Host(gpus=1, start_seconds=7.0)
    host.converge(state(wanted("a", "good1", gpus=1)))
    commit, said = state(wanted("a", "good2", gpus=1)), ""
    while not said:
        said = host.step(commit).verdicts[commit.services[0].id].strategy
        host.now += 0.5
    assert said == (
        "stop-first: drain old, stop it, start new; not enough resources for both "
        "(needs 1 nvidia.com/gpu, 0 of 1 free; held by default/a); nothing serves for at most 10 s while running "
        "requests end, then about 7 s, as last time, while it starts"
    )
