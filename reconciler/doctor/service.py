"""systemd, and the daemon as a unit of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from reconciler.doctor.ask import ask
from reconciler.doctor.finding import Finding, ok, problem, warning

_BOOTED = Path("/run/systemd/system")
_UNIT = "reconciler.service"


def check_systemd() -> Iterator[Finding]:
    """Process 1 is systemd, and knows the daemon."""
    if not _BOOTED.is_dir():
        name = Path("/proc/1/comm").read_text().strip()
        yield warning(
            "systemd", f"process 1 is {name}, not systemd", "start the daemon by other means after every boot"
        )
        return
    version = re.search(r"systemd (\d+)", ask(("systemctl", "--version")).text)
    yield ok("systemd", f"systemd {version[1] if version else 'of unknown version'} is process 1")
    yield _unit()


def _unit() -> Finding:
    """The daemon's unit is there, comes back after a reboot, and is up."""
    state = _properties("LoadState", "UnitFileState", "ActiveState", "SubState", "NeedDaemonReload")
    if state.get("LoadState") != "loaded":
        return warning("systemd", f"{_UNIT} is {state.get('LoadState') or 'unknown'}", "reconciler host install")
    if state["NeedDaemonReload"] == "yes":
        return warning(
            "systemd", f"{_UNIT} was changed on disk", "systemctl daemon-reload, then systemctl restart " + _UNIT
        )
    if state["ActiveState"] == "failed":
        return problem("systemd", f"{_UNIT} failed", f"journalctl -u {_UNIT} says why; then systemctl start {_UNIT}")
    says = f"{_UNIT} is {state['UnitFileState']} and {state['ActiveState']} ({state['SubState']})"
    if state["UnitFileState"] != "enabled":
        return warning("systemd", says, f"systemctl enable {_UNIT}: else nothing follows git after a reboot")
    if state["ActiveState"] != "active":
        return warning("systemd", says, f"systemctl start {_UNIT}")
    return ok("systemd", says)


def _properties(*names: str) -> dict[str, str]:
    answer = ask(("systemctl", "show", "--property", ",".join(names), _UNIT))
    lines = (line.partition("=") for line in answer.text.splitlines())
    return dict.fromkeys(names, "") | {name: value for name, _, value in lines}
