"""What a replica has in addition to its log: temporary files, shared memory, and the Unix socket that it listens on.

The socket is in a folder that only engine, proxy and daemon may enter: any user of the host could take a port before
the engine binds it, and would get keys and prompts. Names are short, for the path of a socket has at most 107 bytes.
Once started, a replica's record says where it listens.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.host.routing import process
from reconciler.model import ReplicaId
from reconciler.system import procfs
from reconciler.system.files import cannot
from reconciler.system.procfs import SharedMemory

# A Unix socket's path holds 107 bytes, and vLLM makes sockets with names of 36 in its folder for temporary files.
_LONGEST_FOLDER = 60
_SHARED = Path("/dev/shm")  # noqa: S108


def folder_of(target: Path, replica: ReplicaId) -> Path:
    """The folder for a replica's temporary files: in the target's own, or in /tmp where that lies too deep."""
    key = key_of(target, replica)
    folder = target.absolute() / "tmp" / key
    return folder if len(os.fsencode(folder)) <= _LONGEST_FOLDER else Path(f"/tmp/reconciler-{key}")  # noqa: S108


def private_of(target: Path, replica: ReplicaId) -> Path:
    """The folder for a replica's Secrets: in memory, so that no disk ever holds them."""
    return _SHARED / f"reconciler-{key_of(target, replica)}"


def key_of(target: Path, replica: ReplicaId) -> str:
    """A short name for a replica that no other has on this host."""
    return hashlib.sha256(os.fsencode(target.resolve()) + b"\0" + str(replica).encode()).hexdigest()[:16]


def write_private(files: Mapping[str, bytes], folder: Path) -> None:
    """Files below `folder`, readable for their owner alone. What was there before goes. Raises Retryable."""
    remove(folder)
    make(folder)
    for path, data in files.items():
        _write_private(Path(path), data)


def _write_private(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        raise Retryable(cannot(error, path, "written", "check /dev/shm")) from None


def make(folder: Path) -> None:
    """Raises Retryable when the path belongs to another user or the disk is full."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        info = folder.lstat()
    except OSError as error:
        raise Retryable(cannot(error, folder, "made", "check the disk")) from None
    # In /tmp any user could have created it first.
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise Retryable(f"{folder}: is not a folder of the daemon; delete it, it is needed for temporary files")
    if info.st_mode & 0o077:
        folder.chmod(0o700)


def remove(folder: Path) -> None:
    """Raises Retryable when the disk refuses."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Retryable(cannot(error, folder, "deleted")) from None


def sweep_shared_memory(files: Iterable[SharedMemory]) -> None:
    """Unlink those that are still the ones we saw and that no process maps."""
    ours = [file for file in files if _is_still(file)]
    if not ours:
        return
    mapped = {file for stat_ in procfs.all_stats() for file in procfs.shared_memory_of(stat_.pid)}
    for file in ours:
        if file not in mapped:
            with contextlib.suppress(FileNotFoundError):
                (_SHARED / file.name).unlink()


def _is_still(file: SharedMemory) -> bool:
    try:
        info = (_SHARED / file.name).lstat()
    except OSError:
        return False
    return info.st_ino == file.inode and info.st_uid == os.geteuid() and stat.S_ISREG(info.st_mode)


_SOCKET = "http.sock"


def child_socket(target: Path, replica: ReplicaId) -> str:
    """In its folder for temporary files, which is closed to all other users."""
    return str(folder_of(target, replica) / _SOCKET)


def unit_socket(target: Path, replica: ReplicaId) -> str:
    """In a folder that its unit makes, because a unit has a /tmp of its own."""
    return f"/run/reconciler-{key_of(target, replica)}/{_SOCKET}"


def proxy_group(proxy: Path) -> int:
    """Who may enter the folders of units, in addition to their user: the group of the proxy that runs in this folder.

    One of an older release runs as root, but without root's powers: it is let in by root's group.
    """
    running = process.find(proxy)
    group = procfs.group_of(running.pid) if running else None
    return group if group is not None else process.group()


def open_to(group: int, sockets: Iterable[str]) -> None:
    """Let another proxy than before in. A failure shows at the next probe."""
    for socket in sockets:
        for path in (Path(socket).parent, Path(socket)):
            with suppress(OSError):
                if path.lstat().st_gid != group:
                    os.chown(path, -1, group, follow_symlinks=False)


def clear_socket(socket: str) -> None:
    """Take the name of an ended process away: vLLM does not bind a name that is there. Raises Retryable."""
    try:
        Path(socket).unlink(missing_ok=True)
    except OSError as error:
        raise Retryable(cannot(error, socket, "deleted")) from None
