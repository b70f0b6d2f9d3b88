"""Host translation: what a container would run becomes what this host runs. Pure, and after the digest.

`launch` makes a child process of one replica's spec; `question` is what the installed vLLM is asked about that spec
before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from reconciler.config.settings import EngineSettings
from reconciler.engines.arguments import (
    GRPC_SERVERS,
    adapter_names,
    drop_flags,
    find,
    speaks_grpc,
    values_of,
    values_with_arguments,
)
from reconciler.engines.container import (
    UNKNOWN,
    VLLM_CLI,
    Revealed,
    held_files,
    read_command,
    read_variables,
    volume_contents,
)
from reconciler.engines.environment import Folders, environment, replace_paths
from reconciler.engines.file_arguments import CONFIG
from reconciler.model import (
    Argument,
    EffectiveSpec,
    Lease,
    ServiceId,
    texts,
)

# Of all files that are written for one replica, and of one's name.
_MOST_WRITTEN, _LONGEST_NAME = 64 << 20, 255
_GIVEN_BY_LEASE = frozenset({"CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"})
_SOCKET = "--uds"
_GRPC_PORT = "--grpc-port"
# A placeholder for the port, when a socket is used.
_NO_PORT = 1
# With it, vLLM listens on several ports, and on no socket.
_MANY_PORTS = "--data-parallel-multi-port-external-lb"
ADDED = ("--host=127.0.0.1", "--port=8000", "--uds=/socket", "--served-model-name=name", "--shutdown-timeout=1")
"""The flags that `launch` adds, as the engine is asked about them."""
DISPENSABLE = frozenset({"--shutdown-timeout", _SOCKET})
"""Those that another vLLM is served without: our own drain has ended before any SIGTERM, and what cannot
listen on a socket does so on its port.
"""
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

    Raises ValueError for a spec that `container.unsupported` complains of.
    """
    container = read_variables(spec.env, secrets)
    own_paths, files = _written_files(spec, secrets, folders)
    if fault := _unwritable(files, folders.private):
        raise ValueError(fault)
    paths = {**model_paths, **own_paths}
    server = read_command(spec, container)
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
        module = (VLLM_CLI, "serve")
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
    """The preflight's question for this spec. Raises ValueError where `container.unsupported` complains of it."""
    container = read_variables(spec.env)
    server = read_command(spec, container)
    seen = {} if mounted else model_paths
    env = environment(container.env, container.hidden, engine, seen, Folders(home, "/tmp"))  # noqa: S108 - the system's own
    python = engine.python or Path(server.python)
    given = frozenset(container.env.keys() & env.keys()) - engine.env.keys()
    files = {f"{where}/{name}": data for where, found in held_files(spec) for name, data in found.items()}
    return PreflightQuestion(python, server.flags, env, dict(model_paths), mounted, given=given, files=files)


def _names(flags: Sequence[Argument], service: ServiceId) -> tuple[str, ...]:
    """Under which names the replica answers: the user's own (or, as vLLM does it, the model's path), then the
    service's.

    One that an adapter bears stays the adapter's: vLLM refuses two of a name.
    """
    own = values_of(flags, "--served-model-name") or values_of(flags, "--model")[:1]
    taken = adapter_names(flags)
    return tuple(dict.fromkeys([*own, *(name for name in (service.name, str(service)) if name not in taken)]))


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
