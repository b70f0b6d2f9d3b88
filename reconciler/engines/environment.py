"""The environment of an engine, whether an interpreter of the host runs it or its own image. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.settings import EngineSettings
from reconciler.engines.interpreter import loads_code
from reconciler.model import Lease

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# These are paths inside the image, or would make every start recompile vLLM.
_IMAGE_ONLY = frozenset(
    {"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
)
_OURS = frozenset({"HOME", "PYTHONDONTWRITEBYTECODE"})
# A unix socket's path has 107 bytes, and vLLM names its sockets by 36 of them.
_LONGEST_SOCKET_FOLDER = 107 - 1 - 36


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders that a replica may write to.

    `home` is shared by all replicas of one engine: vLLM's compile caches live there and must survive. `tmp` is the
    replica's own. `private` is for files that may not reach a disk. `socket` is the path that it is to listen on.
    """

    home: str
    tmp: str
    private: str = ""
    socket: str = ""


def environment(
    given: Mapping[str, str],
    secret: Collection[str],
    engine: EngineSettings,
    model_paths: Mapping[str, str],
    folders: Folders,
    lease: Lease | None = None,
) -> dict[str, str]:
    """All variables of an engine: the container's (`given`; those in `secret` hold no paths), the config's, and the
    reconciler's.

    Nothing is inherited from us. The config wins over the container, and alone may load code into an interpreter of
    the host: in a container, the image is the wall.
    """
    translated = {
        name: value if name in secret else replace_paths(value, model_paths)
        for name, value in given.items()
        if name not in (_OURS if engine.podman else _IMAGE_ONLY) and (engine.podman or not loads_code(name, value))
    }
    if engine.python is None:
        # The image sets the others itself. Its GPUs are those that it is given; an old hook must not add others.
        return {**_caches(folders), **translated, **engine.env, "NVIDIA_VISIBLE_DEVICES": "void"}
    env = {**_base(engine.python, folders), **translated, **engine.env}
    if lease is not None:
        # Indices may mean different cards to different tools; an empty list hides all of them.
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(lease.gpus)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def _base(python: Path, folders: Folders) -> dict[str, str]:
    env = {
        "PATH": f"{python.parent}:{SYSTEM_PATH}",
        "TMPDIR": folders.tmp,
        "LANG": "C.UTF-8",
        **_caches(folders),
    }
    if len(folders.tmp.encode()) > _LONGEST_SOCKET_FOLDER:
        # All processes of a replica have its folder as their working directory. Outside of the compile cache's key.
        env["VLLM_RPC_BASE_PATH"] = "/proc/self/cwd"
    return env


def _caches(folders: Folders) -> dict[str, str]:
    return {
        "HOME": folders.home,
        "XDG_CACHE_HOME": f"{folders.home}/.cache",
        "XDG_CONFIG_HOME": f"{folders.home}/.config",
        # Its default is below TMPDIR, which goes away with the replica.
        "TORCHINDUCTOR_CACHE_DIR": f"{folders.home}/.cache/torchinductor",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def replace_paths(text: str, paths: Mapping[str, str]) -> str:
    """Whole paths in a text, and paths below them, become their folders on this host."""
    local = {path.rstrip("/"): folder.rstrip("/") for path, folder in paths.items() if path.rstrip("/")}
    if not local:
        return text
    known = "|".join(map(re.escape, sorted(local, key=len, reverse=True)))
    return re.sub(rf"(?<![\w./-])({known})(?![\w.-])", lambda match: local[match[1]], text)
