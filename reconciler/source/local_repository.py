"""Where a repository on this machine keeps its references."""

from __future__ import annotations

import os
from pathlib import Path


def git_folder(path: Path) -> Path | None:
    """Where a repository keeps its references: itself if bare, `.git`, or what a `.git` file points to."""
    inner = path / ".git"
    if inner.is_file():
        inner = _follow(inner, "gitdir: ")
        common = inner / "commondir"
        return _follow(common, "") if common.is_file() else inner
    folder = inner if inner.is_dir() else path
    return folder if (folder / "HEAD").is_file() else None


def _follow(pointer: Path, prefix: str) -> Path:
    text = pointer.read_text("utf-8", "replace").strip().removeprefix(prefix)
    return Path(os.path.normpath(pointer.parent / text))
