"""Folders: our own, those of models, and those with secrets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from reconciler.config.settings import HostSettings, Settings
from reconciler.host.doctor.ask import ask, user_of
from reconciler.report.findings import CheckResult, ok, problem, warning
from reconciler.secrets.folder import check_folder
from reconciler.state.folder import faults
from reconciler.state.target_registry import TargetRegistry

_GIB = 1 << 30
_TOO_LITTLE, _LITTLE = 1 * _GIB, 10 * _GIB


def check_config(path: Path) -> Iterator[CheckResult]:
    """Addresses and variables in it may be secrets."""
    if path.stat().st_mode & 0o077:
        yield warning(
            "config", f"{path}: other users may read it", f"chmod 600 {path}; reconciler host install does so"
        )


def check_state(settings: Settings) -> Iterator[CheckResult]:
    """state_dir is owned by the daemon's user, closed to others, on a disk with free space."""
    folder = settings.state_dir
    if not folder.exists():
        there = _nearest(folder)
        if os.access(there, os.W_OK):
            yield ok("state", f"state_dir: {folder} is not there yet; the daemon makes it")
        else:
            yield problem("state", f"state_dir: {folder} does not exist, and {there} is not writable", _make(folder))
        return
    info = folder.stat()
    if not folder.is_dir():
        yield problem("state", f"state_dir: {folder} is not a folder", "choose another path")
    elif info.st_uid != os.geteuid():
        yield problem(
            "state", f"state_dir: {folder} belongs to user {info.st_uid}, we are {os.geteuid()}", _own(folder)
        )
    elif not os.access(folder, os.W_OK):
        yield problem("state", f"state_dir: {folder} cannot be written to", "see whether its disk is mounted read-only")
    elif fault := next(faults(folder), None):
        yield problem("state", f"state_dir: {fault[0]}", fault[1])
    elif info.st_mode & 0o077:
        yield warning("state", f"state_dir: other users may enter {folder}", f"chmod 700 {folder}")
    else:
        yield ok("state", f"state_dir: only this user can access {folder}")
    yield from _room("state", "state_dir", folder, little=_TOO_LITTLE)


def check_folders(target: HostSettings, settings: Settings) -> Iterator[CheckResult]:
    """Folders of this target that the config names."""
    for name, folder in target.volumes.items():
        yield _volume(target, name, folder, settings)
    models = target.storage.folder or TargetRegistry(settings.state_dir).folder_of(target.name) / "models"
    yield from _room("folders", f"{target.name}: fetched models", _nearest(models))
    if target.secrets.directory is not None:
        check_folder(target.secrets.directory)
        yield ok("folders", f"{target.name}: secrets.directory: {target.secrets.directory} is closed to others")


def _volume(target: HostSettings, name: str, folder: Path, settings: Settings) -> CheckResult:
    where = f"{target.name}: volumes.{name}: {folder}"
    if not folder.is_dir():
        return problem("folders", f"{where} is not a folder", f"create or mount it; pvc://{name} means this folder")
    if folder.resolve().is_relative_to(settings.state_dir.resolve()):
        return problem("folders", f"{where} is in state_dir, which is hidden from services", "keep models elsewhere")
    user = user_of(target)
    if not ask(("test", "-r", str(folder), "-a", "-x", str(folder)), user).succeeded:
        who = user.pw_name if user else "we"
        return problem("folders", f"{where} cannot be read by {who}", f"chmod a+rx {folder}, and the folders above it")
    return ok("folders", f"{where} is there")


def _room(topic: str, what: str, folder: Path, little: int = _LITTLE) -> Iterator[CheckResult]:
    free = shutil.disk_usage(folder).free
    message = f"{what}: {free / _GIB:.1f} GiB free at {folder}"
    if free < _TOO_LITTLE:
        yield problem(topic, message, "make room: records and the mirror of git must be written")
    elif free < little:
        yield warning(topic, message, "make room: models are large")
    else:
        yield ok(topic, message)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _make(folder: Path) -> str:
    return f"install -d -m 0700 {folder}, as the daemon's user; or reconciler host install"


def _own(folder: Path) -> str:
    return f"run this as the daemon's user; or chown -R that user {folder}"
