"""Does one replica fit in memory? Weights, KV cache and overhead against what there is. Pure.

vLLM on a GPU takes `--gpu-memory-utilization` of it and gives the KV cache what weights and overhead leave over; it
refuses to start unless the cache holds one request of the greatest length. On a CPU the same fraction is one of the
host's memory, unless the cache's size is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reconciler.engines.fit_files import MeasuredMemory, Weights
from reconciler.engines.fit_model import GIB, MemoryArguments, ModelShape
from reconciler.model import GPU, Fit, Gpu, Resources

OVERHEAD = 2 * GIB
"""Activations, CUDA's context and graphs, or on a CPU three interpreters: 1.5 to 3 GiB until it was measured."""
BESIDE_WORKER = 5 * GIB // 4
"""The two other processes of a vLLM on a CPU, whose memory its log does not tell."""

# An estimate that is nearer to what a service asks for says nothing.
_TOLERANCE = 1.1
# Bytes of one element of the cache; None: the packing differs by version, so that at most one byte is all one can say.
_CACHE_BYTES = {"float16": 2.0, "bfloat16": 2.0, "half": 2.0, "float32": 4.0, "float": 4.0, "int8": 1.0}
_CACHE_BYTES |= {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "fp8_inc": 1.0}
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Whatever the files hold, vLLM computes in two bytes unless configured otherwise.
_WIDTHS = {"float32": 4, "float": 4}


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What one replica may use: the memory of each of its GPUs, or without any the host's. 0 is unknown.

    `asked_bytes` is the memory that its resources ask for; only without GPUs it matters here. `share` is the fraction
    of its one GPU that it has, `mig` says that this one is a MIG device.
    """

    gpus: int = 0
    memory_bytes: int = 0
    asked_bytes: int = 0
    share: float = 1.0
    mig: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """What starts have measured. `figures` are this very service's; `overhead_bytes` any of this model and engine."""

    figures: MeasuredMemory | None = None
    overhead_bytes: int | None = None


NEVER_STARTED = Past()


def room_of(resources: Resources, gpus: Sequence[Gpu], host_bytes: int, count: int) -> MemoryBudget:
    """The room for a replica of `count` GPUs where it has the best of them; the least of those counts."""
    needed = resources.gpu_devices
    if not needed:
        return MemoryBudget(0, host_bytes, resources.memory_bytes)
    kind = resources.mig[0][0] if resources.mig else GPU
    best = sorted((gpu.memory_bytes for gpu in gpus if gpu.kind == kind), reverse=True)[:needed]
    known = len(best) == needed and all(best)
    share = resources.gpu_share_millis / 1000 or 1.0
    return MemoryBudget(count or needed, best[-1] if known else 0, share=share, mig=bool(resources.mig))


def _as_one(given: MemoryArguments) -> MemoryArguments:
    """On a CPU all ranks share one memory."""
    ranks = given.tensor_parallel * given.pipeline_parallel
    cache = None if given.kv_bytes is None else given.kv_bytes * ranks
    return replace(given, tensor_parallel=1, pipeline_parallel=1, kv_bytes=cache)


def kv_bytes_per_token(shape: ModelShape, given: MemoryArguments) -> int:
    """What one token keeps in the cache of each GPU; 0 is unknown."""
    layers = math.ceil(shape.layers / given.pipeline_parallel)
    if shape.latent:
        elements = shape.latent
    else:
        elements = max(1, shape.kv_heads // given.tensor_parallel) * (shape.key + shape.value) if shape.kv_heads else 0
    if shape.latent and given.kv_type == "fp8_ds_mla":
        return layers * 656
    return math.ceil(layers * elements * _element_bytes(shape, given))


def weights_per_gpu(weights: Weights, given: MemoryArguments) -> int:
    """Bytes on each GPU once loaded: what is stored in floats gets the type that the engine computes in."""
    width = _WIDTHS.get(given.dtype, 2)
    total = sum(size * width // _FLOATS[kind] if kind in _FLOATS else size for kind, size in weights.by_type)
    return math.ceil(total / (given.tensor_parallel * given.pipeline_parallel))


def overhead_of(figures: MeasuredMemory, room: MemoryBudget, given: MemoryArguments, weights_bytes: int) -> int | None:
    """What one start needed in addition to weights (as estimated) and cache, by its own log. None: unknown."""
    if not room.gpus:
        ranks = given.tensor_parallel * given.pipeline_parallel
        consumed = figures.consumed_bytes
        return None if consumed is None else max(consumed * ranks - weights_bytes, 0) + BESIDE_WORKER
    if not room.memory_bytes or given.kv_bytes is not None:
        return None
    if figures.weights_bytes is None or figures.cache_bytes is None:
        return None
    return max(int(room.memory_bytes * given.utilization) - figures.weights_bytes - figures.cache_bytes, 0)


def unknown(why: str, room: MemoryBudget | None = None) -> Fit:
    """Unknown. That blocks nothing."""
    return Fit(f"unknown: {why}", gpus=room.gpus if room else 0, notes=(why,))


def estimate(
    weights: Weights, shape: ModelShape, given: MemoryArguments, room: MemoryBudget, past: Past = NEVER_STARTED
) -> Fit:
    """Would one replica fit?"""
    if not room.gpus:
        given = _as_one(given)
    return _Sum(weights, shape, given, room, past).fit()


@dataclass(frozen=True)
class _Sum:
    """One estimate while it is worked out."""

    weights: Weights
    shape: ModelShape
    given: MemoryArguments
    room: MemoryBudget
    past: Past

    def fit(self) -> Fit:
        weights, overhead = self._weights(), self._overhead()
        per_token, length = kv_bytes_per_token(self.shape, self.given), self._length()
        one = per_token * length or None
        kv = self._cache(weights + overhead, one)
        needed, have = weights + overhead + (kv or 0), self._limit()
        exceeds = bool(self.room.asked_bytes) and needed > self.room.asked_bytes * _TOLERANCE
        draft = Fit(
            line="",
            gpus=self.room.gpus,
            weights_bytes=weights,
            kv_bytes_per_token=per_token or None,
            kv_bytes=kv,
            overhead_bytes=overhead,
            have_bytes=have or None,
            max_model_len=length or None,
            concurrency=self._concurrency(weights + overhead, one),
            measured=self.past.figures is not None,
            tight=exceeds or 0 < have < needed,
            notes=tuple(self._notes(exceeds, per_token, length)),
            refusal=self._refusal(one),
        )
        return _with_line(draft)

    def _cache(self, beside: int, one: int | None) -> int | None:
        """What the cache takes; on a GPU that many bytes at least. On a CPU it takes whatever its share leaves."""
        if self.given.kv_bytes is not None:
            return self.given.kv_bytes
        if self.room.gpus or not self.room.memory_bytes:
            return one
        return max(int(self.room.memory_bytes * self.given.utilization) - beside, one or 0)

    def _weights(self) -> int:
        measured = self.past.figures.weights_bytes if self.past.figures else None
        return weights_per_gpu(self.weights, self.given) if measured is None else measured

    def _overhead(self) -> int:
        return OVERHEAD if self.past.overhead_bytes is None else self.past.overhead_bytes

    def _length(self) -> int:
        """0 is unknown."""
        if self.past.figures and self.past.figures.max_model_len:
            return self.past.figures.max_model_len
        return self.given.max_model_len if self.given.max_model_len > 0 else self.shape.max_len

    def _limit(self) -> int:
        """What vLLM itself will not go beyond; 0 is unknown. Who gives the cache's size has all that is its own."""
        if not self.room.gpus or self.given.kv_bytes is not None:
            return int(self.room.memory_bytes * self.room.share)
        return int(self.room.memory_bytes * self.given.utilization)

    def _concurrency(self, beside: int, one: int | None) -> float | None:
        if self.past.figures and self.past.figures.concurrency is not None:
            return self.past.figures.concurrency
        if one is None:
            return None
        if self.given.kv_bytes is not None:
            return self.given.kv_bytes / one
        if not self.room.memory_bytes:
            return None
        return max(int(self.room.memory_bytes * self.given.utilization) - beside, 0) / one

    def _refusal(self, one: int | None) -> str:
        """Only what is certain: estimates that may be too high reject nothing."""
        if self._is_loose() or self.past.figures is not None:
            return ""
        least = weights_per_gpu(self.weights, self.given) if self.weights.exact else 0
        certain = one if one and not self.shape.bound and self.given.max_model_len >= 0 and self._knows_cache() else 0
        cache, limit = self.given.kv_bytes, self._limit()
        request = f"one request of {self._length()} tokens"
        where = f"{_sized(limit)} {self._where()}"
        if limit and least > limit:
            return f"its weights alone take {_sized(least)}, more than the {where}; {self._advice()}"
        if cache is not None and certain > cache:
            given = f"more than the {_sized(cache)} given; raise that or lower --max-model-len"
            return f"{request} takes {_sized(certain)} of KV cache, {given}"
        more = certain if cache is None else cache
        if limit and more and least + more > limit:
            what = "the KV cache" if cache is not None else f"the KV cache of {request}"
            both = f"its weights take {_sized(least)} and {what} {_sized(more)}"
            return f"{both}, more than the {where}; {self._advice()}"
        return ""

    def _advice(self) -> str:
        shorter = "lower --max-model-len or --kv-cache-memory-bytes, or take a quantised model"
        if self.room.mig:
            return f"request a larger MIG device, {shorter}"
        if self.room.share < 1:
            return f"give it more of the GPU, {shorter}"
        return f"raise --tensor-parallel-size, {shorter}" if self.room.gpus else shorter

    def _where(self) -> str:
        if not self.room.gpus:
            return "of memory that this host gives"
        holder = "MIG device" if self.room.mig else "GPU"
        part = self.room.share if self.given.kv_bytes is not None else self.given.utilization
        if part == 1:
            return f"that a {holder} of this host has"
        return f"({part:g} of {_sized(self.room.memory_bytes)}) that a {holder} of this host has"

    def _is_loose(self) -> bool:
        return bool(self.given.loose) or self._quantizes()

    def _quantizes(self) -> bool:
        return bool(self.given.quantization) and not self.shape.is_quantized

    def _knows_cache(self) -> bool:
        return _cache_type(self.shape, self.given) in _CACHE_BYTES | {"auto": 0}

    def _notes(self, exceeds: bool, per_token: int, length: int) -> list[str]:
        notes = [] if self.weights.exact else ["weights estimated from file sizes"]
        notes += [f"KV cache is an upper bound ({self.shape.bound})"] if self.shape.bound and per_token else []
        notes += ["KV cache is an upper bound (its type)"] if per_token and not self._knows_cache() else []
        notes += [] if per_token and length else ["config.json does not define the size of the KV cache"]
        notes += ["quantised while loading, so weights are an upper bound"] if self._quantizes() else []
        notes += [f"{', '.join(self.given.loose)} may change this"] if self.given.loose else []
        if exceeds:
            notes.append(f"more than the {_sized(self.room.asked_bytes)} of memory that it requests")
        if self.given.max_model_len == -1:
            notes.append("the engine takes the greatest length that fits")
        if not self.room.gpus and self.given.kv_bytes is None:
            notes.append(
                f"without --kv-cache-memory-bytes the engine takes {self.given.utilization:.0%} of this host's memory"
            )
        return notes


def _element_bytes(shape: ModelShape, given: MemoryArguments) -> float:
    kind = _cache_type(shape, given)
    if kind == "auto":
        return _WIDTHS.get(given.dtype, 2)
    return _CACHE_BYTES.get(kind, 1.0)


def _cache_type(shape: ModelShape, given: MemoryArguments) -> str:
    return shape.kv_type if given.kv_type == "auto" else given.kv_type


# ---------------------------------------------------------------- in one line


def gib(amount: int) -> str:
    """Binary gigabytes with one digit behind the point."""
    return f"{amount / GIB:.1f}"


def _sized(amount: int) -> str:
    return f"{gib(amount)} GiB" if amount >= GIB else f"{amount / (1 << 20):.1f} MiB"


def _with_line(fit: Fit) -> Fit:
    """`weights 14.9 + KV 4.0 + 2.0 = 20.9 of 22.1 GiB, 1.3x concurrency at 8192 tokens`."""
    parts = [_amounts(fit)]
    if fit.concurrency is not None and fit.max_model_len:
        parts.append(f"{fit.concurrency:.1f}x concurrency at {fit.max_model_len} tokens")
    if fit.measured:
        parts.append("measured")
    if fit.refusal:
        parts.append("does not fit")
    elif fit.fits is None and fit.have_bytes and fit.need_bytes:
        parts.append("may not fit")
    return replace(fit, line="; ".join([", ".join(parts), *fit.notes]))


def _amounts(fit: Fit) -> str:
    each = f" on each of {fit.gpus} GPUs" if fit.gpus > 1 else ""
    if fit.weights_bytes is None:
        return "weights unknown"
    if fit.need_bytes is None or fit.kv_bytes is None or fit.overhead_bytes is None:
        total = f"weights {gib(fit.weights_bytes)} + KV unknown"
    else:
        total = f"weights {gib(fit.weights_bytes)} + KV {gib(fit.kv_bytes)} + {gib(fit.overhead_bytes)}"
        total += f" = {gib(fit.need_bytes)}"
    have = f" of {gib(fit.have_bytes)} GiB" if fit.have_bytes else f" GiB, {_missing(fit)} unknown"
    return f"{total}{have}{each}"


def _missing(fit: Fit) -> str:
    return "memory of the GPU" if fit.gpus else "memory of the host"
