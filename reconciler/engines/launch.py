"""Host translation: what a container would run becomes what this host runs. Pure, and after the digest.

`launch` makes a child process of one replica's spec; `question` is what the installed vLLM is asked about that spec
before; `unsupported` says what only a container could run.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from reconciler.config.settings import EngineSettings
from reconciler.engines.arguments import (
    GRPC_SERVERS,
    LONGEST_EXPANSION,
    adapter_names,
    bound,
    drop_flags,
    expand,
    expand_all,
    find,
    flag_value,
    is_flag,
    names_in,
    speaks_grpc,
    takes_grpc,
    values_of,
    values_with_arguments,
)
from reconciler.engines.environment import Folders, environment, refused_option, replace_paths
from reconciler.engines.file_arguments import CONFIG, is_below
from reconciler.model import (
    NO_ORIGIN,
    Argument,
    EffectiveSpec,
    EnvVar,
    FileMount,
    Lease,
    NoOrigin,
    Origin,
    Reason,
    ReasonCode,
    SecretMount,
    ServiceId,
    VolumeFile,
    texts,
)

API_SERVER = "vllm.entrypoints.openai.api_server"
_CLI = "vllm.entrypoints.cli.main"
_PYTHON = re.compile(r"(.*/)?python(3(\.\d+)?)?")
_LONGEST_SHOWN = 40
# Of all files that are written for one replica, and of one's name.
_MOST_WRITTEN, _LONGEST_NAME = 64 << 20, 255
_GIVEN_BY_LEASE = frozenset({"CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"})
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


_SOCKET = "--uds"
_GRPC_PORT = "--grpc-port"
# A placeholder for the port, when a socket is used.
_NO_PORT = 1
API_KEY = "VLLM_API_KEY"
# With it, vLLM listens on several ports, and on no socket.
_MANY_PORTS = "--data-parallel-multi-port-external-lb"
ADDED = ("--host=127.0.0.1", "--port=8000", "--uds=/socket", "--served-model-name=name", "--shutdown-timeout=1")
"""The flags that `launch` adds, as the engine is asked about them."""
DISPENSABLE = frozenset({"--shutdown-timeout", _SOCKET})
"""Those that another vLLM is served without: our own drain has ended before any SIGTERM, and what cannot
listen on a socket does so on its port.
"""
GIVEN_AT_START: Mapping[str, str] = {"metadata.name": "replica", "metadata.uid": "00000000-0000-0000-0000-000000000000"}
"""Fields of a pod that every replica has for itself, with what stands in for them until there is one."""
OLDEST_VLLM = "0.16"
"""The oldest vLLM that is served: it was tried."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to start. `env` is all of its environment; the values of `hidden` ones are secrets.

    `files` are to be written before it starts, closed to other users: secrets as well. `mounts` maps folders as its
    arguments name them to folders of this host, where something has to put them there; `pins` are the inodes that some
    of them must have. `image` is the ID of the local image to run it in; empty: it runs without one. `socket` is the
    path of the Unix socket that it listens on, in a folder that has to be made for it; empty: it listens on its port.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    hidden: frozenset[str] = frozenset()
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    mounts: Mapping[str, str] = field(default_factory=dict)
    pins: Mapping[str, int] = field(default_factory=dict)
    image: str = ""
    socket: str = ""


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
class PreflightQuestion:
    """The question of a preflight: the server's arguments before host translation.

    `paths` maps folders in the container to folders on this host. `mounted`: the engine finds them where the
    container does. `image` is the ID of the local image that `python` is in; empty: it is this host's. `given` are the
    variables that git sets. `files` are those that git holds, by their path in the container.
    """

    python: Path
    argv: tuple[Argument, ...]
    env: Mapping[str, str]
    paths: Mapping[str, str]
    mounted: bool = False
    image: str = ""
    given: frozenset[str] = frozenset()
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def engine(self) -> str:
        """The engine's name, for messages."""
        return f"{self.python} of image {self.image[:12]}" if self.image else str(self.python)


@dataclass(frozen=True, slots=True)
class _ServerCommand:
    """A command line that starts vLLM's server: `{python} {options} -m {module} {flags}`."""

    options: tuple[str, ...]
    module: str
    flags: tuple[Argument, ...]
    python: str = "python3"


@dataclass(frozen=True, slots=True)
class _Container:
    """The variables that a container sets. `hidden` are those whose values are Secrets' or made of them."""

    env: Mapping[str, str] = field(repr=False)
    hidden: frozenset[str]


class _NotAServer(Exception):
    """The command line starts something else, or cannot be written down. `origin` is where that is written."""

    def __init__(self, message: str, at: Argument, code: ReasonCode = ReasonCode.UNSUPPORTED_COMMAND) -> None:
        super().__init__(message)
        self.origin = at.origin
        self.code = code


def launch(
    spec: EffectiveSpec,
    engine: EngineSettings,
    service: ServiceId,
    lease: Lease,
    model_paths: Mapping[str, str],
    drain_timeout: float,
    folders: Folders,
    secrets: Revealed = UNKNOWN,
) -> Launch:
    """The process that serves one replica. `model_paths` maps a mount's path in the container to its folder here.

    Raises ValueError for a spec that `unsupported` complains of.
    """
    container = _read_container(spec.env, secrets)
    own_paths, files = _written_files(spec, secrets, folders)
    if fault := _unwritable(files, folders.private):
        raise ValueError(fault)
    paths = {**model_paths, **own_paths}
    try:
        server = _read(spec, container)
    except _NotAServer as error:
        raise ValueError(str(error)) from None
    names = _names(server.flags, service)
    is_grpc = speaks_grpc(server.flags)
    flags = drop_flags(server.flags, "--port", "--host", "--served-model-name", "--grpc", _GRPC_PORT)
    socket = "" if find(flags, _MANY_PORTS) else folders.socket
    where = _where_grpc(socket, lease) if is_grpc else _where(socket, lease)
    own = [*where, *(("--served-model-name", *names) if names else ())]
    if not find(flags, "--shutdown-timeout"):
        own.append(f"--shutdown-timeout={math.ceil(drain_timeout)}")
    local = tuple(each.rewritten(replace_paths(each.text, paths)) for each in flags)
    files = _with_local_config(files, local, paths)
    module: tuple[str, ...] = (GRPC_SERVERS[0] if is_grpc else server.module,)
    if find(server.flags, _GRPC_PORT):
        # Only that one starts the Rust frontend.
        module = (_CLI, "serve")
        own.append(f"{_GRPC_PORT}={lease.port}")
    argv = (str(engine.python or server.python), *server.options, "-m", *module, *texts(local), *own)
    env = environment(container.env, container.hidden, engine, paths, folders, lease)
    hidden = container.hidden & env.keys() - engine.env.keys() - _GIVEN_BY_LEASE
    return Launch(argv, env, folders.tmp, hidden, files, socket=_grpc_socket(socket) if is_grpc else socket)


def _where(socket: str, lease: Lease) -> tuple[str, ...]:
    """Where others cannot listen instead, if it can be."""
    return (f"{_SOCKET}={socket}",) if socket else ("--host=127.0.0.1", f"--port={lease.port}")


def _where_grpc(socket: str, lease: Lease) -> tuple[str, ...]:
    """The gRPC library takes `unix:PATH` for a host, and vLLM puts a colon and the port behind it."""
    return (f"--host=unix:{socket}", f"--port={_NO_PORT}") if socket else _where("", lease)


def _grpc_socket(socket: str) -> str:
    return f"{socket}:{_NO_PORT}" if socket else ""


def without(launch: Launch, flags: Collection[str], lease: Lease) -> Launch:
    """The launch without flags of the reconciler that its engine does not know."""
    if not flags:
        return launch
    argv = tuple(token for token in launch.argv if token.partition("=")[0] not in flags)
    if _SOCKET in flags and any(token.startswith(f"{_SOCKET}=") for token in launch.argv):
        return replace(launch, argv=(*argv, *_where("", lease)), socket="")
    return replace(launch, argv=argv)


def question(
    spec: EffectiveSpec, engine: EngineSettings, model_paths: Mapping[str, str], home: str, *, mounted: bool = False
) -> PreflightQuestion:
    """The preflight's question for this spec. Raises ValueError for a spec that `unsupported` rejects."""
    container = _read_container(spec.env)
    try:
        server = _read(spec, container)
    except _NotAServer as error:
        raise ValueError(str(error)) from None
    seen = {} if mounted else model_paths
    env = environment(container.env, container.hidden, engine, seen, Folders(home, "/tmp"))  # noqa: S108 - the system's own
    python = engine.python or Path(server.python)
    given = frozenset(container.env.keys() & env.keys()) - engine.env.keys()
    files = {f"{where}/{name}": data for where, found in held_files(spec) for name, data in found.items()}
    return PreflightQuestion(python, server.flags, env, dict(model_paths), mounted, given=given, files=files)


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
        server = _read(spec, _read_container(spec.env, secrets))
    except _NotAServer as error:
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
        return _written(spec, _read_container(spec.env, secrets)).flags
    except _NotAServer:
        return ()


def api_key(spec: EffectiveSpec, secrets: Revealed = UNKNOWN) -> str | None:
    """The key that requests to this spec's replicas must carry, if any."""
    env = _read_container(spec.env, secrets).env
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


# ---------------------------------------------------------------- reading a container's command


def _read(spec: EffectiveSpec, container: _Container) -> _ServerCommand:
    """With what keeps the engine to its share of a GPU. Raises _NotAServer."""
    server = _written(spec, container)
    return replace(server, flags=(*server.flags, *bound(server.flags, spec.resources.gpu_share_millis)))


def _written(spec: EffectiveSpec, container: _Container) -> _ServerCommand:
    """As git has it. Raises _NotAServer."""
    for each in spec.command_line:
        if shown := sorted(names_in(each.text) & container.hidden):
            text = (
                f"$({shown[0]}) in an argument would show a Secret's value to every user of the host; "
                "remove it, vLLM reads VLLM_API_KEY and HF_TOKEN from the environment"
            )
            raise _NotAServer(text, each, ReasonCode.SECRET_IN_ARGUMENT)
    line = expand_all(spec.command_line, container.env)
    if not spec.command:
        # The image's entry point is `vllm serve`.
        return _vllm(line, 0) if texts(line[:1]) == ("serve",) else _serve(line, 0)
    program = line[0].text
    if program.startswith("/") and any(is_below(program, path) for path in spec.mounted_paths):
        text = f"{program} is in a mounted folder, not in an image; write command: [vllm, serve] and flags as args"
        raise _NotAServer(text, line[0])
    if _PYTHON.fullmatch(program):
        return replace(_python(line), python=program)
    if program.rsplit("/", 1)[-1] == "vllm":
        return _vllm(line, 1)
    text = f"a host cannot translate the command {program}; write command: [vllm, serve] and flags as args"
    raise _NotAServer(_not_split(program) or text, line[0])


def _not_split(token: str) -> str:
    """Why an item of the command is invalid: it holds several arguments."""
    pieces = token.split()
    if len(pieces) < 2:
        return ""
    shown = token if len(token) <= _LONGEST_SHOWN else f"{token[:_LONGEST_SHOWN]}…"
    return f"`{shown}` is one item of the list, and no shell splits it; write one item per argument, {pieces[0]} first"


def _python(line: Sequence[Argument]) -> _ServerCommand:
    tokens = texts(line)
    at, refused = refused_option(tokens)
    if refused is not None:
        if refused.startswith("-m") and (several := _not_split(tokens[at])):
            raise _NotAServer(several, line[at])
        shown = refused if len(refused) <= _LONGEST_SHOWN else f"{refused[:_LONGEST_SHOWN]}…"
        text = (
            f"option {shown!a} of {tokens[0]} can run other code than vLLM; before -m, use -u, -B, -O, -s or -E alone"
        )
        raise _NotAServer(text, line[at])
    if at + 1 >= len(tokens) or tokens[at] != "-m":
        text = f"a host can run only `-m {API_SERVER}` with {tokens[0]}, not a script"
        raise _NotAServer(text, line[min(at, len(tokens) - 1)])
    module, options, flags = line[at + 1], tokens[1:at], tuple(line[at + 2 :])
    if module.text == _CLI:
        return _vllm(line, at + 2, options)
    if module.text in GRPC_SERVERS:
        return _ServerCommand(options, API_SERVER, (module.rewritten("--grpc"), *flags))
    if module.text != API_SERVER:
        raise _NotAServer(f"a host cannot run the module {module.text}, only {API_SERVER}", module)
    return _ServerCommand(options, API_SERVER, flags)


def _vllm(line: Sequence[Argument], at: int, options: tuple[str, ...] = ()) -> _ServerCommand:
    if len(line) <= at or line[at].text != "serve":
        if len(line) > at and (several := _not_split(line[at].text)):
            raise _NotAServer(several, line[at])
        command = " ".join(texts(line[: at + 1]))
        raise _NotAServer(f"a host can run only `vllm serve`, not `{command}`", line[min(at, len(line) - 1)])
    return _serve(line, at + 1, options)


def _serve(line: Sequence[Argument], at: int, options: tuple[str, ...] = ()) -> _ServerCommand:
    """`vllm serve MODEL FLAGS…`: the server's module takes the model by a flag only."""
    flags = tuple(line[at:])
    if flags and not is_flag(flags[0].text):
        return _ServerCommand(options, API_SERVER, (flags[0].rewritten("--model"), *flags))
    return _ServerCommand(options, API_SERVER, flags)


def _names(flags: Sequence[Argument], service: ServiceId) -> tuple[str, ...]:
    """Under which names the replica answers: the user's own (or, as vLLM does it, the model's path), then the
    service's.

    One that an adapter bears stays the adapter's: vLLM refuses two of a name.
    """
    own = values_of(flags, "--served-model-name") or values_of(flags, "--model")[:1]
    taken = adapter_names(flags)
    return tuple(dict.fromkeys([*own, *(name for name in (service.name, str(service)) if name not in taken)]))


# ---------------------------------------------------------------- environment


def _read_container(variables: Iterable[EnvVar], secrets: Revealed = UNKNOWN) -> _Container:
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
    return _Container(env, frozenset(hidden))


def given_at_start(source: str) -> str | None:
    """The field of a pod that a reference names, if every replica is given it."""
    kind, _, path = source.partition(" ")
    return path if kind == "field" and path in GIVEN_AT_START else None


def _written_files(spec: EffectiveSpec, secrets: Revealed, folders: Folders) -> tuple[dict[str, str], dict[str, bytes]]:
    """Where volumes of files stand here by their path in the container, and the files to write there."""
    paths: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for number, mount in enumerate(spec.secrets):
        folder = f"{folders.private}/{number}"
        paths[mount.path] = "/".join(filter(None, (folder, mount.sub_path)))
        files |= {f"{folder}/{name}": data for name, data in secrets.files.get(mount, {}).items()}
    for number, volume in enumerate(spec.files, len(spec.secrets)):
        folder = f"{folders.private}/{number}"
        paths[volume.path] = "/".join(filter(None, (folder, volume.sub_path)))
        files |= {f"{folder}/{name}": data for name, data in volume_contents(volume, secrets).items()}
    return paths, files


def _unwritable(files: Mapping[str, bytes], private: str) -> str:
    """Why these cannot all be written; empty when they can. What Secrets bring along is known no earlier."""
    if (size := sum(map(len, files.values()))) > _MOST_WRITTEN:
        text = f"its mounted Secrets and ConfigMaps have {size:,} bytes, kept in memory, more than {_MOST_WRITTEN:,}"
        return f"{text}; mount each of them once"
    for path in sorted(files):
        below = PurePosixPath(path).relative_to(private)
        inside = "/".join(below.parts[1:])
        if any(len(part.encode("utf-8", "surrogateescape")) > _LONGEST_NAME for part in below.parts):
            return f"a mounted file has a name of more than {_LONGEST_NAME} bytes; rename its key, or give it a path"
        if any(str(PurePosixPath(private, folder)) in files for folder in below.parents):
            return f"of a mounted volume {inside!a} cannot be in a folder that is a file of the same volume; rename one"
    return ""


def _with_local_config(
    files: dict[str, bytes], flags: Sequence[Argument], paths: Mapping[str, str]
) -> dict[str, bytes]:
    """vLLM's file of arguments, where it is one of these, names folders as the arguments themselves do."""
    for _, path in values_with_arguments(flags, CONFIG)[:1]:
        if path in files:
            text = replace_paths(files[path].decode("utf-8", "surrogateescape"), paths)
            return {**files, path: text.encode("utf-8", "surrogateescape")}
    return files


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
