"""Where a model's files lie on this host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from reconciler.errors import Terminal
from reconciler.model import EffectiveSpec, Mount
from reconciler.storage.sources import is_fetched, shown

Staged = Callable[[Mount], Path | None]
"""The folder of a model that was fetched, or None where it is not there."""


def folders_of(spec: EffectiveSpec, volumes: Mapping[str, Path], staged: Staged) -> dict[str, Path]:
    """For every mount of a spec, the folder that stands for it. Raises Terminal, naming what is missing."""
    return {mount.path: _checked(_folder(mount, volumes, staged), shown(mount.uri)) for mount in spec.mounts}


def _folder(mount: Mount, volumes: Mapping[str, Path], staged: Staged) -> Path:
    if not is_fetched(mount.uri):
        return find_folder(mount.uri, volumes)
    found = staged(mount)
    if found is None:
        raise Terminal(f"{shown(mount.uri)}: not fetched yet, or not there any more")
    return found


def find_folder(uri: str, volumes: Mapping[str, Path]) -> Path:
    """The folder behind `file:///p`, `/p` or `pvc://NAME/sub`. Raises Terminal for anything else."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file") and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Path(unquote(parts.path) if parts.scheme else uri)
    if parts.scheme == "pvc":
        return _in_volume(uri, parts.netloc, parts.path, volumes)
    raise Terminal(f"{shown(uri)}: is no folder of this host; file:///…, absolute paths and pvc://NAME/… are")


def _in_volume(uri: str, name: str, path: str, volumes: Mapping[str, Path]) -> Path:
    if name not in volumes:
        known = ", ".join(sorted(volumes)) or "none"
        raise Terminal(f"{uri}: no volume {name} on this host; add it to volumes in the config (there: {known})")
    below = PurePosixPath(path.lstrip("/"))
    if ".." in below.parts:
        raise Terminal(f"{uri}: leaves its volume")
    return volumes[name] / below


def _checked(folder: Path, uri: str) -> Path:
    """Raises Terminal unless it looks like a model."""
    said = f"{uri}: " if str(folder) not in uri else ""
    try:
        if not folder.is_dir():
            raise Terminal(f"{said}{folder}: no such folder; put the model's files there")
        if not (folder / "config.json").is_file():
            raise Terminal(
                f"{said}{folder}: holds no config.json; it is not a model's folder, or its copy is incomplete"
            )
    except OSError as error:
        raise Terminal(f"{said}{folder}: cannot be read: {error.strerror}") from None
    return folder
