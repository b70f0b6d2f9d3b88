"""Memory arithmetic: weights from headers, KV cache from config.json, and when the answer is certain."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.engines.fit import (
    BESIDE_WORKER,
    GIB,
    MemoryBudget,
    Past,
    estimate,
    kv_bytes_per_token,
    overhead_of,
    room_of,
    weights_per_gpu,
)
from reconciler.engines.fit_files import (
    MeasuredMemory,
    Tensor,
    UnreadableModel,
    Weights,
    read_figures,
    read_header,
    read_weights,
)
from reconciler.engines.fit_model import MemoryArguments, ModelShape, arguments_of, shape_of
from reconciler.host.checks.fits import look_at
from reconciler.model import Fit, Gpu, Resources
from tests.support.arguments import written
from tests.support.examples import examples

PLAIN = MemoryArguments()

# ---------------------------------------------------------------- published models

LLAMA_8B = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
LLAMA_70B = {"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192}
QWEN_7B = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}
QWEN_7B |= {"sliding_window": 131072, "use_sliding_window": False}
MISTRAL_7B = {**LLAMA_8B, "sliding_window": 4096}
MIXTRAL = {**LLAMA_8B, "num_local_experts": 8, "sliding_window": None}
DEEPSEEK_V2 = {"num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 128, "hidden_size": 5120}
DEEPSEEK_V2 |= {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
DEEPSEEK_V3 = {**DEEPSEEK_V2, "num_hidden_layers": 61, "hidden_size": 7168}
GEMMA_7B = {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "hidden_size": 3072}
GEMMA_7B |= {"head_dim": 256}
GEMMA_3 = {"text_config": {**GEMMA_7B, "layer_types": ["sliding_attention", "full_attention"] * 14}}
FALCON_7B = {"n_layer": 32, "n_head": 71, "hidden_size": 4544, "multi_query": True}
KIB = 1024


@pytest.mark.parametrize(
    ("config", "arguments", "expected"),
    [
        (LLAMA_8B, PLAIN, 128 * KIB),
        (LLAMA_70B, PLAIN, 320 * KIB),
        (LLAMA_70B, replace(PLAIN, tensor_parallel=4), 80 * KIB),
        (LLAMA_70B, replace(PLAIN, tensor_parallel=16), 40 * KIB),
        (LLAMA_70B, replace(PLAIN, tensor_parallel=2, pipeline_parallel=3), 27 * 2 * 4 * 128 * 2),
        (LLAMA_70B, replace(PLAIN, kv_type="fp8"), 160 * KIB),
        (LLAMA_8B, replace(PLAIN, dtype="float32"), 256 * KIB),
        (LLAMA_8B, replace(PLAIN, dtype="float32", kv_type="bfloat16"), 128 * KIB),
        (QWEN_7B, PLAIN, 56 * KIB),
        (MISTRAL_7B, PLAIN, 128 * KIB),
        (MIXTRAL, PLAIN, 128 * KIB),
        (DEEPSEEK_V2, PLAIN, 60 * 576 * 2),
        (DEEPSEEK_V3, PLAIN, 70_272),
        (DEEPSEEK_V3, replace(PLAIN, tensor_parallel=8), 70_272),
        (DEEPSEEK_V3, replace(PLAIN, kv_type="fp8_ds_mla"), 61 * 656),
        ({**LLAMA_8B, "quantization_config": {"kv_cache_scheme": {"num_bits": 8}}}, PLAIN, 64 * KIB),
        (GEMMA_7B, PLAIN, 448 * KIB),
        (GEMMA_3, PLAIN, 448 * KIB),
        (FALCON_7B, PLAIN, 32 * 2 * 64 * 2),
        ({}, PLAIN, 0),
    ],
)
def test_token_keeps_what_is_published_of_the_model(
    config: dict[str, Any], arguments: MemoryArguments, expected: int
) -> None:
    assert kv_bytes_per_token(shape_of(config), arguments) == expected


@pytest.mark.parametrize(
    ("config", "bound"),
    [(LLAMA_8B, False), (QWEN_7B, False), (MIXTRAL, False), (MISTRAL_7B, True), (GEMMA_3, True), (DEEPSEEK_V3, False)],
)
def test_cache_that_forgets_is_only_bounded(config: dict[str, Any], bound: bool) -> None:
    assert bool(shape_of(config).bound) is bound


@pytest.mark.parametrize(
    ("config", "tokenizer", "length"),
    [
        ({"max_position_embeddings": 131072}, {}, 131072),
        ({"max_position_embeddings": 131072}, {"model_max_length": 4096}, 4096),
        ({"max_position_embeddings": 4096}, {"model_max_length": 10**30}, 4096),
        ({"n_positions": 1024}, {}, 1024),
        ({"text_config": {"max_position_embeddings": 8192}}, {}, 8192),
        (
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "longrope"},
            },
            {},
            4096,
        ),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, {}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, {}, 4096),
        ({}, {"model_max_length": 512}, 0),
    ],
)
def test_longest_request_is_the_models_own(config: dict[str, Any], tokenizer: dict[str, Any], length: int) -> None:
    assert shape_of(config, tokenizer).max_len == length


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({*LLAMA_8B, *DEEPSEEK_V3, *FALCON_7B, "text_config", "quantization_config", "rope_scaling", "dtype"})


@settings(max_examples=examples(50), deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.dictionaries(st.just("model_max_length"), JSON))
def test_no_config_breaks_the_arithmetic(config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    shape = shape_of(config, tokenizer)
    fit = estimate(Weights((("BF16", 5),)), shape, PLAIN, MemoryBudget(1, GIB))
    assert fit.line
    assert kv_bytes_per_token(shape, PLAIN) >= 0


# ---------------------------------------------------------------- arguments


def test_engines_own_reading_wins_over_the_words() -> None:
    parsed = json.dumps({"max_model_len": 8192, "gpu_memory_utilization": 0.5, "tensor_parallel_size": 4})
    found = arguments_of(parsed, written("--max-model-len=1"), {})
    assert (found.max_model_len, found.utilization, found.tensor_parallel) == (8192, 0.5, 4)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--max-model-len=32k"], {"max_model_len": 32_000}),
        (["--max_model_len", "32K"], {"max_model_len": 32_768}),
        (["--max-model-len=1.5k"], {"max_model_len": 1_500}),
        (["--max-model-len=auto"], {"max_model_len": -1}),
        (["--max-model-len=x"], {"max_model_len": 0}),
        (["-tp", "2", "--tensor-parallel-size=4"], {"tensor_parallel": 4}),
        (["--tensor-parallel-size=4", "-tp=2"], {"tensor_parallel": 2}),
        (["--device-memory-utilization", ".5"], {"utilization": 0.5}),
        (["--kv-cache-memory-bytes=1G", "--kv-cache-dtype=fp8"], {"kv_bytes": GIB, "kv_type": "fp8"}),
        (["--cpu-offload-gb=4"], {"loose": ("--cpu-offload-gb",)}),
        (["--load-format=dummy"], {"loose": ("--load-format",)}),
        ([], {"utilization": 0.92, "kv_bytes": None, "tensor_parallel": 1}),
    ],
)
def test_words_are_read_as_the_engine_reads_them(argv: list[str], expected: dict[str, Any]) -> None:
    found = arguments_of("", written(*argv), {})
    assert {name: getattr(found, name) for name in expected} == expected


def test_on_a_cpu_the_variable_gives_the_cache_in_gibibytes() -> None:
    found = arguments_of("", written("--kv-cache-memory-bytes=1"), {"VLLM_CPU_KVCACHE_SPACE": "4"})
    assert found.kv_bytes == 4 * GIB


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["--max-model-len", "-tp", "--config", "32k", "-1", "--", "--dtype=", "é"]) | st.text())
)
def test_no_command_line_breaks_the_reading(argv: list[str]) -> None:
    assert arguments_of("", written(*argv), {"VLLM_CPU_KVCACHE_SPACE": "²"}).utilization == 0.92


@settings(max_examples=examples(50), deadline=None)
@given(st.text() | JSON.map(json.dumps))
def test_no_verdict_breaks_the_reading(parsed: str) -> None:
    assert arguments_of(parsed, [], {}).tensor_parallel >= 1


# ---------------------------------------------------------------- does it fit?

BIG = ModelShape(layers=32, kv_heads=8, key=128, value=128, max_len=131072)
SIXTEEN = Weights((("BF16", 16 * GIB),))
CARD = MemoryBudget(1, 24 * GIB)


def test_line_says_need_have_and_concurrency() -> None:
    fit = estimate(SIXTEEN, BIG, replace(PLAIN, max_model_len=8192), CARD)
    assert fit.line == "weights 16.0 + KV 1.0 + 2.0 = 19.0 of 22.1 GiB, 4.1x concurrency at 8192 tokens"
    assert (fit.fits, fit.refusal, fit.notes) == (True, "", ())


def test_several_gpus_share_the_weights() -> None:
    fit = estimate(SIXTEEN, BIG, replace(PLAIN, max_model_len=8192, tensor_parallel=2), replace(CARD, gpus=2))
    assert fit.line.startswith("weights 8.0 + KV 0.5 + 2.0 = 10.5 of 22.1 GiB on each of 2 GPUs, ")


def refusal(
    weights: Weights = SIXTEEN,
    shape: ModelShape = BIG,
    room: MemoryBudget = CARD,
    past: Past | None = None,
    **arguments: Any,
) -> str:
    return estimate(weights, shape, replace(PLAIN, **arguments), room, past or Past()).refusal


def test_weights_that_exceed_the_gpu_certainly_do_not_fit() -> None:
    said = refusal(Weights((("BF16", 30 * GIB),)))
    assert said == (
        "its weights alone take 30.0 GiB, more than the 22.1 GiB (0.92 of 24.0 GiB) that a GPU of this host has; "
        "raise --tensor-parallel-size, lower --max-model-len or --kv-cache-memory-bytes, or take a quantised model"
    )


def test_one_request_that_exceeds_what_is_left_certainly_does_not_fit() -> None:
    assert "the KV cache of one request of 131072 tokens 16.0 GiB" in refusal()
    assert refusal(max_model_len=8192) == ""


def test_one_request_that_exceeds_the_given_cache_certainly_does_not_fit() -> None:
    assert refusal(kv_bytes=GIB // 2, max_model_len=8192) == (
        "one request of 8192 tokens takes 1.0 GiB of KV cache, more than the 512.0 MiB given; "
        "raise that or lower --max-model-len"
    )


NOT_CERTAIN: list[dict[str, Any]] = [
    {"max_model_len": -1},
    {"shape": replace(BIG, bound="sliding window")},
    {"weights": replace(SIXTEEN, exact=False), "max_model_len": 8192, "room": MemoryBudget(1, 8 * GIB)},
    {"loose": ("--cpu-offload-gb",)},
    {"quantization": "fp8"},
    {"kv_type": "nvfp4"},
    {"room": MemoryBudget(1, 0)},
    {"shape": ModelShape()},
    {"past": Past(MeasuredMemory(concurrency=1.0, max_model_len=131072))},
]


@pytest.mark.parametrize("case", NOT_CERTAIN, ids=lambda case: next(iter(case)))
def test_what_is_not_certain_refuses_nobody(case: dict[str, Any]) -> None:
    assert refusal() != ""
    assert refusal(**case) == ""


def test_on_a_cpu_the_hosts_memory_decides_and_the_request_only_warns() -> None:
    room = MemoryBudget(0, 32 * GIB, asked_bytes=8 * GIB)
    fit = estimate(SIXTEEN, BIG, replace(PLAIN, max_model_len=8192, kv_bytes=GIB), room)
    assert (fit.fits, fit.refusal) == (True, "")
    assert fit.line == (
        "weights 16.0 + KV 1.0 + 2.0 = 19.0 of 32.0 GiB, 1.0x concurrency at 8192 tokens; "
        "more than the 8.0 GiB of memory that it requests"
    )
    assert (
        "asks for" not in estimate(SIXTEEN, BIG, replace(PLAIN, kv_bytes=GIB), replace(room, asked_bytes=18 * GIB)).line
    )
    assert refusal(room=replace(room, memory_bytes=12 * GIB), kv_bytes=GIB, max_model_len=8192)


def test_cpu_cache_without_a_size_takes_the_hosts_memory() -> None:
    fit = estimate(SIXTEEN, BIG, replace(PLAIN, utilization=0.75), MemoryBudget(0, 32 * GIB, asked_bytes=20 * GIB))
    assert (fit.need_bytes, fit.tight) == (34 * GIB, True)
    small = estimate(
        Weights((("BF16", GIB),)), replace(BIG, max_len=8), PLAIN, MemoryBudget(0, 32 * GIB, asked_bytes=20 * GIB)
    )
    assert (small.need_bytes, small.tight) == (int(32 * GIB * 0.92), True)
    assert "without --kv-cache-memory-bytes the engine takes 92% of this host's memory" in small.line


def test_floats_take_the_type_that_the_engine_computes_in() -> None:
    stored = Weights((("F32", 400), ("I32", 50)))
    assert weights_per_gpu(stored, PLAIN) == 250
    assert weights_per_gpu(stored, replace(PLAIN, dtype="float32")) == 450


@settings(max_examples=examples(100), deadline=None)
@given(
    st.integers(0, 200 * GIB),
    st.integers(2, 200 * GIB),
    st.integers(1, 2**20),
    st.sampled_from([1, 2, 4, 8]),
    st.none() | st.integers(1, 64 * GIB),
)
def test_refusal_is_never_said_of_what_fits_by_the_same_numbers(
    size: int, memory: int, length: int, ranks: int, cache: int | None
) -> None:
    arguments = replace(PLAIN, max_model_len=length, tensor_parallel=ranks, kv_bytes=cache)
    fit = estimate(Weights((("BF16", size),)), BIG, arguments, MemoryBudget(ranks, memory))
    bigger = estimate(Weights((("BF16", size),)), BIG, arguments, MemoryBudget(ranks, memory * 2))
    assert fit.need_bytes is not None
    assert fit.have_bytes is not None
    assert fit.concurrency is not None
    if fit.refusal:
        assert fit.need_bytes > fit.have_bytes or fit.concurrency < 1
    if not fit.refusal:
        assert not bigger.refusal
    assert fit.concurrency <= (bigger.concurrency or 0)


def test_best_gpus_of_a_host_count_and_the_least_of_them_decides() -> None:
    gpus = (Gpu("a", memory_bytes=10), Gpu("b", memory_bytes=30), Gpu("c", memory_bytes=20))
    assert room_of(Resources(gpus=2), gpus, 99, 2) == MemoryBudget(2, 20)
    assert room_of(Resources(gpus=4), gpus, 99, 4) == MemoryBudget(4, 0)
    assert room_of(Resources(gpus=1), (Gpu("unknown"),), 99, 1) == MemoryBudget(1, 0)
    assert room_of(Resources(memory_bytes=5), gpus, 99, 1) == MemoryBudget(0, 99, 5)


# ---------------------------------------------------------------- headers


def write_model(path: Path, tensors: dict[str, tuple[str, int]], metadata: bool = True) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if metadata else {}
    at = 0
    for name, (kind, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + at)


def test_headers_are_read_and_added_up(tmp_path: Path) -> None:
    write_model(tmp_path / "model-1.safetensors", {"a": ("BF16", 8), "b": ("F8_E4M3", 3)})
    write_model(tmp_path / "model-2.safetensors", {"c": ("BF16", 2)}, metadata=False)
    assert read_weights(tmp_path) == Weights((("BF16", 10), ("F8_E4M3", 3)))


def test_tensor_in_two_files_counts_once(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors"):
        write_model(tmp_path / name, {"shared": ("BF16", 8)})
    assert read_weights(tmp_path).total == 8


def test_only_files_of_the_index_count(tmp_path: Path) -> None:
    write_model(tmp_path / "model-1.safetensors", {"a": ("BF16", 8)})
    write_model(tmp_path / "old.safetensors", {"z": ("BF16", 100)})
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert read_weights(tmp_path).total == 8


def test_of_two_complete_sets_one_counts(tmp_path: Path) -> None:
    write_model(tmp_path / "model-1.safetensors", {"a": ("BF16", 8)})
    write_model(tmp_path / "consolidated.safetensors", {"wa": ("BF16", 9)})
    assert read_weights(tmp_path).total == 9


def test_what_is_not_loaded_does_not_count(tmp_path: Path) -> None:
    parts = dict.fromkeys(("model.layers.1.w", "model.layers.2.w", "mtp.w", "lm_head.weight"), ("BF16", 1))
    write_model(tmp_path / "model.safetensors", {**parts, "model.embed_tokens.weight": ("BF16", 1)})
    assert read_weights(tmp_path).total == 4
    assert read_weights(tmp_path, layers=2, is_tied=True).total == 2


@pytest.mark.parametrize("name", ["model.gguf", "pytorch_model.bin", "model.pt"])
def test_other_formats_count_by_their_size(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(77))
    (tmp_path / "training_args.bin").write_bytes(bytes(5))
    assert read_weights(tmp_path) == Weights((("", 77),), exact=False)
    assert "estimated from file sizes" in look_at(tmp_path, PLAIN, CARD).line


def test_model_may_be_one_file(tmp_path: Path) -> None:
    (tmp_path / "q4.gguf").write_bytes(bytes(7))
    (tmp_path / "q8.gguf").write_bytes(bytes(9))
    assert read_weights(tmp_path / "q8.gguf").total == 9


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("model.safetensors.index.json", '{"weight_map": {"a": "../m.safetensors"}}', "is not there"),
        ("model.safetensors.index.json", "{}", "weight_map"),
        ("model.safetensors.index.json", "{", "is not JSON"),
        ("config.json", "[]", "is not a JSON object"),
    ],
)
def test_broken_files_make_the_size_unknown_and_say_which(tmp_path: Path, name: str, content: str, word: str) -> None:
    write_model(tmp_path / "model.safetensors", {"a": ("BF16", 8)})
    (tmp_path / name).write_text(content)
    fit = look_at(tmp_path, PLAIN, CARD)
    assert name in fit.line
    assert word in fit.line
    assert (fit.fits, fit.refusal, fit.need_bytes) == (None, "", None)


def test_folder_without_weights_says_so(tmp_path: Path) -> None:
    assert "holds no weights" in look_at(tmp_path, PLAIN, CARD).line


HEADERS = st.binary(max_size=60) | st.builds(
    lambda length, body, tail: struct.pack("<Q", length if length >= 0 else len(body)) + body + tail,
    st.sampled_from([-1, 0, 1, 2**63, 100_000_001]),
    st.dictionaries(
        st.text(max_size=5) | st.just("__metadata__"),
        JSON
        | st.fixed_dictionaries(
            {"dtype": st.text(max_size=4) | JSON, "data_offsets": st.lists(st.integers(-3, 2**70), max_size=3) | JSON}
        ),
    ).map(lambda header: json.dumps(header).encode()),
    st.binary(max_size=20),
)


@settings(max_examples=examples(100), deadline=None)
@given(HEADERS)
def test_malformed_header_is_a_named_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "malformed.safetensors"
    path.write_bytes(data)
    found = outcome(path)
    assert str(path) in found if isinstance(found, str) else sum(each.size for each in found.values()) <= len(data)


def outcome(path: Path) -> dict[str, Tensor] | str:
    try:
        return read_header(path)
    except UnreadableModel as error:
        return str(error)


@settings(max_examples=examples(50), deadline=None)
@given(st.dictionaries(st.text(max_size=6).filter(lambda name: name != "__metadata__"), st.integers(0, 50)))
def test_sound_header_is_read_as_written(tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int]) -> None:
    path = tmp_path_factory.getbasetemp() / "sound.safetensors"
    write_model(path, {name: ("U8", size) for name, size in sizes.items()})
    assert read_header(path) == {name: Tensor("U8", size) for name, size in sizes.items()}


# ---------------------------------------------------------------- the engine's log

GPU_LOG = """
(EngineCore pid=1) INFO 11-22 20:29:33 [gpu_model_runner.py:5150] Model loading took 14.99 GiB memory and 3.2 seconds
(EngineCore pid=1) INFO 11-22 20:29:43 [gpu_worker.py:760] Available KV cache memory: 4.52 GiB
(EngineCore pid=1) INFO 11-22 20:29:43 [kv_cache_utils.py:2327] GPU KV cache size: 37,024 tokens, \
Maximum concurrency for 8,192 tokens per request: 4.52x
""".splitlines()
CPU_LOG = """
(Worker pid=2) INFO 11-22 20:29:33 [cpu_worker.py:260] Auto set (2.75/18.09) GiB for KV cache on node 0, with 3.62 GiB \
requested memory for the worker. 0.87 GiB memory was consumed by non-kv usages.
(EngineCore pid=1) INFO 11-22 20:29:33 [kv_cache_utils.py:2327] CPU KV cache size: 32,768 tokens, Maximum concurrency \
for 512 tokens per request: 64.00x
""".splitlines()


def test_gpus_log_tells_weights_cache_and_concurrency() -> None:
    assert read_figures(GPU_LOG) == MeasuredMemory(round(14.99 * GIB), round(4.52 * GIB), None, 37_024, 8_192, 4.52)


def test_cpus_log_tells_what_is_not_cache() -> None:
    assert read_figures(CPU_LOG) == MeasuredMemory(None, round(2.75 * GIB), round(0.87 * GIB), 32_768, 512, 64.0)


def test_older_engine_writes_two_lines() -> None:
    found = read_figures(["GPU KV cache size: 9 tokens", "Maximum concurrency for 8 tokens per request: 1.12x"])
    assert found == MeasuredMemory(tokens=9, max_model_len=8, concurrency=1.12)


def test_log_without_a_finished_start_tells_nothing() -> None:
    assert read_figures(GPU_LOG[:3]) is None


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.text() | st.sampled_from([*GPU_LOG, *CPU_LOG])))
def test_no_log_breaks_the_reading(lines: list[str]) -> None:
    read_figures(lines)


def test_what_was_measured_replaces_what_was_estimated() -> None:
    figures = read_figures(GPU_LOG)
    assert figures is not None
    arguments = replace(PLAIN, max_model_len=8192)
    overhead = overhead_of(figures, CARD, arguments, 16 * GIB)
    assert overhead == int(24 * GIB * 0.92) - round(14.99 * GIB) - round(4.52 * GIB)
    fit = estimate(SIXTEEN, BIG, arguments, CARD, Past(figures, overhead))
    assert fit.line == "weights 15.0 + KV 1.0 + 2.6 = 18.6 of 22.1 GiB, 4.5x concurrency at 8192 tokens, measured"
    other = estimate(SIXTEEN, BIG, replace(arguments, max_model_len=4096), CARD, Past(None, overhead))
    assert (other.overhead_bytes, other.measured) == (overhead, False)


def test_given_cache_leaves_the_overhead_unknown() -> None:
    figures = read_figures(GPU_LOG)
    assert figures is not None
    assert overhead_of(figures, CARD, replace(PLAIN, kv_bytes=GIB), 16 * GIB) is None


def test_on_a_cpu_the_worker_is_not_all_that_takes_memory() -> None:
    figures = read_figures(CPU_LOG)
    assert figures is not None
    assert (
        overhead_of(figures, MemoryBudget(0, 32 * GIB), PLAIN, GIB // 2) == round(0.87 * GIB) - GIB // 2 + BESIDE_WORKER
    )


def test_unknown_fit_is_neither_yes_nor_no() -> None:
    assert Fit("unknown").fits is None
