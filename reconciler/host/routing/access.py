"""What the proxy may do with its folder where it has a user of its own: read files, and make its admin socket.

The folder and all files in it stay the daemon's, so nothing that we read or write there can be put in place by that
user.
"""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

from reconciler.host.routing.admin_socket import OWN

USER = "reconciler-proxy"
"""Who runs the proxy where it is a unit, and the group whose sockets it may use."""


def has_user() -> bool:
    """Does this host have the user and its group? One that was installed by an older release may not."""
    try:
        return pwd.getpwnam(USER).pw_gid == grp.getgrnam(USER).gr_gid
    except KeyError:
        return False


def group() -> int:
    """The group of a proxy that is started now, as a unit."""
    return grp.getgrnam(USER).gr_gid if has_user() else 0


def grant(folder: Path) -> None:
    """Open the folder, also one of an older release, whose proxy may run there as root. Raises OSError."""
    user = pwd.getpwnam(USER)
    # New files get the folder's group.
    _set(folder, -1, user.pw_gid, 0o750)
    for path in folder.glob("*.json"):
        _set(path, -1, user.pw_gid, 0o640)
    own = folder / OWN
    own.mkdir(mode=0o700, exist_ok=True)
    _set(own, user.pw_uid, user.pw_gid, 0o700)


def _set(path: Path, user: int, group: int, mode: int) -> None:
    os.chown(path, user, group, follow_symlinks=False)
    path.chmod(mode)
