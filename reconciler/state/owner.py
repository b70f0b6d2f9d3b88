"""Acting as the owner of a folder: what root writes there stays usable for a daemon that runs as another user."""

from __future__ import annotations

import os
import pwd

from reconciler.config.settings import Settings
from reconciler.errors import Terminal


def become_owner(settings: Settings) -> str:
    """Permanently become the user that owns `state_dir`; its name, or empty if we already are.

    Units are written by root alone: with a `systemd` target nothing changes. Raises Terminal.
    """
    if not (owner := other_owner(settings)):
        return ""
    try:
        user = pwd.getpwuid(owner)
    except KeyError:
        raise Terminal(
            f"state_dir: {settings.state_dir} belongs to unknown user {owner}; chown it to the daemon's user"
        ) from None
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(owner, owner, owner)
    os.environ["HOME"] = user.pw_dir
    return user.pw_name


def other_owner(settings: Settings) -> int:
    """The user to become instead of root; 0 if nothing changes."""
    if os.geteuid() != 0 or any(target.replica_user is not None for target in settings.targets):
        return 0
    try:
        return settings.state_dir.stat().st_uid
    except OSError:
        return 0
