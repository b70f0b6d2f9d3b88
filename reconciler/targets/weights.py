"""Where a model's files lie on this host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from reconciler.engines.arguments import flag_value, is_flag
from reconciler.errors import Retryable, Terminal
from reconciler.model import EffectiveSpec, Mount
from reconciler.storage.sources import is_fetched, shown

Staged = Callable[[Mount], Path | None]
"""The folder of a model that was fetched, or None where it is not there."""


def folders_of(spec: EffectiveSpec, volumes: Mapping[str, Path], staged: Staged) -> dict[str, Path]:
    """For every mount of a spec, the folder that stands for it. Raises Terminal; Retryable where it is not fetched."""
    model = _model_path(spec)
    found = {}
    for mount in spec.mounts:
        found[mount.path] = folder = _folder(mount, volumes, staged)
        inside = model is not None and model.is_relative_to(mount.path)
        _check(folder, folder / model.relative_to(mount.path) if model and inside else None, shown(mount.uri))
    return found


def _model_path(spec: EffectiveSpec) -> PurePosixPath | None:
    """Where in the container the model lies; what else is mounted may hold anything: adapters, certificates."""
    words = (*spec.command, *spec.args)
    after_serve = words[words.index("serve") + 1 :][:1] if "serve" in words else ()
    named = flag_value(words, "--model") or next((word for word in after_serve if not is_flag(word)), None)
    return PurePosixPath(named) if named else None


def _folder(mount: Mount, volumes: Mapping[str, Path], staged: Staged) -> Path:
    if not is_fetched(mount.uri):
        return find_folder(mount.uri, volumes)
    found = staged(mount)
    if found is None:
        # Nobody's commit is to blame: it is fetched again.
        raise Retryable(f"{shown(mount.uri)}: not fetched yet, or not there any more")
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


def _check(folder: Path, model: Path | None, uri: str) -> None:
    """Raises Terminal unless the folder is there, and what is to be a model looks like one."""
    said = f"{uri}: " if str(folder) not in uri else ""
    try:
        if not folder.is_dir():
            raise Terminal(f"{said}{folder}: no such folder; put the model's files there")
        if model is not None and not (model / "config.json").is_file():
            raise Terminal(
                f"{said}{model}: holds no config.json; it is not a model's folder, or its copy is incomplete"
            )
    except OSError as error:
        raise Terminal(f"{said}{folder}: cannot be read: {error.strerror}") from None
