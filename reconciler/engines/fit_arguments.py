"""Which of vLLM's arguments decide about memory: from a preflight's verdict, or from the command line. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.engines.arguments import find, flag_value
from reconciler.formats import json_values
from reconciler.model import Argument

GIB = 1 << 30
_UTILIZATION = 0.92
_SHORT = {"-tp": "tensor_parallel_size", "-pp": "pipeline_parallel_size", "-dp": "data_parallel_size"}
_SHORT |= {"-dcp": "decode_context_parallel_size", "-pcp": "prefill_context_parallel_size", "-q": "quantization"}
_SHORT |= {"--device-memory-utilization": "gpu_memory_utilization", "-ep": "enable_expert_parallel"}
_COUNTS = ("tensor_parallel_size", "pipeline_parallel_size", "max_model_len", "kv_cache_memory_bytes")
_NAMES = ("dtype", "kv_cache_dtype", "load_format", "quantization")
# With any of these, less than all of the weights or of the cache may be held: what follows is no certainty.
_LOOSE = (
    "cpu_offload_gb",
    "cpu_offload_params",
    "offload_group_size",
    "offload_params",
    "hf_overrides",
    "hf_config_path",
    "model_class_overrides",
    "model_loader_extra_config",
    "quantization_config",
    "language_model_only",
    "limit_mm_per_prompt",
    "mm_encoder_only",
    "enable_expert_parallel",
    "data_parallel_size",
    "decode_context_parallel_size",
    "prefill_context_parallel_size",
    "num_gpu_blocks_override",
    "additional_config",
    "convert",
    "runner",
    "config",
)
_PLAIN_LOADS = ("auto", "hf", "safetensors", "mistral", "fastsafetensors", "pt", "npcache", "runai_streamer")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)")


@dataclass(frozen=True, slots=True)
class MemoryArguments:
    """vLLM's arguments about memory, with the defaults of 0.32.

    `max_model_len` 0 means the model's own, -1 whatever fits. `kv_bytes` is the cache's size for each GPU if it was
    given. `loose` names arguments that make every estimate uncertain.
    """

    model: str = ""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_model_len: int = 0
    utilization: float = _UTILIZATION
    kv_bytes: int | None = None
    dtype: str = "auto"
    kv_type: str = "auto"
    quantization: str = ""
    loose: tuple[str, ...] = ()


def arguments_of(parsed: str, argv: Sequence[Argument], env: Mapping[str, str]) -> MemoryArguments:
    """What the engine's preflight parsed (`parsed`), else what the command line contains."""
    chosen = _chosen(parsed) if parsed else _written(argv)
    load = str(chosen.get("load_format") or "auto")
    loose = [name for name in _LOOSE if chosen.get(name)] + ([] if load in _PLAIN_LOADS else ["load_format"])
    return MemoryArguments(
        model=str(chosen.get("model") or ""),
        tensor_parallel=max(_whole(chosen, "tensor_parallel_size"), 1),
        pipeline_parallel=max(_whole(chosen, "pipeline_parallel_size"), 1),
        max_model_len=max(_whole(chosen, "max_model_len"), -1),
        utilization=_fraction(chosen.get("gpu_memory_utilization")),
        kv_bytes=_given_cache(chosen, env),
        dtype=str(chosen.get("dtype") or "auto").lower(),
        kv_type=str(chosen.get("kv_cache_dtype") or "auto"),
        quantization=str(chosen.get("quantization") or ""),
        loose=tuple(f"--{name.replace('_', '-')}" for name in loose),
    )


def _chosen(parsed: str) -> Mapping[str, Any]:
    try:
        found = json_values.loads(parsed)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _written(argv: Sequence[Argument]) -> Mapping[str, Any]:
    """The same from the arguments alone. A value that cannot be read counts as not given: the engine will refuse it."""
    chosen: dict[str, Any] = {"model": flag_value(argv, "--model")}
    for name in (*_COUNTS, *_NAMES, "gpu_memory_utilization", *_LOOSE):
        flags = [f"--{name.replace('_', '-')}", *(flag for flag, long in _SHORT.items() if long == name)]
        for _, value in find(argv, *flags)[-1:]:
            chosen[name] = _amount(value) if name in _COUNTS else True if value is None else value
    return chosen


def _amount(text: str | None) -> int:
    """`32k` is 32,000 and `32K` 32,768; `auto` is -1."""
    if text is None or text.strip().lower() in ("auto", "-1"):
        return -1 if text else 0
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or len(match[1]) > 20:
        return 0
    step = 1024 if match[2].isupper() else 1000
    return int(float(match[1]) * step ** " kmgt".index(match[2].lower() or " "))


def _whole(chosen: Mapping[str, Any], name: str) -> int:
    value = chosen.get(name)
    return value if type(value) is int and value < 1 << 60 else 0


def _fraction(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return _UTILIZATION
    return found if 0 < found <= 1 else _UTILIZATION


def _given_cache(chosen: Mapping[str, Any], env: Mapping[str, str]) -> int | None:
    """On a CPU the variable wins, in whole GiB; `env` is empty elsewhere."""
    space = env.get("VLLM_CPU_KVCACHE_SPACE", "").strip()
    if space.isascii() and space.isdecimal() and 0 < len(space) < 9:
        return int(space) * GIB or None
    return _whole(chosen, "kv_cache_memory_bytes") or None
