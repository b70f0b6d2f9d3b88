"""The program writes into its own folders and nowhere else, whatever a source calls its files.

The libraries that it leaves the work to join names from a source to paths as they are; and not everywhere is it in a
sandbox that knows no other folder.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from reconciler.storage.download.failures import Refused

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Where the path that is made stands among what Python tells of a call.
_MADE = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}


_PR_SET_DUMPABLE = 4


def close_memory() -> None:
    """Other processes of this user, which fetch for others, see nothing of what we are told."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def confine(*folders: Path) -> None:
    """From now on, and for ever, refuse to write outside of `folders`, temporary files and devices."""
    own = tuple(os.path.realpath(each) for each in (*map(str, folders), tempfile.gettempdir(), "/dev"))

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path = arguments[0] if arguments[2] & _WRITING else None
        elif event in _MADE:
            path = arguments[_MADE[event]]
        else:
            return
        if isinstance(path, (str, bytes)) and not _is_below(os.fsdecode(path), own):
            raise Refused("UnsafePath", f"{os.fsdecode(path)!a}: would lie outside of the model's folder")

    sys.addaudithook(look)


def _is_below(path: str, own: tuple[str, ...]) -> bool:
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if os.path.islink(real):
        real = os.path.realpath(real)
    # Python itself keeps what it compiled beside its libraries.
    return any(real == each or real.startswith(f"{each}/") for each in own) or "/__pycache__" in real
