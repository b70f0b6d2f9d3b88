"""Replicas that would run as root: refused, unless the config allows it or only root can push.

A commit decides which code a replica runs (`--trust-remote-code` is enough), so anyone who may push would be root.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from reconciler.config.settings import HostSettings, Settings
from reconciler.errors import SettingsError
from reconciler.formats.git_address import parse_address, shown_address
from reconciler.host.staging.weights import is_replaceable
from reconciler.source.local_repository import git_folder
from reconciler.state.folder import other_owner

_PARTS_OF_GIT = ("", "objects", "refs", "refs/heads")


def refuse_root(settings: Settings) -> None:
    """Raises SettingsError, naming each target that would run replicas as root."""
    if found := list(root_refusals(settings)):
        raise SettingsError("\n".join(found))


def root_refusals(settings: Settings) -> Iterator[str]:
    """Why each of these targets is not driven."""
    if os.geteuid() != 0 or other_owner(settings):
        return
    for index, target in settings.numbered_hosts:
        if not target.allow_root and _runs_as_root(target) and not only_root_may_push(settings.source.url):
            how, fix = _remedy(target)
            yield (
                f"targets[{index}]: {target.name}: {how} would run replicas as root, and so any code pushed to "
                f"{shown_address(settings.source.url)}: {fix}, use kind: systemd with a user, or write allow_root: true"
            )


def _remedy(target: HostSettings) -> tuple[str, str]:
    """What in the config would run replicas as root, and what to do about it."""
    if target.replica_user is None:
        return f"kind {target.kind}", "run the daemon as another user (unprivileged.conf)"
    return f"user {target.replica_user}", "set another user"


def _runs_as_root(target: HostSettings) -> bool:
    if target.replica_user is None:
        return True
    try:
        return pwd.getpwnam(target.replica_user).pw_uid == 0
    except KeyError:
        return False


def only_root_may_push(url: str) -> bool:
    """Is it a repository on this host that no other user can write to, nor put another one in its place?"""
    path = parse_address(url).path
    if path is None:
        return False
    try:
        real = Path(os.path.realpath(git_folder(path) or path))
        # What is not there yet can be made by those who may write to what is.
        there = next(each for each in (real, *real.parents) if each.exists())
        parts = [there / part for part in _PARTS_OF_GIT if (there / part).exists()]
        return all(_is_roots_alone(part) for part in parts) and not is_replaceable(there) and _is_fixed(path)
    except OSError:
        return False


def _is_fixed(path: Path) -> bool:
    """Can no other user have the name lead elsewhere?"""
    return not path.exists() or not is_replaceable(path)


def _is_roots_alone(part: Path) -> bool:
    info = part.stat()
    return info.st_uid == 0 and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
