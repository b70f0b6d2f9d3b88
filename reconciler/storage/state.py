"""What is on disk about one model's files, written by the program and read by the daemon.

A folder of models holds one folder for each key, and in it: `lock`, held by the program while it runs; `state.json`;
`log`; `home/`, for what libraries keep; `unfinished/`, files that are being fetched; `<content>.partial/`, those that
are complete and verified; and in the end `<content>/`, all of them, read-only, under a name that their content decides.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from reconciler.files import replace_file

STATE, LOCK, LOG, HOME = "state.json", "lock", "log", "home"
RUNNING, STAGED, FAILED, REFUSED = "running", "staged", "failed", "refused"


@dataclass(frozen=True, slots=True)
class State:
    """How far it is. `total` is None where nobody tells. `failures` counts those in a row without a new byte.

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
    """None where there is none that can be understood: then the files are fetched again."""
    try:
        return State(**json.loads((folder / STATE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_state(folder: Path, state: State) -> None:
    """Raises OSError."""
    replace_file(folder / STATE, json.dumps(asdict(state)).encode() + b"\n")
