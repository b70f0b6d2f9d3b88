"""Where `state_dir` is: refused where another user could replace records, or the mirror of git.

Units, commands and process ids are read from there, so who can write there controls what the daemon runs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from reconciler.config.settings import Settings
from reconciler.errors import SettingsError


def refuse_open_state(settings: Settings) -> None:
    """Raises SettingsError, naming the folder that lets others in, and the fix."""
    for what, fix in faults(settings.state_dir):
        raise SettingsError(f"state_dir: {what}; {fix}")


def faults(folder: Path) -> Iterator[tuple[str, str]]:
    """What lets another user write there or replace it, by its name or by where links lead; each with its fix."""
    real = folder.resolve()
    for each in dict.fromkeys((folder, *folder.parents, real, *real.parents)):
        try:
            info = each.lstat()
        except OSError:
            # It is made by us, in a folder that is looked at.
            continue
        yield from _faults(each, info, is_above=each not in (folder, real))


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
