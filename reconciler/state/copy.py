"""A copy of the state for read-only commands: history, mirror, and preflight verdicts."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from reconciler.config.settings import Settings
from reconciler.state.target_registry import TargetRegistry
from reconciler.system.file_stamps import stamp_of

HISTORY = "state.db"
_TRIES = 3


def copy_state(settings: Settings, scratch: Path) -> None:
    """Whatever cannot be read is left out: then it is looked up or asked for again."""
    _copy_history(settings.state_dir, scratch)
    _copy_folder(settings.state_dir / "git", scratch / "git")
    registry = TargetRegistry(settings.state_dir)
    for target in settings.targets:
        folder = registry.folder_of(target.name)
        _copy_folder(folder / "preflight", scratch / folder.name / "preflight")


def _copy_history(state: Path, scratch: Path) -> None:
    """First what was written last, and both once more where the daemon wrote meanwhile."""
    names = (f"{HISTORY}-wal", HISTORY)
    for _ in range(_TRIES):
        before = [stamp_of(state / name) for name in names]
        for name in names:
            with suppress(OSError):
                shutil.copyfile(state / name, scratch / name)
        if before == [stamp_of(state / name) for name in names]:
            return


def _copy_folder(source: Path, copy: Path) -> None:
    with suppress(OSError, shutil.Error):
        shutil.copytree(source, copy, symlinks=True)
