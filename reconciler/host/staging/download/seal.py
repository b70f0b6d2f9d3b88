"""The last step: what was fetched becomes read-only, survives a power cut, and gets its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from reconciler.host.staging.download.failures import DownloadRefused
from reconciler.model import ReasonCode
from reconciler.system.files import sync_folder


def seal(work: Path, target: Path) -> None:
    """Put a complete folder in place as a whole. Raises Refused, OSError."""
    if target.is_dir():
        # The same content was there already.
        shutil.rmtree(work)
        return
    root = work.resolve()
    for folder, names, files in os.walk(work, topdown=False):
        for name in (*files, *names):
            _close(Path(folder, name), root)
        sync_folder(Path(folder))
        os.chmod(folder, 0o555)  # noqa: S103 - for the user that serves it
    os.rename(work, target)
    sync_folder(target.parent)


def _close(path: Path, root: Path) -> None:
    if path.is_symlink():
        # Not by `resolve`, which raises for a link to itself.
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise DownloadRefused(
                ReasonCode.UNSAFE_PATH, f"{path.name!a}: a link that points outside of the model's folder"
            )
    elif path.is_file():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o444)
        finally:
            os.close(descriptor)
