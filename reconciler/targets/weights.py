"""Where a model's files lie on this host."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from reconciler.engines.arguments import flag_value, is_flag
from reconciler.errors import Retryable, Terminal
from reconciler.model import EffectiveSpec, Mount
from reconciler.storage.sources import is_fetched, shown
from reconciler.targets.reading import find_unreadable, stamp_of

Staged = Callable[[Mount], Path | None]
"""The folder of a model that was fetched, or None where it is not there."""

_MISSING = "WeightsMissing"
_Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ground:
    """What of a host may be served: never what is `closed` or lies around it. `reader` runs replicas; empty: we do."""

    volumes: Mapping[str, Path] = field(default_factory=dict)
    closed: tuple[Path, ...] = ()
    reader: str = ""


class Unusable(Terminal):
    """A folder that is not served; `code` is one CamelCase word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def folders_of(spec: EffectiveSpec, ground: Ground, staged: Staged) -> dict[str, Path]:
    """For every mount of a spec, the folder that stands for it. Raises Unusable; Retryable where it is not fetched."""
    model = _model_path(spec)
    found = {}
    for mount in spec.mounts:
        found[mount.path] = folder = _folder(mount, ground.volumes, staged)
        path, below = str(folder), _below(model, mount.path)
        said = _said(path, mount)
        stamp, ours = _look(path, said), is_fetched(mount.uri)
        if not ours:
            _keep_out(path, said, ground.closed, stamp)
        if below is not None and not _is_file(f"{path}/{below}/config.json", said):
            text = "holds no config.json; it is not a model's folder, or its copy is incomplete"
            raise Unusable(_MISSING, f"{said}{posixpath.normpath(f'{path}/{below}')}: {text}")
        if ground.reader and not ours:
            files = () if below is None else stamp_of(Path(path, below))
            _ask_reader(path, said, below, ground.reader, (*stamp, *files))
    return found


def watched(spec: EffectiveSpec, folders: Mapping[str, str]) -> Iterator[str]:
    """What of these folders `folders_of` and a question to the engine look at."""
    model = _model_path(spec)
    for mounted, folder in folders.items():
        yield folder
        yield f"{folder}/config.json"
        if (below := _below(model, mounted)) not in (None, "."):
            yield f"{folder}/{below}/config.json"


def closed_by(folder: Path, closed: Iterable[Path]) -> Path | None:
    """Which of these places the folder lies in or around, wherever links lead."""
    real = folder.resolve()
    places = (each.resolve() for each in closed)
    return next((each for each in places if real.is_relative_to(each) or each.is_relative_to(real)), None)


def _below(model: str, mounted: str) -> str | None:
    """Where in what is mounted there the model lies; None if it does not."""
    mounted = mounted.rstrip("/")
    if model == mounted:
        return "."
    return model.removeprefix(f"{mounted}/") if model.startswith(f"{mounted}/") else None


def _model_path(spec: EffectiveSpec) -> str:
    """Where in the container the model lies; what else is mounted may hold anything: adapters, certificates."""
    words = (*spec.command, *spec.args)
    after_serve = words[words.index("serve") + 1 :][:1] if "serve" in words else ()
    named = flag_value(words, "--model") or next((word for word in after_serve if not is_flag(word)), None)
    return posixpath.normpath(named) if named else ""


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


def _said(path: str, mount: Mount) -> str:
    uri = shown(mount.uri)
    return f"{uri}: " if path not in uri else ""


def _is_file(path: str, said: str) -> bool:
    info = _info(path, said)
    return info is not None and stat.S_ISREG(info.st_mode)


def _info(path: str, said: str) -> os.stat_result | None:
    """None where nothing is. Raises Retryable where the disk does not say: what is hidden is not missing."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Retryable(f"{said}{path}: cannot be looked at: {error.strerror}; see to its disk and modes") from None


def _look(path: str, said: str) -> _Stamp:
    """Which folder it is. Raises Unusable unless it is one."""
    info = _info(path, said)
    if info is None or not stat.S_ISDIR(info.st_mode):
        raise Unusable(_MISSING, f"{said}{path}: no such folder; put the model's files there")
    return info.st_dev, info.st_ino, info.st_ctime_ns


# Both are asked again and again: while the path leads to the same folder, and to the same files with the same modes,
# what was seen of it holds. What is refused is looked at again.
@lru_cache(maxsize=8192)
def _keep_out(path: str, said: str, closed: tuple[Path, ...], _stamp: _Stamp) -> None:
    if there := closed_by(Path(path), closed):
        text = f"is closed to services, for {there} is ours; keep models in a folder of their own"
        raise Unusable("FolderClosed", f"{said}{path}: {text}")


@lru_cache(maxsize=8192)
def _ask_reader(path: str, said: str, model: str | None, reader: str, _stamp: _Stamp) -> None:
    if os.geteuid() != 0:
        return
    try:
        hidden = find_unreadable(Path(path), model, reader)
    except OSError as error:
        # A disk of another host, for example, where root is nobody.
        text = f"cannot be looked through as {reader}, who runs replicas: {error.strerror}; see to its disk and modes"
        raise Unusable("FolderUnreadable", f"{said}{path}: {text}") from None
    if hidden:
        text = f"cannot be read by {reader}, who runs replicas; chmod -R a+rX {path}"
        raise Unusable("FolderUnreadable", f"{said}{hidden}: {text}")
