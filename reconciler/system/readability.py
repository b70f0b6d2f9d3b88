"""What the user that runs replicas can read: tried as that user, along the whole path.

A unit is shown a model's folder by root, who passes by the folders above it: who may push would see what this user may
not. So the folders above count as if it went there itself.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from reconciler.errors import Retryable

_SECONDS = 10.0
_CANNOT_ENTER = "-"
# Access lists may open what modes close: so ask as the reading user. It reports which folder it got to, and the first
# path there that it cannot read.
_TRY = (
    'cd -- "$1" 2>/dev/null && stat -c %d:%i . || { echo -; exit; }; shift; '
    'ls -- "$1" >/dev/null || { echo "$1"; exit; }; for f; do test -r "$f" || { echo "$f"; exit; }; done'
)
_ENTER = 'for f; do test -x "$f" || { echo "$f"; exit; }; done'
_READ_ONE = 'test -r "$1" && { test ! -d "$1" || test -x "$1"; } || echo "$1"'
# What engines read; other files there do not matter.
_READ = frozenset({".json", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".model", ".txt", ".py", ".jinja"})


@dataclass(frozen=True, slots=True)
class Reader:
    """The user that runs replicas; a container has none of its groups but the first one."""

    name: str
    contained: bool = False


@dataclass(frozen=True, slots=True)
class Hidden:
    """What a reader cannot read; `is_above`: it is a folder on the way, which it cannot enter."""

    path: Path
    is_above: bool = False


def find_unreadable(folder: Path, model: str | None, reader: Reader, seen: tuple[int, int]) -> Hidden | None:
    """The first of a model's files in `folder / model` that this user cannot read; None if all of them can be.

    Without a model, the folder itself. `folder` must be resolved, and `seen` is its device and inode: where the reader
    comes to another one, it was replaced meanwhile. Raises OSError, Retryable.
    """
    here = Path(model or ".")
    # A file that all may read is none to ask about; what matters is the way to it, for root will show it.
    files = [each.name for each in _files(folder / here) if not _is_open(each)] if model else []
    if not files and _lets_all_in(folder, folder / here):
        return None
    output = _ask(_TRY, [str(folder), str(here), *(str(here / name) for name in files)], reader)
    if output is None:
        return None
    place, _, unread = output.partition("\n")
    if place == _CANNOT_ENTER:
        above = [str(each) for each in reversed(folder.parents)]
        closed = _ask(_ENTER, above, reader)
        return Hidden(Path(closed), is_above=True) if closed else Hidden(folder)
    if place != f"{seen[0]}:{seen[1]}":
        raise Retryable(f"{folder}: was replaced while it was checked")
    return Hidden(folder / unread) if unread else None


def can_read(path: str, reader: Reader) -> bool:
    """Can this user read a file or a folder, through all folders above it? Raises Retryable; OSError."""
    return not _ask(_READ_ONE, [path], reader)


def can_enter(path: str, reader: Reader) -> bool:
    """Can this user go to a folder? Raises Retryable; OSError."""
    return not _ask(_ENTER, [path], reader)


def stamp_of(folder: Path) -> tuple[int, ...]:
    """Changes when one of a model's files, or its folder, is closed or opened: the folder's own stamp does not.

    Empty if this is unknown.
    """
    try:
        return (folder.stat().st_ctime_ns, *sorted(each.stat().st_ctime_ns for each in _files(folder)))
    except OSError:
        return ()


def stamps_above(folder: Path) -> tuple[int, ...]:
    """Changes when a folder above is closed, opened or replaced; not with what else is put there."""
    found: list[int] = []
    for each in folder.parents:
        info = each.stat()
        found += (info.st_dev, info.st_ino, info.st_mode, info.st_uid, info.st_gid, crc32(_access_list(each)))
    return tuple(found)


def _files(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [each for each in entries if _is_read(each.name) and each.is_file()]


def _is_read(name: str) -> bool:
    """Mistral's tokenizers have their version at the end: `tokenizer.model.v3`."""
    return Path(name).suffix in _READ or Path(name).stem.endswith(".model")


def _is_open(file: os.DirEntry[str]) -> bool:
    return stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444


def _lets_all_in(folder: Path, model: Path) -> bool:
    """Do the modes keep out no user? Then users who get no less access by a list need not be checked."""
    return all(_gives_all(each, 0o555) for each in {folder, model}) and all(
        _gives_all(each, 0o111) for each in folder.parents
    )


def _gives_all(path: Path, bits: int) -> bool:
    return path.stat().st_mode & bits == bits and not _access_list(path)


def _access_list(path: Path) -> bytes:
    """It may keep out whom the mode lets in. Raises OSError."""
    try:
        return os.getxattr(path, "system.posix_acl_access")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise


def _ask(script: str, arguments: list[str], reader: Reader) -> str | None:
    """The script's output as this user; None if it cannot be run, which the start will report."""
    try:
        user = pwd.getpwnam(reader.name)
    except KeyError:
        return None
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[] if reader.contained else os.getgrouplist(reader.name, user.pw_gid),
            env={"PATH": "/usr/bin:/bin"},
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Retryable(f"{arguments[0]}: cannot be read within {_SECONDS:g} s; check its disk") from None
    return os.fsdecode(done.stdout).strip("\n")
