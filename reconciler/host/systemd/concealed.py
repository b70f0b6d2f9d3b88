"""What of a host the units of engines do not see: our own folders, other models, caches of other engines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Engines need the other files in a user's folder of models.
_SYSTEM = ("usr", "etc", "lib", "lib32", "lib64", "libx32", "bin", "sbin", "boot", "dev", "proc", "sys", "nix")
_SHARED = frozenset(Path(path) for path in ("/", "/opt", "/var", "/var/lib", "/var/cache", "/run", "/home", "/root"))


@dataclass(frozen=True, slots=True)
class Concealed:
    """Folders that look empty except for what is `shown`, and files that cannot be opened."""

    folders: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


NOTHING_CONCEALED = Concealed()


def conceal(program: str, mounts: Mapping[str, str], closed: Iterable[Path]) -> Concealed:
    """What a unit that runs this program and is shown these folders does not see. It looks at the disk.

    `closed` are the daemon's folders, and volumes. A model's folder has others next to it: they are closed as well. The
    environment of the program stays visible, wherever it is.
    """
    programs = tuple(dict.fromkeys(_hops(program)))
    wanted = (*closed, *(around for folder in mounts.values() if (around := _around(Path(folder)))))
    files = tuple(str(path) for path in wanted if path.is_file())
    folders = [path for path in _outermost(path for path in wanted if path.is_dir()) if _can_hide(path, programs)]
    shown = {_environment(each) for each in programs for path in folders if each.is_relative_to(path)}
    return Concealed(tuple(map(str, folders)), tuple(sorted(map(str, shown))), files)


def concealing_lines(concealed: Concealed, cache: str, quote: Callable[[str], str]) -> Iterator[str]:
    """Lines of a unit's section `Service`; `cache` is the folder below systemd's caches that is its own. Pure."""
    for folder in (*concealed.folders, os.path.dirname(cache)):
        yield f"TemporaryFileSystem={quote(folder)}:ro,mode=755"
    for folder in concealed.shown:
        yield f"BindReadOnlyPaths={quote(folder)}"
    for path in concealed.files:
        yield f"InaccessiblePaths={quote('-' + path)}"
    yield f"BindPaths={quote(cache)}"


def _around(folder: Path) -> Path | None:
    parent = folder.parent
    return None if parent in _SHARED or parent.parts[1] in _SYSTEM else parent


def _can_hide(folder: Path, programs: Iterable[Path]) -> bool:
    """Not where the environment of a program is the very folder, or lies around it and the program is inside."""
    inside = [each for each in programs if each.is_relative_to(folder)]
    return all(_environment(each) != folder and _environment(each).is_relative_to(folder) for each in inside)


def _environment(program: Path) -> Path:
    """`/opt/vllm` of `/opt/vllm/bin/python`."""
    return program.parent.parent


def _hops(program: str) -> Iterator[Path]:
    """A virtual environment's interpreter is a link to another one, by way of more links."""
    path = os.path.normpath(program)
    # As many as the kernel follows.
    for _ in range(40):
        yield Path(path)
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    yield Path(os.path.realpath(program))


def _outermost(folders: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in sorted(set(folders), key=lambda each: len(each.parts)):
        if not any(folder.is_relative_to(each) for each in found):
            found.append(folder)
    return found
