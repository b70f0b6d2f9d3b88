"""What a spec's container runs: its server's command, variables and files, as git has them. Pure."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.engines.arguments import (
    GRPC_SERVERS,
    LONGEST_EXPANSION,
    bound,
    expand,
    expand_all,
    find,
    flag_value,
    is_flag,
    names_in,
    takes_grpc,
)
from reconciler.engines.environment import refused_option
from reconciler.engines.file_arguments import is_below
from reconciler.model import (
    NO_ORIGIN,
    Argument,
    EffectiveSpec,
    EnvVar,
    FileMount,
    NoOrigin,
    Origin,
    Reason,
    ReasonCode,
    SecretMount,
    VolumeFile,
    texts,
)

API_SERVER = "vllm.entrypoints.openai.api_server"
VLLM_CLI = "vllm.entrypoints.cli.main"
_PYTHON = re.compile(r"(.*/)?python(3(\.\d+)?)?")
_LONGEST_SHOWN = 40
_CANNOT = {
    "--uds": "the reconciler chooses where replicas listen",
    "--headless": "a replica without an HTTP server cannot be probed",
    "--ssl-cert-reqs": "a host has no client certificate to probe a replica with",
}

_CANNOT_BESIDE_GRPC = {
    "--api-key": "vLLM's gRPC server does not check keys, and would serve any client",
    "--ssl-certfile": "vLLM's gRPC server does not speak TLS",
    "--ssl-keyfile": "vLLM's gRPC server does not speak TLS",
}

API_KEY = "VLLM_API_KEY"
GIVEN_AT_START: Mapping[str, str] = {"metadata.name": "replica", "metadata.uid": "00000000-0000-0000-0000-000000000000"}
"""Fields of a pod that every replica has for itself, with what stands in for them until there is one."""


@dataclass(frozen=True, slots=True)
class Revealed:
    """The values of a spec's references, for one start: nothing that is kept or shown may hold it.

    `variables` has the variables that each reference to a Secret becomes, `files` the files of each mounted Secret by
    their path below the mount, `parts` the same of a Secret in another volume. A reference that is not there could not
    be looked up: its value is unknown. `fields` are those of the pod that are given at the start.
    """

    variables: Mapping[EnvVar, Mapping[str, str]] = field(default_factory=dict, repr=False)
    files: Mapping[SecretMount, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    parts: Mapping[VolumeFile, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    fields: Mapping[str, str] = field(default_factory=lambda: GIVEN_AT_START)


UNKNOWN = Revealed()


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A command line that starts vLLM's server: `{python} {options} -m {module} {flags}`."""

    options: tuple[str, ...]
    module: str
    flags: tuple[Argument, ...]
    python: str = "python3"


@dataclass(frozen=True, slots=True)
class ContainerVariables:
    """The variables that a container sets. `hidden` are those whose values are Secrets' or made of them."""

    env: Mapping[str, str] = field(repr=False)
    hidden: frozenset[str]


class NotAServer(ValueError):
    """The command line starts something else, or cannot be written down. `origin` is where that is written."""

    def __init__(self, message: str, at: Argument, code: ReasonCode = ReasonCode.UNSUPPORTED_COMMAND) -> None:
        super().__init__(message)
        self.origin = at.origin
        self.code = code


def unsupported(
    spec: EffectiveSpec,
    fallback: Origin | NoOrigin = NO_ORIGIN,
    secrets: Revealed = UNKNOWN,
    key: Origin | NoOrigin = NO_ORIGIN,
) -> tuple[Reason, ...]:
    """Why a host cannot run this container's command; empty when it can. Of `secrets` only the names count.

    `key` is the line of the variable API_KEY, `fallback` that of what has none of its own.
    """
    try:
        server = read_command(spec, read_variables(spec.env, secrets))
    except NotAServer as error:
        return (Reason(error.code, str(error), error.origin or fallback),)
    reasons = []
    for flag, why in _cannot(server.flags).items():
        for given, _ in find(server.flags, flag):
            text = f"{flag} does not work {why}; remove it"
            reasons.append(Reason(ReasonCode.UNSUPPORTED_ARGUMENT, text, given.origin or fallback))
    if takes_grpc(server.flags) and API_KEY in {each.name for each in spec.env}:
        text = f"variable {API_KEY} does not work with gRPC: {_CANNOT_BESIDE_GRPC['--api-key']}; remove it"
        reasons.append(Reason(ReasonCode.UNSUPPORTED_ARGUMENT, text, key or fallback))
    return tuple(reasons)


def _cannot(flags: Sequence[Argument]) -> dict[str, str]:
    """Flags that these cannot hold, and why."""
    beside = _CANNOT_BESIDE_GRPC if takes_grpc(flags) else {}
    return {
        **{flag: f"on a host: {why}" for flag, why in _CANNOT.items()},
        **{flag: f"with gRPC: {why}" for flag, why in beside.items()},
    }


def server_flags(spec: EffectiveSpec, secrets: Revealed = UNKNOWN) -> tuple[Argument, ...]:
    """The server's arguments as git has them. None of them for a command that no host can run."""
    try:
        return _written(spec, read_variables(spec.env, secrets)).flags
    except NotAServer:
        return ()


def api_key(spec: EffectiveSpec, secrets: Revealed = UNKNOWN) -> str | None:
    """The key that requests to this spec's replicas must carry, if any."""
    env = read_variables(spec.env, secrets).env
    given = flag_value(expand_all(spec.command_line, env), "--api-key")
    return given or env.get(API_KEY) or None


def asks_for_key(spec: EffectiveSpec) -> bool:
    """Will its replicas refuse requests without a key? The key itself may still lie in a Secret."""
    if takes_grpc(spec.command_line):
        return False
    return bool(api_key(spec)) or any(each.name == API_KEY and _is_given(each) for each in spec.env)


def _is_given(variable: EnvVar) -> bool:
    """Does it come from a Secret that must be there?"""
    return variable.source.startswith("secret ") and not variable.source.endswith(" optional")


def read_command(spec: EffectiveSpec, container: ContainerVariables) -> ServerCommand:
    """With what keeps the engine to its share of a GPU. Raises NotAServer."""
    server = _written(spec, container)
    return replace(server, flags=(*server.flags, *bound(server.flags, spec.resources.gpu_share_millis)))


def _written(spec: EffectiveSpec, container: ContainerVariables) -> ServerCommand:
    """As git has it. Raises NotAServer."""
    for each in spec.command_line:
        if shown := sorted(names_in(each.text) & container.hidden):
            text = (
                f"$({shown[0]}) in an argument would show a Secret's value to every user of the host; "
                "remove it, vLLM reads VLLM_API_KEY and HF_TOKEN from the environment"
            )
            raise NotAServer(text, each, ReasonCode.SECRET_IN_ARGUMENT)
    line = expand_all(spec.command_line, container.env)
    if not spec.command:
        # The image's entry point is `vllm serve`.
        return _vllm(line, 0) if texts(line[:1]) == ("serve",) else _serve(line, 0)
    program = line[0].text
    if program.startswith("/") and any(is_below(program, path) for path in spec.mounted_paths):
        text = f"{program} is in a mounted folder, not in an image; write command: [vllm, serve] and flags as args"
        raise NotAServer(text, line[0])
    if _PYTHON.fullmatch(program):
        return replace(_python(line), python=program)
    if program.rsplit("/", 1)[-1] == "vllm":
        return _vllm(line, 1)
    text = f"a host cannot translate the command {program}; write command: [vllm, serve] and flags as args"
    raise NotAServer(_not_split(program) or text, line[0])


def _not_split(token: str) -> str:
    """Why an item of the command is invalid: it holds several arguments."""
    pieces = token.split()
    if len(pieces) < 2:
        return ""
    shown = token if len(token) <= _LONGEST_SHOWN else f"{token[:_LONGEST_SHOWN]}…"
    return f"`{shown}` is one item of the list, and no shell splits it; write one item per argument, {pieces[0]} first"


def _python(line: Sequence[Argument]) -> ServerCommand:
    tokens = texts(line)
    at, refused = refused_option(tokens)
    if refused is not None:
        if refused.startswith("-m") and (several := _not_split(tokens[at])):
            raise NotAServer(several, line[at])
        shown = refused if len(refused) <= _LONGEST_SHOWN else f"{refused[:_LONGEST_SHOWN]}…"
        text = (
            f"option {shown!a} of {tokens[0]} can run other code than vLLM; before -m, use -u, -B, -O, -s or -E alone"
        )
        raise NotAServer(text, line[at])
    if at + 1 >= len(tokens) or tokens[at] != "-m":
        text = f"a host can run only `-m {API_SERVER}` with {tokens[0]}, not a script"
        raise NotAServer(text, line[min(at, len(tokens) - 1)])
    module, options, flags = line[at + 1], tokens[1:at], tuple(line[at + 2 :])
    if module.text == VLLM_CLI:
        return _vllm(line, at + 2, options)
    if module.text in GRPC_SERVERS:
        return ServerCommand(options, API_SERVER, (module.rewritten("--grpc"), *flags))
    if module.text != API_SERVER:
        raise NotAServer(f"a host cannot run the module {module.text}, only {API_SERVER}", module)
    return ServerCommand(options, API_SERVER, flags)


def _vllm(line: Sequence[Argument], at: int, options: tuple[str, ...] = ()) -> ServerCommand:
    if len(line) <= at or line[at].text != "serve":
        if len(line) > at and (several := _not_split(line[at].text)):
            raise NotAServer(several, line[at])
        command = " ".join(texts(line[: at + 1]))
        raise NotAServer(f"a host can run only `vllm serve`, not `{command}`", line[min(at, len(line) - 1)])
    return _serve(line, at + 1, options)


def _serve(line: Sequence[Argument], at: int, options: tuple[str, ...] = ()) -> ServerCommand:
    """`vllm serve MODEL FLAGS…`: the server's module takes the model by a flag only."""
    flags = tuple(line[at:])
    if flags and not is_flag(flags[0].text):
        return ServerCommand(options, API_SERVER, (flags[0].rewritten("--model"), *flags))
    return ServerCommand(options, API_SERVER, flags)


def read_variables(variables: Iterable[EnvVar], secrets: Revealed = UNKNOWN) -> ContainerVariables:
    """What the container itself sets; a value may name variables before it."""
    env: dict[str, str] = {}
    hidden: set[str] = set()
    room = LONGEST_EXPANSION
    for variable in variables:
        if (given := given_at_start(variable.source)) is not None:
            env[variable.name] = secrets.fields[given]
            continue
        if variable.source:
            named = secrets.variables.get(variable)
            env.update(named or {})
            hidden.update({variable.name} if named is None else named)
            continue
        if names_in(variable.value) & hidden:
            hidden.add(variable.name)
        else:
            hidden.discard(variable.name)
        env[variable.name] = expand(variable.value, env, room)
        room -= len(env[variable.name])
    return ContainerVariables(env, frozenset(hidden))


def given_at_start(source: str) -> str | None:
    """The field of a pod that a reference names, if every replica is given it."""
    kind, _, path = source.partition(" ")
    return path if kind == "field" and path in GIVEN_AT_START else None


def held_files(spec: EffectiveSpec) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """For each mounted volume, the files that git holds, by their path below where it is mounted."""
    for volume in spec.files:
        found = volume_contents(volume)
        if not volume.sub_path:
            yield volume.path.rstrip("/"), found
        elif volume.sub_path in found:
            folder, _, name = volume.path.rpartition("/")
            yield folder, {name: found[volume.sub_path]}
        else:
            below = f"{volume.sub_path}/"
            there = {name.removeprefix(below): data for name, data in found.items() if name.startswith(below)}
            yield volume.path.rstrip("/"), there


def volume_contents(volume: FileMount, secrets: Revealed = UNKNOWN) -> dict[str, bytes]:
    """The files of a volume by their path in it; without those that are not known."""
    files: dict[str, bytes] = {}
    for each in volume.files:
        if not each.source:
            files[each.path] = binascii.a2b_base64(each.text) if each.is_base64 else each.text.encode()
        elif (given := given_at_start(each.source)) is not None:
            files[each.path] = secrets.fields[given].encode()
        else:
            files |= secrets.parts.get(each, {})
    return files
