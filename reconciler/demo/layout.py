"""`reconciler init`: a repository of one's own, begun with the layout that ships with the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from reconciler.demo.repository import find_layout
from reconciler.errors import Terminal


def begin_repository(folder: Path) -> None:
    """Fill a folder that is new, empty, or a clone without files. Raises Terminal for any other."""
    layout = find_layout()
    try:
        if there := sorted(path.name for path in folder.iterdir() if path.name != ".git"):
            raise Terminal(f"{folder} is not empty ({', '.join(there[:3])}); name a new folder")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Terminal(f"{folder}: {error.strerror}; name a new folder") from None
    try:
        shutil.copytree(layout, folder, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise Terminal(f"{folder} cannot be written: {error}; remove what is there and try again") from None
