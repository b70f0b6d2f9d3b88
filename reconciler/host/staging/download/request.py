"""The program's request, on its standard input: no other process can read the credentials in it there."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from reconciler.host.staging.download.failures import DownloadRefused
from reconciler.model import ReasonCode


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One model to fetch into `folder`. `files` are what the variables refer to, by the paths that these name.

    `secrets` are texts that must not be seen in any log. `memory` is a folder for `files` that no disk is behind.
    """

    uri: str
    folder: Path
    memory: Path
    env: Mapping[str, str] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def written(self) -> bytes:
        """What `read_order` reads."""
        files = {path: base64.b64encode(data).decode() for path, data in self.files.items()}
        order: dict[str, Any] = {"uri": self.uri, "folder": str(self.folder), "memory": str(self.memory)}
        return json.dumps(order | {"env": dict(self.env), "files": files, "secrets": self.secrets}).encode()


def read_order(stream: IO[bytes]) -> FetchRequest:
    """Raises ValueError, KeyError for what no daemon of this version wrote."""
    told = json.load(stream)
    files = {path: base64.b64decode(data) for path, data in told["files"].items()}
    folder, memory = Path(told["folder"]), Path(told["memory"])
    return FetchRequest(told["uri"], folder, memory, told["env"], files, tuple(told["secrets"]))


def enter(order: FetchRequest) -> None:
    """Set up this process' environment as requested, with files that only this user can read. Raises Refused."""
    shutil.rmtree(order.memory, ignore_errors=True)
    env = dict(order.env)
    if order.files:
        order.memory.mkdir(mode=0o700)
        for path, data in order.files.items():
            local = order.memory / _checked(path).strip("/")
            local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(local, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        env = {name: _moved(value, order) for name, value in env.items()}
        if any(path.startswith(_HDFS) for path in order.files):
            env.setdefault("HDFS_SECRET_DIR", f"{order.memory}{_HDFS}")
    os.environ.update(env)


def _checked(path: str) -> str:
    """Manifests name these files: they must not name any of this host's."""
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
        raise DownloadRefused(
            ReasonCode.UNSAFE_PATH, f"{path!a}: a file that would be outside of its folder; rename it"
        )
    return path


def leave(order: FetchRequest) -> None:
    shutil.rmtree(order.memory, ignore_errors=True)


_HDFS = "/var/secrets/kserve-hdfscreds"


def _moved(value: str, order: FetchRequest) -> str:
    """A variable that names one of the files, or a folder above one, names where it lies here."""
    named = value.rstrip("/")
    if named and any(path == named or path.startswith(f"{named}/") for path in order.files):
        return f"{order.memory}{value}"
    return value
