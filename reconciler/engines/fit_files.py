"""The measured size of a model: headers of its weights, and memory figures in the log of a started vLLM.

The log lines are those of vLLM 0.32, with GPU and with CPU; older versions write the last one as two.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from reconciler.errors import Terminal
from reconciler.system.files import means_nothing_is_there, open_regular

# The safetensors library refuses longer headers too.
LONGEST_HEADER = 100_000_000
# An index of a thousand billion parameters has some 15 MiB.
_LONGEST_CONFIG = 64 << 20
_SETS = ("consolidated*.safetensors", "*.safetensors")
_INDEXES = ("consolidated.safetensors.index.json", "model.safetensors.index.json")
_UNREAD = ("*.gguf", "*.bin", "*.pt")
NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})
# Parts of a file of weights that serving does not load: what drafts tokens, and what speaks.
_UNUSED_PARTS = frozenset({"mtp", "mtp_layers", "talker", "token2wav", "code2wav"})


_POINTER = b"version https://git-lfs"


class UnreadableModel(Terminal):
    """A model's files are missing, damaged or unlike what vLLM reads."""


class UnknownModel(UnreadableModel):
    """The disk could not be read, so its content is unknown."""


class Unjudged(UnreadableModel):
    """There are no weights at all, which may come from elsewhere; or a file is too large to be read here."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as its file describes it: the stored type (`BF16`, `F8_E4M3`) and its bytes."""

    kind: str
    size: int


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of all weights by stored type. Not `exact`: only sizes of files are known, under the type `""`."""

    by_type: tuple[tuple[str, int], ...]
    exact: bool = True

    @property
    def total(self) -> int:
        return sum(size for _, size in self.by_type)


def read_weights(path: Path, layers: int | None = None, is_tied: bool = False) -> Weights:
    """The weights that vLLM loads from a folder or file. Raises UnreadableModel.

    Tensors of layers from the `layers`th on, and the output head of a model whose head is `is_tied` to its input, are
    in the files but not loaded. Files that did not change are not read again.
    """
    files = tuple(sorted(_chosen(path)))
    if all(name.endswith(".safetensors") for name, _ in files):
        return _read_all(files, layers, is_tied)
    return Weights((("", sum(size for _, (_, size) in files)),), exact=False)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file by name. Raises UnreadableModel."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            length = _header_length(path, file.read(8), size)
            header = json.loads(file.read(length))
    except OSError as error:
        raise UnknownModel(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableModel(f"{path}: its header is not JSON ({type(error).__name__}); copy it again") from None
    if not isinstance(header, dict):
        raise UnreadableModel(f"{path}: its header is not a JSON object; copy it again")
    room = size - 8 - length
    found = {name: _tensor(path, name, entry, room) for name, entry in header.items() if name != "__metadata__"}
    _check_order(path, header, room)
    return found


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object in the model's folder; None if there is no such file. Raises UnreadableModel."""
    try:
        with open_regular(path) as file:
            text = file.read(_LONGEST_CONFIG + 1)
        if len(text) > _LONGEST_CONFIG:
            raise Unjudged(f"{path}: more than {_LONGEST_CONFIG >> 20} MiB is too long for a config")
        if text.startswith(_POINTER):
            raise UnreadableModel(f"{path}: is a pointer of Git LFS and not the file itself; git lfs pull")
        found = json.loads(text)
    except OSError as error:
        if means_nothing_is_there(error):
            return None
        raise UnknownModel(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableModel(f"{path}: is not JSON ({type(error).__name__}); copy it again") from None
    if not isinstance(found, dict):
        raise UnreadableModel(f"{path}: is not a JSON object; copy it again")
    return found


# ---------------------------------------------------------------- which files

_Stamped = tuple[str, tuple[int, int]]


def _chosen(path: Path) -> Iterator[_Stamped]:
    """Full names of the files to load, each with its time and size: what vLLM picks where there are several sets."""
    present = dict(_listed(path))
    if not path.is_dir():
        yield from ((str(path), stamp) for stamp in present.values())
        return
    for pattern, index in zip(_SETS, _INDEXES, strict=True):
        if names := [name for name in present if fnmatchcase(name, pattern)]:
            named = _indexed(path / index, present)
            yield from ((str(path / name), present[name]) for name in names if named is None or name in named)
            return
    for pattern in _UNREAD:
        names = [name for name in present if fnmatchcase(name, pattern) and name not in NOT_WEIGHTS]
        if names:
            yield from ((str(path / name), present[name]) for name in names)
            return
    raise Unjudged(f"{path}: holds no weights (*.safetensors, *.gguf, *.bin, *.pt); is the copy complete?")


def _listed(path: Path) -> Iterator[_Stamped]:
    try:
        for each in [path] if path.is_file() else path.iterdir():
            # A pipe or a device of that name would keep us waiting forever.
            info = each.stat() if each.exists() else None
            if info is not None and stat.S_ISREG(info.st_mode):
                yield each.name, (info.st_mtime_ns, info.st_size)
    except OSError as error:
        raise UnknownModel(f"{path}: cannot be read: {error.strerror}") from None


def _indexed(path: Path, present: Mapping[str, object]) -> frozenset[str] | None:
    """The files that an index names; None without an index."""
    index = read_json(path)
    if index is None:
        return None
    named = index.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise UnreadableModel(f"{path}: has no weight_map from tensors to files")
    files = frozenset(named.values())
    if missing := sorted(files - present.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UnreadableModel(f"{path}: names {missing[0]}{more}, which is not there; is the copy complete?")
    return files


# ---------------------------------------------------------------- headers


@functools.lru_cache(1024)
def _read_all(files: tuple[_Stamped, ...], layers: int | None, is_tied: bool) -> Weights:
    # By name, so that a tensor that stands in two files counts once, as it is loaded once.
    tensors = {name: tensor for file, _ in files for name, tensor in read_header(Path(file)).items()}
    totals: dict[str, int] = {}
    for name in _loaded(tensors, layers, is_tied):
        tensor = tensors[name]
        totals[tensor.kind] = totals.get(tensor.kind, 0) + tensor.size
    return Weights(tuple(sorted(totals.items())))


def _loaded(names: Iterable[str], layers: int | None, is_tied: bool) -> Iterator[str]:
    names = tuple(names)
    has_input = is_tied and any(name.endswith("embed_tokens.weight") for name in names)
    for name in names:
        parts = name.split(".")
        is_tied_head = has_input and name.endswith("lm_head.weight")
        if not is_tied_head and not _is_beyond(parts, layers) and _UNUSED_PARTS.isdisjoint(parts):
            yield name


def _is_beyond(parts: list[str], layers: int | None) -> bool:
    """`model.layers.61.…` of a model with 61 layers: an extra one that only drafts tokens."""
    if layers is None or parts[:2] != ["model", "layers"] or len(parts) < 3:
        return False
    return parts[2].isascii() and parts[2].isdecimal() and len(parts[2]) < 9 and int(parts[2]) >= layers


def _header_length(path: Path, prefix: bytes, size: int) -> int:
    if prefix == _POINTER[:8]:
        raise UnreadableModel(f"{path}: is a pointer of Git LFS and not the file itself; git lfs pull")
    if len(prefix) < 8:
        raise UnreadableModel(f"{path}: is too short for safetensors; copy it again")
    length = int(struct.unpack("<Q", prefix)[0])
    if length > min(size - 8, LONGEST_HEADER):
        raise UnreadableModel(f"{path}: its header claims {length} bytes, which is impossible; copy it again")
    return length


def _check_order(path: Path, header: Mapping[str, Any], room: int) -> None:
    """The library wants one tensor right after the other, up to the last byte of the file."""
    places = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    at = 0
    for begin, end in places:
        if begin != at:
            raise UnreadableModel(f"{path}: its tensors overlap or leave gaps; copy it again")
        at = end
    if at != room:
        raise UnreadableModel(f"{path}: has {room - at} bytes after its last tensor; copy it again")


def _tensor(path: Path, name: str, entry: Any, room: int) -> Tensor:
    kind, offsets = (entry.get("dtype"), entry.get("data_offsets")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(offsets, list) or len(offsets) != 2:
        raise UnreadableModel(f"{path}: tensor {name[:100]} has no dtype and data_offsets; copy it again")
    begin, end = offsets
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end <= room:
        raise UnreadableModel(f"{path}: tensor {name[:100]} is outside of the file, which is truncated; copy it again")
    return Tensor(kind, end - begin)


GIB = 1 << 30
_LOADED = re.compile(r"Model loading took (\d+(?:\.\d+)?) GiB")
_CACHE = re.compile(r"Available KV cache memory: (-?\d+(?:\.\d+)?) GiB|Auto set \((\d+(?:\.\d+)?)/[\d.]+\) GiB for KV")
_CONSUMED = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?) GiB memory was consumed by non-kv usages")
_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_CONCURRENCY = re.compile(r"Maximum concurrency for ([\d,]+) tokens per request: (\d+(?:\.\d+)?)x")


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """What one start measured, for each GPU; None where it said nothing.

    `consumed_bytes` is all but the cache, as only a CPU says it: weights and overhead together.
    """

    weights_bytes: int | None = None
    cache_bytes: int | None = None
    consumed_bytes: int | None = None
    tokens: int | None = None
    max_model_len: int | None = None
    concurrency: float | None = None


def read_figures(lines: Iterable[str]) -> MeasuredMemory | None:
    """The figures of the last start in a log, or None when it never got that far."""
    text = "\n".join(lines)
    tokens, concurrency = _last(_TOKENS, text), _last(_CONCURRENCY, text)
    if tokens is None or concurrency is None:
        return None
    # Every GPU writes its own line: the fullest one sets the limit.
    loaded = [float(match[1]) for match in _LOADED.finditer(text)]
    caches = [float(match[1] or match[2]) for match in _CACHE.finditer(text)]
    consumed = [float(match[1]) for match in _CONSUMED.finditer(text)]
    return MeasuredMemory(
        weights_bytes=_bytes(max(loaded, default=None)),
        cache_bytes=_bytes(min(caches, default=None)),
        consumed_bytes=_bytes(max(consumed, default=None)),
        tokens=_count(tokens[1]),
        max_model_len=_count(concurrency[1]),
        concurrency=float(concurrency[2]),
    )


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed([*pattern.finditer(text)]), None)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None or gib < 0 else round(gib * GIB)


def _count(text: str) -> int:
    return int(text.replace(",", "") or 0)
