"""What decides about memory: a model's config.json, and vLLM's arguments. Pure, and it never fails.

vLLM 0.32 decides the same in `transformers_utils/model_arch_config_convertor.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.engines.arguments import find, flag_value
from reconciler.formats import json_values
from reconciler.model import Argument

_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups")
# Each of them says that some layers keep less than every token, or something else than keys and values.
_HYBRID = (
    "layers_block_type",
    "hybrid_override_pattern",
    "attn_layer_period",
    "attn_layer_indices",
    "full_attention_interval",
    "linear_attn_config",
    "block_configs",
    "attention_chunk_size",
    "sliding_window_pattern",
    "num_kv_shared_layers",
    "cross_attention_layers",
    "index_topk",
    "compress_ratios",
    "attn_type_list",
    "full_attn_idxs",
    "layer_group_size",
    "mamba_enabled",
    "mb_per_layer",
    "use_cla",
    "ssm_cfg",
    "mamba_d_state",
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What matters of a model's config. Zero stands for a number that the config does not tell.

    `key` and `value` are the elements that one head of one layer keeps of a token; with a `latent` (MLA) a layer
    keeps that many elements instead, on every GPU. `max_len` is the longest request without --max-model-len.
    `kv_type` is the cache's type that the model itself asks for. `bound` says why its cache may be smaller than that.
    """

    layers: int = 0
    kv_heads: int = 0
    key: int = 0
    value: int = 0
    latent: int = 0
    max_len: int = 0
    kv_type: str = "auto"
    is_tied: bool = False
    is_quantized: bool = False
    bound: str = ""


def shape_of(config: Mapping[str, Any], tokenizer: Mapping[str, Any] | None = None) -> ModelShape:
    """The shape of a model from its config.json and tokenizer_config.json."""
    text = _text_config(config)
    heads = _number(text, "num_attention_heads", "n_head", "n_heads")
    hidden = _number(text, "hidden_size", "n_embd", "d_model")
    key = _number(text, "head_dim", "hidden_size_per_head", "attention_head_dim") or (hidden // heads if heads else 0)
    latent = _number(text, "kv_lora_rank")
    max_len = _max_len(text, tokenizer or {})
    return ModelShape(
        layers=_number(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        kv_heads=_kv_heads(text, heads),
        key=key,
        value=key if latent else _number(text, "v_head_dim") or key,
        latent=latent + _number(text, "qk_rope_head_dim") if latent else 0,
        max_len=max_len,
        kv_type=_kv_type(config, text),
        is_tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings"))),
        is_quantized=isinstance(config.get("quantization_config", text.get("quantization_config")), Mapping),
        bound=next(_bounds(config, text), ""),
    )


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a multimodal model (vision, audio) describes its text part."""
    for name in ("thinker_config", "text_config", "llm_config", "language_config"):
        nested = config.get(name)
        if isinstance(nested, Mapping) and nested:
            return _text_config(nested)
    return config


def _number(config: Mapping[str, Any], *names: str) -> int:
    """The first of these that is a whole number above zero; 0 if none is."""
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int and 0 < value < 1 << 40), 0)


def _kv_heads(text: Mapping[str, Any], heads: int) -> int:
    if text.get("multi_query") is True and not text.get("new_decoder_architecture"):
        return 1
    nested = text.get("attn_config")
    if isinstance(nested, Mapping) and _number(nested, "kv_n_heads"):
        return _number(nested, "kv_n_heads")
    if any(isinstance(text.get(name), list) for name in _KV_HEADS):
        return 0
    return _number(text, *_KV_HEADS) or heads


def _max_len(text: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    rope: Mapping[str, Any] = scaling if isinstance(scaling, Mapping) else {}
    kind = rope.get("rope_type") or rope.get("type")
    if kind == "longrope" and (original := _number(text, "original_max_position_embeddings")):
        return original
    lengths = [length for name in _LENGTHS if (length := _number(text, name))]
    if own := _number(text, "model_max_length"):
        lengths = [own]
    if lengths and (limit := _number(tokenizer, "model_max_length")):
        lengths.append(limit)
    length = min(lengths, default=0)
    # The other ways of stretching have the greater length in the config already.
    is_stretched = kind in ("linear", "dynamic") and "gemma3" not in str(text.get("model_type"))
    return _scaled(length, rope) if is_stretched else length


def _scaled(length: int, rope: Mapping[str, Any]) -> int:
    factor = rope.get("factor")
    return int(length * factor) if isinstance(factor, int | float) and 1 <= factor <= 1024 else length


def _kv_type(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    quantization = config.get("quantization_config", text.get("quantization_config"))
    if not isinstance(quantization, Mapping):
        return "auto"
    inner = quantization.get("quantization")
    for each in (quantization, inner if isinstance(inner, Mapping) else {}):
        if scheme := each.get("kv_cache_scheme") or each.get("kv_cache_quant_algo"):
            four = scheme.get("num_bits") == 4 if isinstance(scheme, Mapping) else "4" in str(scheme)
            return "nvfp4" if four else "fp8"
    return "auto"


def _bounds(config: Mapping[str, Any], text: Mapping[str, Any]) -> Iterator[str]:
    """Why the cache may need less than every layer times every token."""
    types = text.get("layer_types")
    kinds = {str(each) for each in types} - {"full_attention"} if isinstance(types, list) else set()
    if any("sliding" in kind or "chunked" in kind for kind in kinds):
        yield "sliding window"
    elif kinds:
        yield "layers of several kinds"
    if _number(text, "sliding_window") and text.get("use_sliding_window", True):
        yield "sliding window"
    if any(text.get(name) for name in _HYBRID):
        yield "layers of several kinds"
    if config.get("is_encoder_decoder") or text.get("is_encoder_decoder"):
        yield "encoder and decoder"
    names = config.get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else ""
    if first and not first.endswith(("ForCausalLM", "ForConditionalGeneration")):
        yield f"{first} may keep no cache"


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
