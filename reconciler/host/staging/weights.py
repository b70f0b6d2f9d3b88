"""The model files that are already on this host."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from reconciler.engines.arguments import model_of
from reconciler.engines.file_arguments import CLOSED, is_below, is_systems_own
from reconciler.errors import Retryable, Terminal
from reconciler.model import EffectiveSpec, Mount, ReasonCode
from reconciler.model.model_sources import is_fetched, shown
from reconciler.system.files import cannot, means_nothing_is_there
from reconciler.system.readability import Reader, find_unreadable, stamp_of, stamps_above

Staged = Callable[[Mount], Path | None]
"""The folder of a model that was fetched, or None where it is not there."""

_Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ground:
    """What of a host may be served:

    never what is `closed` or contains it. `reader` runs replicas; None: the daemon's user.
    """

    volumes: Mapping[str, Path] = field(default_factory=dict)
    closed: tuple[Path, ...] = ()
    reader: Reader | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A folder that stands for a mount, with no link in its path.

    `inode`: another user may put a folder of the same name in its place, so that only this one is meant.
    """

    folder: Path
    inode: int | None = None


class UnusableFolder(Terminal):
    """A folder that is not served, and why."""

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def folders_of(spec: EffectiveSpec, ground: Ground, staged: Staged) -> dict[str, Path]:
    """For every mount of a spec, its folder. Raises UnusableFolder; Retryable where it is not downloaded."""
    return {path: each.folder for path, each in served_folders(spec, ground, staged).items()}


def served_folders(spec: EffectiveSpec, ground: Ground, staged: Staged) -> dict[str, Served]:
    """The same, with what identifies each of them against a replacement. Raises as `folders_of` does."""
    model = _model_path(spec)
    return {mount.path: _served(mount, _below(model, mount.path), ground, staged) for mount in spec.mounts}


def _served(mount: Mount, below: str | None, ground: Ground, staged: Staged) -> Served:
    named = _folder(mount, ground.volumes, staged)
    prefix, ours = _said(str(named), mount), is_fetched(mount.uri)
    stamp = _look(str(named), prefix)
    # What a link leads to is checked, and that very folder is mounted: changing the link mounts nothing else.
    path = str(named) if ours else os.path.realpath(named)
    if not ours:
        if any(is_systems_own(each) and not _is_in_volume(each, ground.volumes) for each in (str(named), path)):
            raise UnusableFolder(
                ReasonCode.PATH_NOT_ALLOWED, f"{prefix}{named}: {CLOSED}; keep models in a separate folder"
            )
        _keep_out(path, prefix, ground.closed, stamp)
        if path != str(named) and _look(path, prefix) != stamp:
            raise Retryable(f"{prefix}{named}: was replaced while it was checked")
    if below is not None and _is_single_file(posixpath.normpath(f"{path}/{below}"), prefix):
        below = posixpath.dirname(below) or "."
    if ours:
        return Served(named)
    _ask_reader(path, prefix, below, ground.reader, (*stamp, *(_stamps(path, below) if ground.reader else ())))
    return Served(Path(path), stamp[1] if ground.reader and is_replaceable(Path(path)) else None)


def _stamps(path: str, below: str | None) -> _Stamp:
    """Changes with who may read what."""
    try:
        above = stamps_above(Path(path))
    except OSError as error:
        raise Retryable(cannot(error, path, "checked", "check its disk and modes")) from None
    return above if below is None else (*above, *stamp_of(Path(path, below)))


def is_replaceable(folder: Path) -> bool:
    """May another user than root replace the folder? Raises nothing: unknown is yes."""
    try:
        steps = [each.stat(follow_symlinks=False) for each in (folder, *folder.parents)]
    except OSError:
        return True
    return any(_may_replace(below, above) for below, above in pairwise(steps))


def _may_replace(below: os.stat_result, above: os.stat_result) -> bool:
    if above.st_uid != 0:
        return True
    is_shared = bool(above.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return is_shared and not (above.st_mode & stat.S_ISVTX and below.st_uid == 0)


def watched(spec: EffectiveSpec, folders: Mapping[str, str]) -> Iterator[str]:
    """What of these folders `folders_of` and a question to the engine look at."""
    model = _model_path(spec)
    for mounted, folder in folders.items():
        yield folder
        yield f"{folder}/config.json"
        if (below := _below(model, mounted)) not in (None, "."):
            yield f"{folder}/{below}/config.json"


def closed_by(folder: Path, closed: Iterable[Path]) -> Path | None:
    """Which of these places the folder is in or contains, wherever links lead."""
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
    named = model_of(spec.command_line)
    return posixpath.normpath(named) if named else ""


def _folder(mount: Mount, volumes: Mapping[str, Path], staged: Staged) -> Path:
    if not is_fetched(mount.uri):
        return find_folder(mount.uri, volumes)
    found = staged(mount)
    if found is None:
        # No commit is to blame: it is downloaded again.
        raise Retryable(f"{shown(mount.uri)}: not fetched yet, or not there any more")
    return found


def find_folder(uri: str, volumes: Mapping[str, Path]) -> Path:
    """The folder behind `file:///p`, `/p` or `pvc://NAME/sub`. Raises Terminal for anything else."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file") and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Path(unquote(parts.path) if parts.scheme else uri)
    if parts.scheme == "pvc":
        return _in_volume(uri, parts.netloc, parts.path, volumes)
    raise Terminal(f"{shown(uri)}: is not a folder of this host; use file:///…, an absolute path or pvc://NAME/…")


def _in_volume(uri: str, name: str, path: str, volumes: Mapping[str, Path]) -> Path:
    if name not in volumes:
        known = ", ".join(sorted(volumes)) or "none"
        raise Terminal(f"{uri}: no volume {name} on this host; add it to volumes in the config (there: {known})")
    below = PurePosixPath(path.lstrip("/"))
    if ".." in below.parts:
        raise Terminal(f"{uri}: leaves its volume")
    return volumes[name] / below


def _is_in_volume(path: str, volumes: Mapping[str, Path]) -> bool:
    """Who wrote the config may keep models in a disk of memory, such as /dev/shm/models."""
    folders = [place for each in volumes.values() for place in (str(each), os.path.realpath(each))]
    return any(is_below(path, folder) for folder in folders)


def _said(path: str, mount: Mount) -> str:
    uri = shown(mount.uri)
    return f"{uri}: " if path not in uri else ""


def _is_single_file(path: str, prefix: str) -> bool:
    """Is the model one file, and not a folder? Which files make a model, its engine knows: some need no config.json.

    Raises UnusableFolder where nothing is.
    """
    if any(_is_file(f"{path}/{name}", prefix) for name in ("config.json", "params.json")):
        return False
    info = _info(path, prefix)
    if info is not None and stat.S_ISREG(info.st_mode):
        return True
    if info is None or not stat.S_ISDIR(info.st_mode):
        raise UnusableFolder(
            ReasonCode.MODEL_NOT_FOUND, f"{prefix}{path}: no such file or folder; put the model's files there"
        )
    try:
        with os.scandir(path) as entries:
            is_empty = not any(_is_file(each.path, prefix) for each in entries)
    except PermissionError:
        return False
    except OSError as error:
        raise Retryable(f"{prefix}{path}: cannot be checked: {error.strerror}; check its disk and modes") from None
    if is_empty:
        raise UnusableFolder(
            ReasonCode.MODEL_NOT_FOUND,
            f"{prefix}{path}: is empty; it is not a model folder, or its copy is incomplete",
        )
    return False


def _is_file(path: str, prefix: str) -> bool:
    info = _info(path, prefix)
    return info is not None and stat.S_ISREG(info.st_mode)


def _info(path: str, prefix: str) -> os.stat_result | None:
    """None where nothing is. Raises Retryable where the disk does not say: what is hidden is not missing."""
    try:
        return os.stat(path)
    except OSError as error:
        if means_nothing_is_there(error):
            return None
        raise Retryable(f"{prefix}{path}: cannot be checked: {error.strerror}; check its disk and modes") from None


def _look(path: str, prefix: str) -> _Stamp:
    """Which folder it is. Raises UnusableFolder unless it is one."""
    info = _info(path, prefix)
    if info is None or not stat.S_ISDIR(info.st_mode):
        raise UnusableFolder(ReasonCode.MODEL_NOT_FOUND, f"{prefix}{path}: no such folder; put the model's files there")
    return info.st_dev, info.st_ino, info.st_ctime_ns


# Both are asked again and again: while the path leads to the same folder, and to the same files with the same modes,
# what was seen of it holds. What is refused is looked at again.
@lru_cache(maxsize=8192)
def _keep_out(path: str, prefix: str, closed: tuple[Path, ...], _stamp: _Stamp) -> None:
    if there := closed_by(Path(path), closed):
        text = f"is closed to services, because {there} belongs to the daemon; keep models in a separate folder"
        raise UnusableFolder(ReasonCode.PATH_NOT_ALLOWED, f"{prefix}{path}: {text}")


@lru_cache(maxsize=8192)
def _ask_reader(path: str, prefix: str, model: str | None, reader: Reader | None, stamp: _Stamp) -> None:
    if reader is None:
        if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
            raise UnusableFolder(
                ReasonCode.FOLDER_UNREADABLE, f"{prefix}{path}: cannot be read by the daemon, which runs replicas"
            )
        return
    if os.geteuid() != 0:
        return
    try:
        hidden = find_unreadable(Path(path), model, reader, (stamp[0], stamp[1]))
    except OSError as error:
        # A disk of another host, for example, with root squashed.
        who = f"{reader.name}, which runs replicas"
        text = f"cannot be listed by {who}: {error.strerror}; check its disk and modes"
        raise UnusableFolder(ReasonCode.FOLDER_UNREADABLE, f"{prefix}{path}: {text}") from None
    if hidden and hidden.is_above:
        text = f"{hidden.path} cannot be entered by {reader.name}, which runs replicas; chmod a+x {hidden.path}"
        raise UnusableFolder(ReasonCode.FOLDER_UNREADABLE, f"{prefix}{path}: {text}")
    if hidden:
        text = f"cannot be read by {reader.name}, which runs replicas; chmod -R a+rX {path}"
        raise UnusableFolder(ReasonCode.FOLDER_UNREADABLE, f"{prefix}{hidden.path}: {text}")
