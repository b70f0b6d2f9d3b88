"""What is on disk about one model's files, written by the program and read by the daemon.

A folder of models holds one folder for each key, and in it: `lock`, held by the program while it runs; `state.json`;
`log`; `home/`, for what libraries keep; `unfinished/`, files that are being fetched; `<content>.partial/`, those that
are complete and verified; and in the end `<content>/`, all of them, read-only, under a name that their content decides.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from reconciler.formats.json_values import known_part
from reconciler.system.files import replace_file

STATE, LOCK, LOG, HOME = "state.json", "lock", "log", "home"
_LARGEST = 1 << 16
# One name, and none of those above it.
_CONTENT = re.compile(r"[0-9A-Za-z][\w-]{0,199}|")
_CODE = re.compile(r"[A-Za-z]{0,50}")
# More bytes than any disk has, and later than any clock.
_MOST = 1 << 62
_LONGEST_MESSAGE = 4000
RUNNING, STAGED, FAILED, REFUSED = "running", "staged", "failed", "refused"


@dataclass(frozen=True, slots=True)
class State:
    """How far it is. `total` is None if unknown. `failures` counts those in a row without a new byte.

    `content` names the folder once all is there; `code` and `message` say why it is not.
    """

    fetch: str
    done: int = 0
    total: int | None = None
    failures: int = 0
    at: float = 0.0
    content: str = ""
    code: str = ""
    message: str = ""


def read_state(folder: Path) -> State | None:
    """None where there is none that can be understood: then the files are fetched again.

    Its writer may be another user, and no kind of file there can block us.
    """
    try:
        state = State(**known_part(State, json.loads(_read(folder / STATE))))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return replace(state, message=_printable(state.message)) if _is_sensible(state) else None


def write_state(folder: Path, state: State) -> None:
    """For the other side to read, which may be another user, and reads only so much. Raises OSError."""
    short = replace(state, message=state.message[:_LONGEST_MESSAGE])
    replace_file(folder / STATE, json.dumps(asdict(short)).encode() + b"\n", 0o644)


def _read(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: is not a file")
        return file.read(_LARGEST)


def _is_sensible(state: State) -> bool:
    texts = (state.fetch, state.content, state.code, state.message)
    counts = (state.done, state.failures, 0 if state.total is None else state.total)
    return (
        all(isinstance(each, str) for each in texts)
        and all(type(each) is int and 0 <= each < _MOST for each in counts)
        and isinstance(state.at, (int, float))
        and 0 <= state.at < _MOST
        and _CONTENT.fullmatch(state.content) is not None
        and _CODE.fullmatch(state.code) is not None
    )


def _printable(text: str) -> str:
    """For logs, terminals and forges: none of them takes everything that a source may call its files."""
    return "".join(each if each.isprintable() else " " for each in text[:_LONGEST_MESSAGE])
