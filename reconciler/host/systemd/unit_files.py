"""The files of units: manual changes to them, and their deletion."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.host.systemd.systemd_api import Run, Systemd
from reconciler.system.file_stamps import Stamp, stamp_of
from reconciler.system.files import sync_folder
from reconciler.system.os_errors import cannot

UNITS = Path("/etc/systemd/system")
WANTS = UNITS / "multi-user.target.wants"


class Drifts:
    """Compares units with what we wrote. Costs a few `stat` for an unchanged unit."""

    def __init__(self) -> None:
        # Those that were last seen to be as we wrote them.
        self._seen: dict[str, tuple[Stamp, Stamp]] = {}

    def of(self, path: Path, ours: Path) -> str:
        """Is a unit's file still like our copy of it, and will a reboot start it? What is not so, or nothing.

        Raises Retryable when that is unknown.
        """
        if not os.path.lexists(WANTS / path.name):
            return f"{path.name} was disabled manually: a reboot would not start it"
        if os.path.lexists(_drop_ins(path)):
            return f"{_drop_ins(path)} was added manually"
        stamps = stamp_of(path), stamp_of(ours)
        if stamps[1] is None or self._seen.get(path.name) == stamps:
            return ""
        if stamps[0] is None:
            return f"{path} was deleted manually"
        if _differ(path, ours):
            return f"{path} was edited manually"
        self._seen[path.name] = stamps
        return ""


def was_written_after(path: Path, run: Run) -> bool:
    """Was the unit's file written, or put back, after this process was started?"""
    began = time.time() - (time.monotonic() - run.started / 1e6)
    try:
        return path.stat().st_ctime > began
    except OSError:
        return True


def delete_unit(systemd: Systemd, name: str) -> None:
    """Its file, its link and its drop-ins. Raises Retryable."""
    systemd.uninstall(name)
    try:
        (UNITS / name).unlink(missing_ok=True)
        delete_drop_ins(UNITS / name)
    except OSError as error:
        raise Retryable(cannot(error, UNITS / name, "deleted", "run us as root")) from None
    sync_links()
    systemd.reload()


def sync_links() -> None:
    """What systemd links to be started at a boot, and what not any more, survives a power cut. Raises Retryable."""
    try:
        for folder in (WANTS, UNITS):
            with suppress(FileNotFoundError):
                sync_folder(folder)
    except OSError as error:
        raise Retryable(cannot(error, UNITS, "written", "check the disk")) from None


def _drop_ins(path: Path) -> Path:
    """Where `systemctl edit` puts what it adds to a unit. What is meant for all replicas belongs elsewhere."""
    return path.with_name(f"{path.name}.d")


def delete_drop_ins(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(_drop_ins(path))


def _differ(path: Path, ours: Path) -> bool:
    try:
        return path.read_bytes() != ours.read_bytes()
    except OSError as error:
        # One of them may have gone since we looked: the next pass sees which.
        raise Retryable(cannot(error, error.filename, "read")) from None
