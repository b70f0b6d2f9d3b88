"""vLLM's command line as text: one normal form, and finding, removing and blaming single flags. Pure.

The normal form never equates two valid command lines that vLLM would read differently; where the text alone cannot
tell, two equal ones may keep different forms, and the engine's own parser (preflight) decides. That is why
different flags are not sorted (`--enable-x --no-enable-x` is not its reverse) and why only flags known to hold
numbers are rewritten (`--served-model-name 1.10` is a name).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

# Flags of vLLM 0.32 whose value is a number with a fraction.
_FRACTIONS = frozenset(
    {
        "--cpu-offload-gb",
        "--device-memory-utilization",
        "--dp-supervisor-probe-interval-s",
        "--dp-supervisor-probe-timeout-s",
        "--gpu-memory-utilization",
        "--kv-cache-metrics-sample",
        "--kv-offloading-size",
        "--mm-encoder-fp8-scale-save-margin",
        "--mm-ipc-gpu-memory-gb",
        "--mm-processor-cache-gb",
        "--swap-space",
        "--video-pruning-rate",
        "--watermark",
    }
)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+", re.ASCII)
# vLLM reads its file of arguments only when the flag stands alone, so the two ways to write it differ.
_NEVER_JOINED = frozenset({"--config"})
GRPC_SERVERS = ("vllm.entrypoints.grpc_server", "vllm.entrypoints.launchers.grpc_server")
"""vLLM's gRPC server by its modules, the first of which the oldest version that has it knows as well."""


@dataclass(frozen=True, slots=True)
class _Option:
    """A flag and its values up to the next flag; `name` is None for values before the first flag or after `--`."""

    index: int
    name: str | None
    values: tuple[str, ...]
    joined: bool = False


def normalise(args: Sequence[str]) -> tuple[str, ...]:
    """The arguments in one way of writing: `--a_b 1` and `--a-b=1` become `--a-b=1`, JSON values lose their layout."""
    return tuple(word for option in _options(args) for word in _written(option))


def find(args: Sequence[str], flag: str) -> list[tuple[int, str | None]]:
    """The position of a flag, and its (first) value; None where no value follows. In order: the last one wins."""
    return [(option.index, option.values[0] if option.values else None) for option in _named(args, flag)]


def values_of(args: Sequence[str], flag: str) -> tuple[str, ...]:
    """All values of a flag's last occurrence: `--served-model-name a b` has two. Empty when it is not there."""
    last = None
    for option in _named(args, flag):
        last = option
    return last.values if last else ()


def values_with_places(args: Sequence[str], flag: str) -> list[tuple[int, str]]:
    """All values of a flag's last occurrence, each with the index of its argument."""
    last = None
    for option in _named(args, flag):
        last = option
    if last is None:
        return []
    first = last.index + (not last.joined)
    return [(first + number, value) for number, value in enumerate(last.values)]


def flag_value(args: Sequence[str], flag: str) -> str | None:
    """The (first) value of a flag's last occurrence, or None."""
    values = values_of(args, flag)
    return values[0] if values else None


def without(args: Sequence[str], flag: str) -> tuple[str, ...]:
    """The arguments minus every occurrence of a flag that takes one value, and that value."""
    dropped: set[int] = set()
    for option in _named(args, flag):
        dropped.add(option.index)
        if option.values and not option.joined:
            dropped.add(option.index + 1)
    return tuple(word for index, word in enumerate(args) if index not in dropped)


def ends_tls(args: Sequence[str]) -> bool:
    """Does a server with these arguments speak TLS? uvicorn does as soon as it has one of the two files."""
    return bool(find(args, "--ssl-certfile") or find(args, "--ssl-keyfile"))


def speaks_grpc(args: Sequence[str]) -> bool:
    """Does a server with this command and arguments speak only gRPC, and no HTTP?"""
    return bool(find(args, "--grpc")) or any(word in GRPC_SERVERS for word in args)


def takes_grpc(args: Sequence[str]) -> bool:
    """Does it speak gRPC at all? vLLM's Rust frontend can serve both gRPC and HTTP."""
    return speaks_grpc(args) or bool(find(args, "--grpc-port"))


def origin_of(args: Sequence[str], flag: str) -> int | None:
    """The index of the argument that an engine's message means by a flag; the last one, since that is what it read.

    Accepts the names that messages use: `--max-model-len`, `max_model_len`, `--tensor-parallel-size/-tp`,
    `--max-model-len=x`.
    """
    wanted = {_canonical(_dashed(part)) for part in flag.split("=", 1)[0].split("/") if part.strip("-")}
    found = [option.index for option in _options(args) if option.name is not None and option.name in wanted]
    return found[-1] if found else None


def is_flag(word: str) -> bool:
    """True for `--x`, `-x`, `--x=y`; False for values, `-1`, `-` and `--`."""
    return word.startswith("-") and word.strip("-") != "" and not _NEGATIVE.fullmatch(word)


def _named(args: Sequence[str], flag: str) -> Iterator[_Option]:
    wanted = _canonical(flag)
    return (option for option in _options(args) if option.name == wanted)


def _options(args: Sequence[str]) -> tuple[_Option, ...]:
    return _parsed(tuple(args))


@lru_cache(1024)
def _parsed(args: tuple[str, ...]) -> tuple[_Option, ...]:
    return tuple(_parse(args))


def _parse(args: tuple[str, ...]) -> Iterator[_Option]:
    index = 0
    while index < len(args):
        start, word = index, args[index]
        index += 1
        if word == "--":
            yield _Option(start, None, args[start:])
            return
        while index < len(args) and args[index] != "--" and not is_flag(args[index]):
            index += 1
        following = args[start + 1 : index]
        if not is_flag(word):
            yield _Option(start, None, (word, *following))
        elif "=" in word:
            name, value = word.split("=", 1)
            yield _Option(start, _canonical(name), (value, *following), joined=True)
        else:
            yield _Option(start, _canonical(word), following)


def _written(option: _Option) -> tuple[str, ...]:
    if option.name is None or not option.values:
        return (*((option.name,) if option.name else ()), *option.values)
    first, *others = option.values
    first = _canonical_value(option.name, first)
    # A flag followed by several values may own them all or only the first: only a lone value may be joined.
    if option.joined or (not others and option.name not in _NEVER_JOINED):
        return (f"{option.name}={first}", *others)
    return (option.name, first, *others)


def _canonical(name: str) -> str:
    """vLLM takes `_` for `-` in long flags, up to the first dot (`--hf-overrides.max_len`)."""
    if not name.startswith("--"):
        return name
    head, dot, tail = name.partition(".")
    return head.replace("_", "-") + dot + tail


def _dashed(name: str) -> str:
    name = name.strip()
    return name if name.startswith("-") else f"--{name}"


def _canonical_value(flag: str, value: str) -> str:
    if flag in _FRACTIONS and _NUMBER.fullmatch(value.strip()):
        return repr(float(value))
    if value.lstrip()[:1] in ("{", "["):
        return _canonical_json(value)
    return value


def _canonical_json(value: str) -> str:
    try:
        return json.dumps(json.loads(value), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return value
