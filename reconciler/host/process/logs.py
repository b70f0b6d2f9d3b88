"""What a replica wrote: a file that its processes append to, kept from filling the disk, or a unit's journal."""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path

from reconciler.engines.environment import SYSTEM_PATH
from reconciler.system.programs import NoAnswer, run_program

LIMIT_BYTES = 32 << 20
_TAIL_BYTES = 256 << 10
_PIECE = 1 << 20
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


def open_log(path: Path) -> int:
    """A descriptor that always appends, so that the file may be cut while it is written."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def tail(path: Path, lines: int) -> tuple[str, ...]:
    """The last lines, oldest first, without colours and control characters; none if there is no log."""
    wanted: deque[str] = deque(maxlen=lines)
    for part in (_previous(path), path):
        wanted.extend(_last_lines(part))
    return tuple(wanted)


def trim(path: Path, limit: int = LIMIT_BYTES) -> bool:
    """Move the end of a log that grew beyond the limit to `log.1`; says whether it did.

    So a replica keeps about twice the limit. What is written between the copy and the cut is lost: a few lines. Of one
    that writes faster than it is copied, no more than four times the limit is copied.
    """
    try:
        size = path.stat().st_size
        if size <= limit:
            return False
        with open(path, "rb") as log, open(_previous(path), "wb") as kept:
            most = min(size, 4 * limit)
            log.seek(size - most)
            for left in range(most, 0, -_PIECE):
                kept.write(log.read(min(left, _PIECE)))
        os.truncate(path, 0)
    except OSError:
        # A full disk is no reason to disturb what serves; the next look tries again.
        return False
    return True


def _last_lines(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - _TAIL_BYTES))
            data = file.read(_TAIL_BYTES)
    except OSError:
        return []
    # The first line may have been cut, and what follows the last line break is not there yet.
    return clean_lines(data.partition(b"\n")[2] if start else data)


def clean_lines(data: bytes) -> list[str]:
    """The non-empty lines, without colours and control characters."""
    text = data.decode(errors="replace").replace("\r\n", "\n")
    found = (_CONTROL.sub("", line.rpartition("\r")[2]) for line in text.split("\n"))
    return [line for line in found if line.strip()]


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


_JOURNAL_SECONDS = 10
_LONGEST = 10_000


def tail_journal(unit: str, lines: int, since: float) -> tuple[str, ...]:
    """The last lines of a unit since a moment, oldest first; none when the journal cannot be read.

    What systemd itself says of the unit is among them: why a start failed may stand there only.
    """
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--unit={unit}", f"--since=@{int(since)}"]
    argv.append(f"--lines={min(lines, _LONGEST)}")
    try:
        done = run_program(argv, _JOURNAL_SECONDS, SYSTEM_PATH)
    except NoAnswer:
        return ()
    return tuple(clean_lines(done.stdout))[-lines:]
