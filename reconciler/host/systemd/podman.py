"""Podman: how confined an engine runs in its image and what it sees of the host, and programs that answer in a moment.

What podman itself must be allowed to do, no unit can forbid it: so the container is the sandbox, and the unit has none.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.engines.environment import SYSTEM_PATH
from reconciler.errors import Retryable
from reconciler.system.programs import run_program

PODMAN = "/usr/bin/podman"
# Its own events would be in the unit's journal, between the engine's lines.
_QUIET = (PODMAN, "--events-backend=none")
# A container's name is to follow, and after RUN the arguments of `run_arguments`.
RUN = (*_QUIET, "run")
# What takes away a container that was killed.
REMOVE = (*_QUIET, "rm", "--force", "--ignore", "--volumes", "--time=0")
# NVIDIA's name for devices, as `nvidia-ctk cdi generate` writes it.
_GPU = "nvidia.com/gpu"

# Nothing that an engine needs. SELinux would keep it from GPUs and models that are not labelled for containers.
_CONFINED = (
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--security-opt=label=disable",
    # With folders for temporary files in memory.
    "--read-only",
    # The unit's limits hold, by its cgroup.
    "--cgroups=split",
    "--pids-limit=-1",
    "--ulimit=host",
    "--shm-size=0",
    "--no-healthcheck",
)


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a local image.

    `owner` is who runs in it, `UID:GID`. `mounts` maps its folders to folders of the host, which it cannot write to;
    `cache` is the one that it can, and has the same name on both sides, as `sockets` has, where it makes its socket.
    """

    image: str
    owner: str
    cache: str
    env: Mapping[str, str]
    mounts: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    sockets: str = ""


def run_arguments(container: Container, argv: tuple[str, ...], *options: str) -> Iterator[str]:
    """Arguments of `podman run` except the name. Raises ValueError for a folder that it cannot mount."""
    yield from ("--rm", "--replace", "--pull=never", *_CONFINED, *options)
    yield f"--user={container.owner}"
    yield from (f"--device={_GPU}={uuid}" for uuid in container.gpus)
    yield _mount(container.cache, container.cache)
    if container.sockets:
        # The proxy's group, which the socket has from its folder, may write to it.
        yield from (_mount(container.sockets, container.sockets), "--umask=0007")
    yield from (f"{_mount(folder, inside)},ro=true" for inside, folder in container.mounts.items())
    yield from (f"--env={name}={value}" for name, value in container.env.items())
    yield from (f"--entrypoint={argv[0]}", container.image, *argv[1:])


def cache_arguments(folder: str, user: str) -> tuple[str, ...]:
    """What makes the folder that a container may write to."""
    return ("/usr/bin/install", "-d", "-m", "0700", "-o", user, folder)


def _mount(folder: str, inside: str) -> str:
    if strange := [path for path in (folder, inside) if "," in path or '"' in path]:
        raise ValueError(f"podman cannot mount {strange[0]!a}: rename the folder, without commas and quotes")
    return f"--mount=type=bind,src={folder},dst={inside}"


def names(images: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The IDs of images by all of their full names, from what `podman images --format json` lists."""
    found: dict[str, str] = {}
    for image in images:
        for key in ("Names", "RepoDigests"):
            listed = image.get(key)
            found |= {str(name): str(image.get("Id")) for name in (listed if isinstance(listed, list) else ())}
    return found


# ---------------------------------------------------------------- programs with constant arguments and a time limit

_SECONDS = 30.0


def output(*arguments: str) -> str:
    """What a program prints. Raises Retryable when it fails."""
    done = run(*arguments)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Retryable(
            f"{arguments[0]} {arguments[1]} ended with {done.returncode}" + "".join(f": {line}" for line in last)
        )
    return done.stdout.decode(errors="replace")


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Raises Retryable when it does not answer, or is not there."""
    return run_program(arguments, _SECONDS, SYSTEM_PATH)


def remove_container(name: str) -> None:
    """Take away what a killed container left in podman's storage; it need not be there. Raises Retryable."""
    output(*REMOVE, name)
