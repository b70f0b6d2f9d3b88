"""`state_dir`: who owns it, whether others can write to it, and a copy of it for commands that only look.

Units, commands and process ids are read from there, so who can write there controls what the daemon runs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from reconciler.config.settings import Settings
from reconciler.errors import SettingsError, Terminal
from reconciler.state.target_registry import TargetRegistry
from reconciler.system.files import stamp_of


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
    if os.geteuid() != 0 or any(target.replica_user is not None for target in settings.hosts):
        return 0
    try:
        return settings.state_dir.stat().st_uid
    except OSError:
        return 0


def refuse_open_state(settings: Settings) -> None:
    """Raises SettingsError, naming the folder that lets others in, and the fix."""
    for what, fix in faults(settings.state_dir):
        raise SettingsError(f"state_dir: {what}; {fix}")


def faults(folder: Path) -> Iterator[tuple[str, str]]:
    """What lets another user write there or replace it, by its name or by where links lead; each with its fix."""
    real = folder.resolve()
    for each in dict.fromkeys((folder, real) if _is_in_pod() else (folder, *folder.parents, real, *real.parents)):
        try:
            info = each.lstat()
        except OSError:
            # It is made by us, in a folder that is looked at.
            continue
        yield from _faults(each, info, is_above=each not in (folder, real))


def _is_in_pod() -> bool:
    """There nobody else has an account, and the kubelet lets everyone write to an empty volume."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _faults(folder: Path, info: os.stat_result, is_above: bool) -> Iterator[tuple[str, str]]:
    if _is_open(info, is_above):
        fix = f"look whether anything in it is not yours, then run: chmod o-w {folder}"
        yield f"every user of this host may write to {folder}", fix
    # An ordinary user who keeps its folder in another's does so at its own risk; root would hand its powers over.
    if os.geteuid() == 0 and info.st_uid != 0:
        fix = "name a folder of root's, such as /var/lib/reconciler" if is_above else f"run: chown root {folder}"
        yield f"{folder} belongs to user {info.st_uid}, which could make the daemon run anything as root", fix


def _is_open(info: os.stat_result, is_above: bool) -> bool:
    """In a sticky folder above, such as /tmp, users can only move their own files."""
    is_kept = stat.S_ISLNK(info.st_mode) or (is_above and info.st_mode & stat.S_ISVTX)
    return bool(info.st_mode & stat.S_IWOTH) and not is_kept


HISTORY = "state.db"
APPLIED = "applied.json"
"""What is remembered of objects on a cluster."""
_TRIES = 3


def copy_state(settings: Settings, scratch: Path, *, is_kept: bool = False) -> None:
    """Whatever cannot be read is left out: then it is looked up or asked for again.

    A scratch folder that is kept has a mirror and verdicts of its own, and is only told what was accepted.
    """
    _copy_history(settings.state_dir, scratch)
    registry = TargetRegistry(settings.state_dir)
    if is_kept:
        _copy_file(settings.state_dir / "git" / "accepted.json", scratch / "git")
    else:
        _copy_folder(settings.state_dir / "git", scratch / "git")
        for target in settings.targets:
            folder = registry.folder_of(target.name)
            _copy_folder(folder / "preflight", scratch / folder.name / "preflight")
    for cluster in settings.clusters:
        folder = registry.folder_of(cluster.name)
        _copy_file(folder / APPLIED, scratch / folder.name)


def _copy_history(state: Path, scratch: Path) -> None:
    """First what was written last, and both once more where the daemon wrote meanwhile."""
    names = (f"{HISTORY}-wal", HISTORY)
    for name in (*names, f"{HISTORY}-shm"):
        # Of an earlier copy, whose parts would not fit to these.
        (scratch / name).unlink(missing_ok=True)
    for _ in range(_TRIES):
        before = [stamp_of(state / name) for name in names]
        for name in names:
            with suppress(OSError):
                shutil.copyfile(state / name, scratch / name)
        if before == [stamp_of(state / name) for name in names]:
            return


def _copy_file(source: Path, folder: Path) -> None:
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(source, folder / source.name)


def _copy_folder(source: Path, copy: Path) -> None:
    with suppress(OSError, shutil.Error):
        shutil.copytree(source, copy, symlinks=True)
