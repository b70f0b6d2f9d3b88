"""Where replicas listen: on a Unix socket in a folder of its own, which only engine, proxy and daemon may enter.

Any user of the host could take a port before the engine binds it, and would get keys and prompts. Names are short, for
the path of a socket has at most 107 bytes. Once started, a replica's record says where it listens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.host.process import scratch
from reconciler.host.routing import access, process
from reconciler.model import ReplicaId
from reconciler.system import procfs

NAME = "http.sock"


def of_child(target: Path, replica: ReplicaId) -> str:
    """In its folder for temporary files, which is closed to all other users."""
    return str(scratch.folder_of(target, replica) / NAME)


def of_unit(target: Path, replica: ReplicaId) -> str:
    """In a folder that its unit makes, because a unit has a /tmp of its own."""
    return f"/run/reconciler-{scratch.key_of(target, replica)}/{NAME}"


def proxy_group(proxy: Path) -> int:
    """Who may enter the folders of units, in addition to their user: the group of the proxy that runs in this folder.

    One of an older release runs as root, but without root's powers: it is let in by root's group.
    """
    running = process.find(proxy)
    group = procfs.group_of(running.pid) if running else None
    return group if group is not None else access.group()


def open_to(group: int, sockets: Iterable[str]) -> None:
    """Let another proxy than before in. A failure shows at the next probe."""
    for socket in sockets:
        for path in (Path(socket).parent, Path(socket)):
            with suppress(OSError):
                if path.lstat().st_gid != group:
                    os.chown(path, -1, group, follow_symlinks=False)


def clear(socket: str) -> None:
    """Take the name of an ended process away: vLLM does not bind a name that is there. Raises Retryable."""
    try:
        Path(socket).unlink(missing_ok=True)
    except OSError as error:
        raise Retryable(f"{socket}: cannot be deleted: {error.strerror}") from None
