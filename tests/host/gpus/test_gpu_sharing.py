"""A GPU for several services, and parts of a GPU: from the annotation to the lease and to the engine's arguments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.engines.arguments import flag_value
from reconciler.engines.digest import digest
from reconciler.engines.fit import GIB, MemoryBudget, estimate, room_of
from reconciler.engines.fit_files import Weights
from reconciler.engines.fit_model import MemoryArguments, shape_of
from reconciler.engines.launch import question
from reconciler.host.inventory import dump_record, load_record
from reconciler.host.plan import make_plan
from reconciler.model import (
    Capacity,
    EffectiveSpec,
    Gpu,
    Holds,
    Lease,
    Origin,
    Preflight,
    Resources,
    Restart,
    Start,
    Stop,
    texts,
)
from reconciler.report.text import status_blocks
from tests.desired.test_desired import RUNTIME, SERVICE, one
from tests.engines.test_engine_launch import ENGINE, MODELS, launched
from tests.report.test_report_text import plain
from tests.support.arguments import written
from tests.support.report_world import observed, replica, report, status_of
from tests.support.simulation import PATIENCE, Host, state, wanted
from tests.support.world import record

FRACTION = "reconciler/gpu-memory-fraction"
GPU_LIMIT = "resources: {limits: {nvidia.com/gpu: 1}}"


def leased(host: Host, name: str) -> list[tuple[str, ...]]:
    return sorted(r.lease.gpus for r in host.replicas.values() if r.service.name == name)


# ---------------------------------------------------------------- leases


def test_shares_are_packed_so_that_whole_gpus_stay_free():
    host = Host(gpus=3)
    host.converge(state(wanted("a", "good1", 3, gpus=1, share=300), wanted("b", "good1", gpus=2)))
    assert leased(host, "a") == [("GPU-0",)] * 3
    assert leased(host, "b") == [("GPU-1", "GPU-2")]


def test_share_goes_where_the_least_stays_free():
    host = Host(gpus=2)
    two = [wanted("a", "good1", gpus=1, share=300), wanted("b", "good1", gpus=1, share=800)]
    host.converge(state(*two))
    host.converge(state(*two, wanted("c", "good1", gpus=1, share=200)))
    assert leased(host, "c") == leased(host, "b") == [("GPU-1",)]


def test_who_finds_no_room_hears_who_has_how_much_of_the_gpus():
    host = Host(gpus=1)
    served = [wanted("a", "good1", gpus=1, share=600), wanted("b", "good1", gpus=1, share=250)]
    host.converge(state(*served))
    share, whole = wanted("c", "good1", gpus=1, share=200), wanted("d", "good1", gpus=1)
    plan = host.converge(state(*served, share, whole))
    held = "held by default/a (0.6), default/b (0.25)"
    assert [plan.verdicts[each.id].blocked[0].message for each in (share, whole)] == [
        f"needs 0.2 of a nvidia.com/gpu, at most 0.15 of one is free; {held}",
        f"needs 1 nvidia.com/gpu, 0 of 1 free; {held}",
    ]
    host.converge(state(share, whole))
    assert leased(host, "c") == [("GPU-0",)]
    assert leased(host, "d") == []


def test_gpu_share_surges_where_both_fit_and_is_stop_first_otherwise():
    for share, way in ((400, "surge"), (600, "stop-first")):
        host = Host(gpus=1)
        host.converge(state(wanted("a", "good1", gpus=1, share=share)))
        commit = state(wanted("a", "good2", gpus=1, share=share))
        said = set()
        for _ in range(60):
            said.add(host.step(commit).verdicts[commit.services[0].id].strategy.partition(":")[0])
            host.now += 0.5
        assert way in said
        assert [r.digest for r in host.serving("a")] == ["good2-a"]


def test_engine_starts_on_a_shared_gpu_only_while_its_neighbours_rest():
    host = Host(gpus=2, start_seconds=5)
    both = state(wanted("a", "good1", gpus=1, share=400), wanted("b", "good1", gpus=1, share=400))
    for _ in range(6):
        plan = host.step(both)
        host.now += 0.5
    assert [r.service.name for r in host.replicas.values()] == ["a"]
    waiting = plan.verdicts[both.services[1].id]
    assert (waiting.blocked, waiting.step) == (
        (),
        "waiting for default/a to finish starting or stopping on this GPU",
    )
    host.converge(both)
    assert leased(host, "a") == leased(host, "b") == [("GPU-0",)]


def test_memory_is_not_given_back_beside_an_engine_that_starts():
    host = Host(gpus=1, start_seconds=20, busy_seconds=0)
    old, new = wanted("a", "good1", gpus=1, share=400), wanted("b", "good1", gpus=1, share=400)
    host.converge(state(old))
    while not any(isinstance(action, Start) for action in host.step(state(old, new)).actions):
        host.now += 0.5
    for _ in range(20):
        host.now += 0.5
        plan = host.step(state(new))
    assert "ends once its neighbour on the GPU has started" in plan.verdicts[old.id].step
    assert not [action for action in host.log if isinstance(action, Stop)]
    host.converge(state(new))
    assert leased(host, "a") == []
    assert len(host.serving("b")) == 1


def test_restarted_replica_on_trial_ends_after_its_neighbour_started():
    host = Host(gpus=1, start_seconds=20)
    both = state(wanted("a", "good1", 2, gpus=1, share=400))
    while len(host.replicas) < 2:
        host.step(both)
        host.now += 0.5
    first = next(r for r in host.replicas.values() if r.ready_at is not None)
    host.replicas[first.id] = replace(first, restarted=Restart.CRASHED)
    plan = host.step(both)
    assert "ends once its neighbour on the GPU has started" in plan.verdicts[first.service].step
    assert first.id not in [action.replica for action in host.log if isinstance(action, Stop)]
    host.converge(both)
    assert first.id in [action.replica for action in host.log if isinstance(action, Stop)]


def test_nobody_waits_for_ever_beside_a_replica_that_does_not_end():
    host = Host(gpus=2)
    old, new = wanted("a", "good1", gpus=1, share=400), wanted("b", "good1", gpus=1, share=400)
    host.converge(state(old))
    (replica,) = host.replicas.values()
    observed = replace(host.observe(), replicas=(replace(replica, stopping_at=host.now, leftovers=1),))
    ready = {new.digest: Preflight(parsed="x")}
    for later, gpu in ((59, None), (61, "GPU-1")):
        seen = replace(observed, at=host.now + later, preflights=ready)
        starts = [each for each in make_plan(state(new), seen, Holds(), PATIENCE).actions if isinstance(each, Start)]
        assert [each.lease.gpus[0] for each in starts] == ([gpu] if gpu else [])


def test_engine_that_others_started_again_is_not_at_rest():
    host = Host(gpus=1)
    old, new = wanted("a", "good1", gpus=1, share=400), wanted("b", "good1", gpus=1, share=400)
    host.converge(state(old))
    host.preflights[new.digest] = Preflight(parsed="x")
    seen = host.observe()
    again = replace(seen, replicas=tuple(replace(r, restarted=Restart.BY_HAND) for r in seen.replicas))
    for look, count in ((seen, 1), (again, 0)):
        actions = make_plan(state(old, new), look, Holds(), PATIENCE).actions
        assert sum(isinstance(action, Start) for action in actions) == count


def test_mig_devices_are_leased_by_their_profile_and_never_as_a_gpu():
    host = Host(gpus=1, mig=("1g.10gb", "3g.40gb", "1g.10gb"))
    small, large = wanted("a", "good1", 2, mig="1g.10gb"), wanted("b", "good1", mig="3g.40gb")
    third, whole = wanted("c", "good1", mig="1g.10gb"), wanted("d", "good1", gpus=2)
    plan = host.converge(state(small, large, third, whole))
    assert leased(host, "a") == [("MIG-0",), ("MIG-2",)]
    assert leased(host, "b") == [("MIG-1",)]
    assert [plan.verdicts[each.id].blocked[0].message for each in (third, whole)] == [
        "needs 1 nvidia.com/mig-1g.10gb, 0 of 2 free; held by default/a",
        "needs 2 nvidia.com/gpu, this host has 1 (MIG: 2 nvidia.com/mig-1g.10gb, 1 nvidia.com/mig-3g.40gb)",
    ]


def test_mig_device_runs_no_parallel_engine():
    host = Host(mig=("1g.10gb",))
    commit = state(wanted("a", "good1", mig="1g.10gb"))
    host.preflights["good1-a"] = Preflight(parsed="x", gpus=2)
    rejected = host.converge(commit).verdicts[commit.services[0].id].rejected
    assert rejected
    assert "its one nvidia.com/mig-1g.10gb works alone; lower the parallel sizes" in rejected.reason.message


def test_resource_is_named_like_the_device_plugin_names_it():
    assert Gpu("MIG-1", profile="1g.10gb+me").kind == "nvidia.com/mig-1g.10gb.me"
    assert Gpu("GPU-1").kind == "nvidia.com/gpu"


# ---------------------------------------------------------------- git


def shared(fraction: str, *lines: str, service: str = SERVICE) -> str:
    """The service with the annotation, and lines for its model."""
    text = service.replace("  name: chat\n", f"  name: chat\n  annotations:\n    {FRACTION}: {fraction}\n", 1)
    return text + "".join(f"      {line}\n" for line in lines)


def test_annotation_gives_a_share_of_the_one_gpu():
    service = one(shared('"0.4"', GPU_LIMIT))
    assert (service.problems, service.blocked, service.warnings) == ((), (), ())
    assert service.spec
    assert service.spec.resources == Resources(gpus=1, gpu_share_millis=400)
    assert service.digest != one(SERVICE + f"      {GPU_LIMIT}\n").digest


def test_runtimes_annotation_is_the_default_of_its_services():
    runtime = RUNTIME.replace("spec:\n", f'spec:\n  annotations: {{{FRACTION}: "0.25"}}\n', 1)
    service = one(SERVICE + f"      {GPU_LIMIT}\n", {"runtimes/vllm.yaml": runtime})
    assert service.spec
    assert service.spec.resources.gpu_share_millis == 250
    own = one(shared('".5"', GPU_LIMIT), {"runtimes/vllm.yaml": runtime})
    assert own.spec
    assert own.spec.resources.gpu_share_millis == 500


@pytest.mark.parametrize("value", ["0", "1", "1.0", "0.0", "-0.4", "0.4 ", "40%", "0,4", "0.4001", "4e-1", "nan", ""])
def test_fraction_that_is_none_is_refused_with_its_line(value: str):
    service = one(shared(json.dumps(value), GPU_LIMIT))
    assert service.spec is None
    (problem,) = service.problems
    assert (problem.code, problem.origin) == ("InvalidAnnotation", Origin("hosts/box/chat.yaml", 6))
    assert problem.message.startswith(f'{FRACTION}: "{value}" must be more than 0 and less than 1')


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("", "no nvidia.com/gpu"),
        ("resources: {limits: {nvidia.com/gpu: 2}}", "2 nvidia.com/gpu"),
        ("resources: {limits: {nvidia.com/mig-1g.10gb: 1}}", "1 nvidia.com/mig-1g.10gb"),
    ],
)
def test_only_a_single_gpu_can_be_shared(resources: str, said: str):
    (problem,) = one(shared('"0.4"', *filter(None, [resources]))).problems
    assert f"resources request {said};" in problem.message
    assert problem.origin == Origin("hosts/box/chat.yaml", 6)


@pytest.mark.parametrize(
    "flag", ["--gpu-memory-utilization=0.9", "--gpu_memory_utilization=.9", "--device-memory-utilization=9e-1"]
)
def test_argument_beyond_the_share_is_refused_and_both_places_are_named(flag: str):
    text = shared('"0.4"', f"- {flag}", GPU_LIMIT)
    (blocked,) = one(text).blocked
    assert (blocked.code, blocked.origin) == ("GPUShareExceeded", Origin("hosts/box/chat.yaml", 16))
    assert f"0.9 is more than the 0.4 of a GPU that {FRACTION} allows (hosts/box/chat.yaml:6)" in blocked.message
    assert one(text.replace("9", "3")).blocked == ()


def test_service_without_the_annotation_keeps_its_digest():
    before = EffectiveSpec(
        "image", written("python"), written("--a=1"), resources=Resources(gpus=1, memory_bytes=1 << 30)
    )
    assert digest(before) == "6c44e587f6a3d805"
    assert digest(replace(before, resources=replace(before.resources, gpu_share_millis=400))) != digest(before)


def test_record_from_before_there_were_shares_is_still_read(tmp_path: Path):
    written = json.loads(dump_record(record()))
    del written["content"]["spec"]["resources"]["gpu_share_millis"]
    assert load_record(tmp_path, json.dumps(written)).spec.resources.gpu_share_millis == 0


def test_mig_device_is_asked_for_as_on_a_cluster_but_only_one():
    spec = one(SERVICE + "      resources: {limits: {nvidia.com/mig-1g.10gb: 1}}\n").spec
    assert spec
    assert spec.resources.other == (("nvidia.com/mig-1g.10gb", 1),)
    for more in ("nvidia.com/mig-1g.10gb: 2", "nvidia.com/mig-1g.10gb: 1, nvidia.com/gpu: 1"):
        blocked = one(SERVICE + f"      resources: {{limits: {{{more}}}}}\n").blocked
        assert [(each.code, each.origin) for each in blocked] == [("TooManyDevices", Origin("hosts/box/chat.yaml", 14))]


def test_annotation_of_ours_that_is_misspelt_is_said():
    text = shared('"0.4"', GPU_LIMIT).replace("fraction", "fracture")
    (warning,) = one(text).warnings
    assert (warning.code, warning.origin) == ("UnknownAnnotation", Origin("hosts/box/chat.yaml", 6))


# ---------------------------------------------------------------- the engine

SPEC = EffectiveSpec(
    "image", written("vllm", "serve"), written("/mnt/models"), resources=Resources(gpus=1, gpu_share_millis=400)
)


def test_engine_is_told_its_share_unless_it_keeps_to_less():
    assert flag_value(written(*launched(SPEC).argv), "--gpu-memory-utilization") == "0.4"
    less = replace(SPEC, args=written("/mnt/models", "--device-memory-utilization", "0.3"))
    assert flag_value(written(*launched(less).argv), "--gpu-memory-utilization") is None
    assert (
        flag_value(written(*launched(replace(SPEC, resources=Resources(gpus=1))).argv), "--gpu-memory-utilization")
        is None
    )


def test_engine_is_asked_about_the_share_that_nobody_wrote():
    asked = question(SPEC, ENGINE, MODELS, "/home")
    assert texts(asked.argv) == ("--model", "/mnt/models", "--gpu-memory-utilization=0.4")
    assert not asked.argv[-1].origin


def test_mig_device_is_named_by_its_uuid():
    assert launched(SPEC, lease=Lease(1, ("MIG-9",))).env["CUDA_VISIBLE_DEVICES"] == "MIG-9"


LARGE = shape_of(
    {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}, None
)


def test_whether_it_fits_is_judged_by_the_share():
    weights, given = Weights((("BF16", 12 * GIB),), exact=True), MemoryArguments(max_model_len=8192, utilization=0.4)
    room = MemoryBudget(1, 24 * GIB, share=0.4)
    assert estimate(weights, LARGE, given, room).refusal == (
        "its weights alone take 12.0 GiB, more than the 9.6 GiB (0.4 of 24.0 GiB) that a GPU of this host has; give it "
        "more of the GPU, lower --max-model-len or --kv-cache-memory-bytes, or take a quantised model"
    )
    # An explicit cache size is not bound by the engine, but by the lease all the same.
    cached = replace(given, kv_bytes=GIB)
    assert estimate(weights, LARGE, cached, room).refusal
    assert not estimate(weights, LARGE, cached, replace(room, share=1.0)).refusal


def test_room_on_a_mig_device_is_its_own():
    gpus = (Gpu("GPU-0", memory_bytes=80 * GIB), Gpu("MIG-0", memory_bytes=10 * GIB, profile="1g.10gb", parent="GPU-1"))
    need = Resources(other=(("nvidia.com/mig-1g.10gb", 1),))
    assert room_of(need, gpus, 99, 1) == MemoryBudget(1, 10 * GIB, mig=True)
    assert room_of(Resources(gpus=1, gpu_share_millis=250), gpus, 99, 1) == MemoryBudget(1, 80 * GIB, share=0.25)


# ---------------------------------------------------------------- people


def test_status_tells_who_has_how_much_of_which_device():
    gpus = (Gpu("GPU-0"), Gpu("GPU-1"), Gpu("MIG-0", profile="1g.10gb", parent="GPU-2"))
    part = replace(SPEC, resources=Resources(gpus=1, gpu_share_millis=400))
    sharing = [replica(number=n, spec=part, lease=Lease(20000 + n, ("GPU-0",))) for n in range(2)]
    status = status_of(report(observed=replace(observed(*sharing), capacity=Capacity(1, 1, gpus))))
    devices = status["targets"][0]["gpus"]["devices"]
    assert [lease["fraction"] for lease in devices[0]["leases"]] == [0.4, 0.4]
    assert (devices[2]["kind"], devices[2]["parent"], devices[2]["leases"]) == ("nvidia.com/mig-1g.10gb", "GPU-2", [])
    service = status["targets"][0]["services"][0]
    assert (service["gpus"], service["replicas"][0]["gpuFraction"]) == (0.8, 0.4)
    first = next(line for line in plain(status_blocks(status)).splitlines() if "http://" in line)
    assert "1 of 2 GPUs (shared: 0.8 taken), 0 of 1 mig-1g.10gb in use" in first
