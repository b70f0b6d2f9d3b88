"""What a unit wrote, from the journal."""

from __future__ import annotations

from reconciler.engines.environment import SYSTEM_PATH
from reconciler.host.process.logs import clean_lines
from reconciler.system.programs import NoAnswer, run_program

_SECONDS = 10
_LONGEST = 10_000


def tail(unit: str, lines: int, since: float) -> tuple[str, ...]:
    """The last lines of a unit since a moment, oldest first; none when the journal cannot be read.

    What systemd itself says of the unit is among them: why a start failed may stand there only.
    """
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--unit={unit}", f"--since=@{int(since)}"]
    argv.append(f"--lines={min(lines, _LONGEST)}")
    try:
        done = run_program(argv, _SECONDS, SYSTEM_PATH)
    except NoAnswer:
        return ()
    return tuple(clean_lines(done.stdout))[-lines:]
