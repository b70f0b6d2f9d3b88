"""vLLM's command line: one normal form, single flags, and what they make of GPUs and names of models. Pure.

The normal form never equates two valid command lines that vLLM would read differently; where the text alone cannot
tell, two equal ones may keep different forms, and the engine's own parser (preflight) decides. That is why
different flags are not sorted (`--enable-x --no-enable-x` is not its reverse) and why only flags known to hold
numbers are rewritten (`--served-model-name 1.10` is a name).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from reconciler.formats import json_values
from reconciler.model import NO_ORIGIN, Argument, EffectiveSpec, texts

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
_GRPC_SERVERS = frozenset(GRPC_SERVERS)


@dataclass(frozen=True, slots=True)
class _Option:
    """A flag and its values up to the next flag; `name` is None for values before the first flag or after `--`."""

    index: int
    name: str | None
    values: tuple[str, ...]
    joined: bool = False

    @property
    def places(self) -> range:
        """The indexes of its arguments."""
        return range(self.index, self.index + (self.name is not None and not self.joined) + len(self.values))


def normalise(args: Sequence[Argument]) -> tuple[str, ...]:
    """The arguments in one way of writing: `--a_b 1` and `--a-b=1` become `--a-b=1`, JSON values lose their layout."""
    return tuple(text for _, written in normal_options(args) for text in written)


def normal_options(args: Sequence[Argument]) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """The same flag by flag: its name, and what it is written as with its values; None: what belongs to no flag."""
    return ((option.name, _written(option)) for option in _options(args))


def options(args: Sequence[Argument]) -> Iterator[tuple[str | None, Sequence[Argument]]]:
    """Flag by flag: its name, and the arguments that it is written in with its values; None: what belongs to none."""
    return ((option.name, args[option.places.start : option.places.stop]) for option in _options(args))


def find(args: Sequence[Argument], *flags: str) -> list[tuple[Argument, str | None]]:
    """Each occurrence of one of these flags, with its (first) value; None where no value follows.

    In order: the last one wins.
    """
    return [(args[each.index], each.values[0] if each.values else None) for each in _named(args, *flags)]


def has_flag(args: Sequence[Argument], *flags: str) -> bool:
    """Is one of these flags there? Each is named as vLLM calls it, with `-` and not `_`."""
    return any(option.name in flags for option in _options(args))


def values_of(args: Sequence[Argument], flag: str) -> tuple[str, ...]:
    """All values of a flag's last occurrence: `--served-model-name a b` has two. Empty when it is not there."""
    last = None
    for option in _named(args, flag):
        last = option
    return last.values if last else ()


def values_with_arguments(args: Sequence[Argument], flag: str) -> list[tuple[Argument, str]]:
    """All values of a flag's last occurrence, each with the argument that holds it."""
    last = None
    for option in _named(args, flag):
        last = option
    if last is None:
        return []
    first = last.index + (not last.joined)
    return [(args[first + number], value) for number, value in enumerate(last.values)]


def flag_value(args: Sequence[Argument], flag: str) -> str | None:
    """The (first) value of a flag's last occurrence, or None."""
    values = values_of(args, flag)
    return values[0] if values else None


def model_of(args: Sequence[Argument]) -> str:
    """The model that `--model`, or `serve MODEL`, names; empty: none is named."""
    if named := flag_value(args, "--model"):
        return named
    given = texts(args)
    after = given[given.index("serve") + 1 :][:1] if "serve" in given else ()
    return next((each for each in after if not is_flag(each)), "")


def drop_flags(args: Sequence[Argument], *flags: str) -> tuple[Argument, ...]:
    """The arguments minus every occurrence of these flags, with all their values."""
    dropped = {index for option in _named(args, *flags) for index in option.places}
    return tuple(each for index, each in enumerate(args) if index not in dropped)


def ends_tls(args: Sequence[Argument]) -> bool:
    """Does a server with these arguments speak TLS? uvicorn does as soon as it has one of the two files."""
    return has_flag(args, "--ssl-certfile", "--ssl-keyfile")


def speaks_grpc(args: Sequence[Argument]) -> bool:
    """Does a server with this command and arguments speak only gRPC, and no HTTP?"""
    return has_flag(args, "--grpc") or not _GRPC_SERVERS.isdisjoint(texts(args))


def takes_grpc(args: Sequence[Argument]) -> bool:
    """Does it speak gRPC at all? vLLM's Rust frontend can serve both gRPC and HTTP."""
    return has_flag(args, "--grpc", "--grpc-port") or not _GRPC_SERVERS.isdisjoint(texts(args))


def is_flag(argument: str) -> bool:
    """True for `--x`, `-x`, `--x=y`; False for values, `-1`, `-` and `--`."""
    return argument.startswith("-") and argument.strip("-") != "" and not _NEGATIVE.fullmatch(argument)


def _named(args: Sequence[Argument], *flags: str) -> Iterator[_Option]:
    wanted = tuple(map(_canonical, flags))
    return (option for option in _options(args) if option.name in wanted)


def _options(args: Sequence[Argument]) -> tuple[_Option, ...]:
    # Remembered by texts: equal arguments may stand in other lines.
    return _parsed(texts(args))


@lru_cache(1024)
def _parsed(args: tuple[str, ...]) -> tuple[_Option, ...]:
    return tuple(_parse(args))


def _parse(args: tuple[str, ...]) -> Iterator[_Option]:
    index = 0
    while index < len(args):
        start, argument = index, args[index]
        index += 1
        if argument == "--":
            yield _Option(start, None, args[start:])
            return
        while index < len(args) and args[index] != "--" and not is_flag(args[index]):
            index += 1
        following = args[start + 1 : index]
        if not is_flag(argument):
            yield _Option(start, None, (argument, *following))
        elif "=" in argument:
            name, value = argument.split("=", 1)
            yield _Option(start, _canonical(name), (value, *following), joined=True)
        else:
            yield _Option(start, _canonical(argument), following)


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


_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
# All in all; no process takes so much, so that what is longer is refused anyway.
LONGEST_EXPANSION = 8 << 20


def expand(text: str, env: Mapping[str, str], room: int = LONGEST_EXPANSION) -> str:
    """`$(NAME)` becomes the variable, `$$` a dollar, an unknown name stays: as the kubelet does it.

    Ends once it has more than `room` letters: variables that name variables may grow without end.
    """
    if room <= 0:
        return text
    closed, rest = _parted(text)
    parts, at, length = list[str](), 0, 0
    for match in _REFERENCE.finditer(closed):
        value = "$" if match[1] is None else env.get(match[1], match[0])
        parts += closed[at : match.start()], value
        at, length = match.end(), length + len(parts[-1]) + len(parts[-2])
        if length > room:
            return "".join(parts)
    return "".join((*parts, closed[at:], rest.replace("$$", "$")))


def expand_all(arguments: Iterable[Argument], env: Mapping[str, str]) -> tuple[Argument, ...]:
    room, found = LONGEST_EXPANSION, []
    for each in arguments:
        found.append(each.rewritten(expand(each.text, env, room)))
        room -= len(found[-1].text)
    return tuple(found)


def names_in(text: str) -> frozenset[str]:
    """The variables that a text refers to by `$(NAME)`."""
    return frozenset(match[1] for match in _REFERENCE.finditer(_parted(text)[0]) if match[1])


def _parted(text: str) -> tuple[str, str]:
    """Where a `$(` may still be closed, and where not: there each one would be looked at up to the end, for hours."""
    closed, bracket, rest = text.rpartition(")")
    return closed + bracket, rest


# Each size multiplies; decode context parallel and expert parallel use the GPUs of the others.
_SIZES = (
    ("--tensor-parallel-size", "-tp"),
    ("--pipeline-parallel-size", "-pp"),
    ("--prefill-context-parallel-size", "-pcp"),
    ("--data-parallel-size", "-dp"),
)
# With any of these the arguments do not show how many GPUs this one process takes.
_UNSURE = (
    "--config",
    "--data-parallel-size-local",
    "-dpl",
    "--data-parallel-rank",
    "-dpn",
    "--data-parallel-start-rank",
    "-dpr",
    "--nnodes",
    "-n",
    "--headless",
)


@dataclass(frozen=True, slots=True)
class ParallelSize:
    """The product of the sizes, and the last argument that gives one; None: none does."""

    gpus: int
    argument: Argument | None = None


def parallel_size(flags: Sequence[Argument]) -> ParallelSize | None:
    """None if the arguments do not show it."""
    if has_flag(flags, *_UNSURE):
        return None
    gpus = 1
    for names in _SIZES:
        for _, text in find(flags, *names)[-1:]:
            if text is None or not (text.isascii() and text.isdecimal()) or not 0 < len(text) < 6 or not int(text):
                return None
            gpus *= int(text)
    given = find(flags, *(name for names in _SIZES for name in names))
    return ParallelSize(gpus, given[-1][0] if given else None)


UTILIZATION = "--gpu-memory-utilization"
_FLAGS = (UTILIZATION, "--device-memory-utilization")


@dataclass(frozen=True, slots=True)
class Utilization:
    """The fraction of each GPU's memory that the arguments allow, and which of them does."""

    value: float
    argument: Argument


def given_utilization(flags: Sequence[Argument]) -> Utilization | None:
    """The fraction in the arguments; None if there is none, or the engine will refuse it."""
    for argument, text in find(flags, *_FLAGS)[-1:]:
        with contextlib.suppress(ValueError):
            return Utilization(float(text), argument) if text is not None else None
    return None


def bound(flags: Sequence[Argument], share_millis: int) -> tuple[Argument, ...]:
    """What to add to the arguments, so that the engine keeps to its share; a fraction that is given stays."""
    if not share_millis or has_flag(flags, *_FLAGS):
        return ()
    # It follows from an annotation: no line has this argument.
    return (Argument(f"{UTILIZATION}={share_millis / 1000:g}", NO_ORIGIN),)


# Each one is a route of the proxy.
MOST_NAMES = 256
_LONGEST = 256
_MODALITIES = "--default-mm-loras"


def model_names(spec: EffectiveSpec) -> tuple[str, ...]:
    """The names that git gives a model and its adapters; of a model without one its id, where that is no path."""
    env, room = dict[str, str](), LONGEST_EXPANSION
    for variable in spec.env:
        if not variable.source:
            env[variable.name] = expand(variable.value, env, room)
            room -= len(env[variable.name])
    return _names(expand_all(spec.command_line, env))


def _names(arguments: Sequence[Argument]) -> tuple[str, ...]:
    own = values_of(arguments, "--served-model-name") or tuple(filter(_is_id, [model_of(arguments)]))
    return tuple(dict.fromkeys(filter(_is_routable, (*own, *adapter_names(arguments)))))[:MOST_NAMES]


def _is_routable(name: str) -> bool:
    """Can the proxy hold it, so that one service's names never break the table of all? An unknown variable is none."""
    return 0 < len(name) <= _LONGEST and name.isprintable() and "$(" not in name


def adapter_names(arguments: Sequence[Argument]) -> tuple[str, ...]:
    """The names of its LoRA adapters, which no served name of the model may be."""
    return tuple(dict.fromkeys((*_named_adapters(arguments), *_adapters_of_modalities(arguments))))


def _named_adapters(arguments: Sequence[Argument]) -> Iterator[str]:
    """As vLLM reads them: `NAME=PATH`, or JSON."""
    for value in values_of(arguments, "--lora-modules"):
        if "=" in value and "," not in value:
            yield value.partition("=")[0]
            continue
        found = _read(value)
        for each in found if isinstance(found, list) else [found]:
            name = each.get("name") if isinstance(each, dict) else None
            if isinstance(name, str):
                yield name


def _adapters_of_modalities(arguments: Sequence[Argument]) -> Iterator[str]:
    """Each is called by its modality: `{"audio": PATH}`, or `--default-mm-loras.audio PATH`."""
    for value in values_of(arguments, _MODALITIES)[:1]:
        found = _read(value)
        yield from found if isinstance(found, dict) else ()
    for flag, _ in options(arguments):
        if flag and flag.startswith(f"{_MODALITIES}."):
            yield flag.removeprefix(f"{_MODALITIES}.")


def _is_id(model: str) -> bool:
    return bool(model) and not model.startswith(("/", ".", "~")) and "://" not in model


def _read(text: str) -> object:
    try:
        return json_values.loads(text)
    except (ValueError, RecursionError):
        return None
