"""What a host can never run is known before any preflight: with the messages that the daemon would use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.desired.resources import capacity_of, never_here
from reconciler.engines.arguments import parallel_size
from reconciler.host.capacity import impossible
from reconciler.model import Capacity, Gpu, Resources
from tests.desired.test_desired import RUNTIME, SERVICE, TARGET, one, with_model
from tests.preview.test_on_host import Desk, Document, desk, messages
from tests.support.arguments import written

__all__ = ["desk"]

GPU_1, GPU_2 = (f"GPU-{digit * 8}-1111-1111-1111-111111111111" for digit in "12")
PART = "MIG-11111111-1111-1111-1111-111111111111"


def limited(text: str) -> str:
    return with_model(f"resources: {{limits: {{{text}}}}}")


def errors_of(desk: Desk) -> list[Document]:
    return list(desk.ask("validate")[1]["errors"])


# ---------------------------------------------------------------- one service


@pytest.mark.parametrize(
    ("limits", "settings", "said"),
    [
        ("amd.com/gpu: 1", {}, "needs 1 amd.com/gpu, this host has 0; a host leases nvidia.com/gpu and"),
        ("habana.ai/gaudi: 2", {}, "needs 2 habana.ai/gaudi, this host has 0; a host leases"),
        ("google.com/tpu: 4", {}, "needs 4 google.com/tpu, this host has 0"),
        ("rdma/hca: 1", {}, "needs 1 rdma/hca, this host has 0"),
        ("nvidia.com/gpu.shared: 1", {}, "to share a GPU, request 1 nvidia.com/gpu and annotate reconciler/gpu-memory"),
        ("nvidia.com/gpu: 1", {"gpus": []}, "needs 1 nvidia.com/gpu, this host has 0"),
        ("nvidia.com/gpu: 2", {"gpus": [GPU_1]}, "needs 2 nvidia.com/gpu, this host has 1"),
        ("nvidia.com/gpu: 1", {"gpus": [PART]}, "needs 1 nvidia.com/gpu, this host has 0"),
        ("nvidia.com/mig-1g.10gb: 1", {"gpus": []}, "needs 1 nvidia.com/mig-1g.10gb, this host has 0"),
        ("memory: 9Gi", {"allocatable": {"memory": "8Gi"}}, "needs 9.0 GiB, this host has 8.0 GiB"),
        ("cpu: 5", {"allocatable": {"cpu": "4"}}, "needs 5000m of CPU, this host has 4000m"),
    ],
)
def test_validate_refuses_what_no_such_host_runs(desk: Desk, limits: str, settings: dict[str, object], said: str):
    desk.configure(**settings)
    desk.write(chat=limited(limits))
    (error,) = errors_of(desk)
    assert said in error["message"]
    assert (error["file"].rsplit("/", 1)[-1], error["line"]) == ("chat.yaml", SERVICE.count("\n") + 1)
    assert desk.host()["blocked"][0]["message"] == error["message"]


@pytest.mark.parametrize(
    ("limits", "settings"),
    [
        ("nvidia.com/gpu: 1", {}),
        ("nvidia.com/gpu: 2", {"gpus": [GPU_1, GPU_2]}),
        ("amd.com/gpu: 0", {"gpus": []}),
        ("nvidia.com/mig-1g.10gb: 1", {"gpus": [GPU_1]}),
        ("nvidia.com/mig-1g.10gb: 1", {"gpus": [PART]}),
        ("cpu: 400, memory: 4Ti", {}),
    ],
)
def test_validate_takes_what_only_the_host_can_tell(desk: Desk, limits: str, settings: dict[str, object]):
    desk.configure(**settings)
    desk.write(chat=limited(limits))
    assert errors_of(desk) == []


def test_validate_on_the_host_itself_knows_what_it_has(desk: Desk):
    desk.configure(allocatable={})
    desk.write(chat=limited("memory: 4Ti, nvidia.com/mig-1g.10gb: 1"))
    assert errors_of(desk) == []
    (desk.folder / "state" / "box").mkdir(parents=True)
    said = messages(errors_of(desk))
    assert "needs 1 nvidia.com/mig-1g.10gb, this host has 0" in said[0]
    assert "needs 4096.0 GiB, this host has " in said[1]


def test_words_are_those_of_the_planner_for_the_same_host():
    target = TARGET.model_copy(update={"gpus": (GPU_1,)})
    need = Resources(gpus=2, other=(("amd.com/gpu", 1),))
    service = replace(one(limited("nvidia.com/gpu: 2, amd.com/gpu: 1")), blocked=())
    planned = impossible(need, Capacity(1 << 60, 1 << 60, (Gpu(GPU_1),)))
    found = [each.message for each in never_here(service, target, None)]
    assert found == [each.message for each in planned]
    assert capacity_of(target).gpus == (Gpu(GPU_1),)


@pytest.mark.parametrize(
    ("place", "more"),
    [
        ("  name: chat\n", "  annotations: {serving.kserve.io/stop: 'true'}\n"),
        ("  predictor:\n", "    nodeSelector: {disk: ssd}\n"),
    ],
)
def test_service_that_does_not_run_here_needs_nothing(desk: Desk, place: str, more: str):
    desk.write(chat=limited("amd.com/gpu: 1").replace(place, place + more))
    assert errors_of(desk) == []


def test_resources_that_a_host_does_not_count_are_warned_about():
    text = SERVICE + "      resources:\n        requests: {cpu: 1}\n        limits:\n          ephemeral-storage: 1Gi\n"
    (warning,) = one(text).warnings
    assert (warning.code, warning.origin and warning.origin.line) == ("FieldIgnored", text.count("\n"))
    assert warning.message.startswith("resources: ephemeral-storage is ignored on a host")


def test_model_of_a_custom_predictor_is_blamed_at_its_variable(desk: Desk) -> None:
    head, _, _ = SERVICE.partition("    model:\n")
    container = """\
    containers:
    - name: kserve-container
      image: vllm/vllm-openai:v1
      args: [--model=/mnt/models, --port=8080]
      env:
      - {name: A, value: b}
      - {name: STORAGE_URI, value: "pvc://nowhere/m"}
"""
    desk.write(chat=head + container)
    (error,) = desk.ask("validate")[1]["errors"]
    assert "pvc://nowhere/m" in error["message"]
    assert error["line"] == (head + container).count("\n")


def test_what_no_process_can_be_given_is_refused_at_its_line(desk: Desk):
    long = "x" * 140_000
    desk.write(chat=SERVICE + f'      - "--chat-template={long}"\n      env:\n      - {{name: LONG, value: {long}}}\n')
    said = [(each["line"] - SERVICE.count("\n"), each["message"]) for each in errors_of(desk)]
    assert [line for line, _ in said] == [1, 3]
    assert "--chat-template" in said[0][1]
    assert "variable LONG has 140,005 bytes, and no process takes more" in said[1][1]


def test_claims_that_a_host_does_not_know_are_warned_about_at_both_lines():
    runtime = RUNTIME.replace("spec:\n", "spec:\n  resourceClaims:\n  - {name: gpu, resourceClaimName: x}\n", 1)
    text = SERVICE + "      resources: {claims: [{name: gpu}]}\n"
    service = one(text, {"runtimes/vllm.yaml": runtime})
    said = {str(each.origin): each.message for each in service.warnings}
    line = runtime[: runtime.index("resourceClaims:")].count("\n") + 1
    assert "resourceClaims is ignored on a host" in said[f"runtimes/vllm.yaml:{line}"]
    assert said[f"hosts/box/chat.yaml:{text.count(chr(10))}"].startswith("resources: claims are ignored on a host")


# ---------------------------------------------------------------- parallel sizes


@pytest.mark.parametrize(
    ("flags", "gpus", "index"),
    [
        ([], 1, None),
        (["--tensor-parallel-size=2", "-pp", "3"], 6, 1),
        (["-tp=2", "--tensor_parallel_size", "4"], 4, 1),
        (["--data-parallel-size=2", "-dcp", "2", "--enable-expert-parallel"], 2, 0),
        (["-pcp=2"], 2, 0),
    ],
)
def test_parallel_size_is_the_product_of_the_sizes(flags: list[str], gpus: int, index: int | None):
    arguments = written(*flags)
    size = parallel_size(arguments)
    assert size
    assert (size.gpus, size.argument) == (gpus, None if index is None else arguments[index])


@pytest.mark.parametrize("flag", ["--config=/x", "-tp=auto", "--data-parallel-size-local=1", "--nnodes=2", "-tp"])
def test_parallel_size_is_unknown_where_the_words_do_not_tell(flag: str):
    assert parallel_size(written("--data-parallel-size=2", *flag.split())) is None


@pytest.mark.parametrize(
    ("arguments", "used"),
    [
        ((), "only one of them"),
        (("-tp", "2"), "only 2 of them"),
        (("--data-parallel-size=3",), "only 3 of them"),
        (("--tensor-parallel-size=2", "-pp=2"), None),
        (("--config=/mnt/models/vllm.yaml",), None),
    ],
)
def test_gpus_without_use_are_warned_about_at_the_limit(arguments: tuple[str, ...], used: str | None):
    lines = "".join(f'      - "{each}"\n' for each in arguments)
    text = SERVICE + lines + "      resources:\n        limits:\n          cpu: 1\n          nvidia.com/gpu: 4\n"
    found = [each for each in one(text).warnings if each.code == "IdleGPUs"]
    assert [used in each.message for each in found if used] == ([True] if used else [])
    assert [each.origin and each.origin.line for each in found] == ([text.count("\n")] if used else [])


def test_gpus_of_a_command_that_nobody_can_read_are_not_warned_about():
    shell = '      command: [bash, -c, "vllm serve /mnt/models --tensor-parallel-size=4"]\n'
    service = one(SERVICE + shell + "      resources: {limits: {nvidia.com/gpu: 4}}\n")
    assert [each.code for each in service.blocked] == ["UnsupportedCommand"]
    assert "IdleGPUs" not in [each.code for each in service.warnings]


def test_too_few_gpus_are_refused_at_the_argument(desk: Desk):
    desk.write(chat=SERVICE + '      - "-tp=4"\n      resources: {limits: {nvidia.com/gpu: 2}}\n')
    (error,) = errors_of(desk)
    text = "the arguments need 4 GPUs (tensor, pipeline and data parallel) but resources request 2 nvidia.com/gpu"
    assert error["message"].startswith(text)
    assert error["line"] == SERVICE.count("\n") + 1


# ---------------------------------------------------------------- ports


DECLARED = "      ports: [{containerPort: 8000}, {containerPort: 8080}]\n"


@pytest.mark.parametrize(
    ("runtime_port", "more", "said"),
    [
        ("--port=8080", "", None),
        ("--port=8000", "", "--port 8000 is not 8080, and no containerPort declares it"),
        ("--port=8000", DECLARED, None),
        ("--port=8080", DECLARED, "--port 8080 is not the container's first containerPort"),
        ("--port=$(PORT)", DECLARED + "      env: [{name: PORT, value: '8000'}]\n", None),
        ("--port=$(PORT)", DECLARED + "      env: [{name: PORT, value: '80'}]\n", "--port 80 is not the container's"),
        ("--dtype=auto", "", "without --port vLLM listens on 8000"),
        ("--dtype=auto", DECLARED, None),
        ("--grpc", "", None),
        ("--port=8080", "      ports: [{containerPort: 9000}]\n      command: [vllm, serve, --grpc-port=9000]\n", None),
    ],
)
def test_port_that_a_cluster_does_not_find_is_a_warning(desk: Desk, runtime_port: str, more: str, said: str | None):
    runtime = (desk.folder / "tree" / "runtime.yaml").read_text()
    desk.write(runtime=runtime.replace("--port=8080", runtime_port), chat=SERVICE + more)
    assert "--port=8080" in runtime
    code, out, _ = desk("validate", "-o", "json")
    local = [each for each in desk.ask("validate")[1]["warnings"] if "--port" in each["message"]]
    assert code == 0
    assert said is None or f'"{said}' in out
    assert [each["message"].startswith(str(said)) for each in local] == ([True] if said else [])
    file = "chat" if "dtype" in runtime_port else "runtime"
    assert [each["file"].rsplit("/", 1)[-1] for each in local] == ([f"{file}.yaml"] if said else [])


# ---------------------------------------------------------------- all of them together


def test_replicas_that_do_not_fit_beside_each_other_are_warned_about(desk: Desk):
    desk.configure(gpus=[GPU_1, GPU_2], allocatable={"memory": "8Gi"})
    many = limited("nvidia.com/gpu: 1").replace("  predictor:\n", "  predictor:\n    minReplicas: 3\n")
    desk.write(chat=many)
    (warning,) = desk.ask("validate")[1]["warnings"]
    text = "2 of 3 replicas fit on this host with the other services of these files: "
    assert warning["message"] == f"{text}needs 1 nvidia.com/gpu, 0 of 2 free"
    desk.configure(gpus=[GPU_1, GPU_2, GPU_1.replace("1", "3")])
    assert desk.ask("validate")[1]["warnings"] == []


def test_services_that_do_not_fit_beside_each_other_are_warned_about(desk: Desk):
    desk.configure(allocatable={"memory": "8Gi"})
    desk.write(chat=limited("memory: 5Gi"))
    (desk.folder / "tree" / "more.yaml").write_text(limited("memory: 5Gi").replace("name: chat", "name: more"))
    code, document = desk.ask("validate")
    assert (code, len(document["warnings"])) == (0, 1)
    assert "needs 5.0 GiB of memory, 3.0 GiB of 8.0 GiB free" in document["warnings"][0]["message"]
