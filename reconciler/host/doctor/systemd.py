"""systemd, and the daemon as a unit of it."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import assert_never

from reconciler.config.settings import HostSettings, Settings
from reconciler.host.doctor.ask import ask
from reconciler.host.root_replicas import root_refusals
from reconciler.report.findings import CheckResult, ok, problem, warning

_BOOTED = Path("/run/systemd/system")
_CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
_UNIT = "reconciler.service"
# The first that hands credentials to units.
_OLDEST = 247


def check_systemd(settings: Settings | None) -> Iterator[CheckResult]:
    """Process 1 is systemd, it knows the daemon, and can limit CPU and memory."""
    needed = settings is not None and any(map(_needs_systemd, settings.hosts))
    if not _BOOTED.is_dir():
        name = Path("/proc/1/comm").read_text().strip()
        if needed:
            yield problem("systemd", f"process 1 is {name}, not systemd", "use kind: process")
        else:
            yield ok("systemd", f"process 1 is {name}, not systemd: start the daemon with the host's own init")
        return
    found = re.search(r"systemd (\d+)", ask(("systemctl", "--version")).text)
    version = int(found[1]) if found else 0
    if needed and version < _OLDEST:
        yield problem("systemd", f"systemd {version} is too old for units of replicas", f"use {_OLDEST} or newer")
    else:
        yield ok("systemd", f"systemd {version} is process 1")
    yield _unit()
    if needed:
        yield _connection()
        yield from _bus()
        yield from _controllers()


def _needs_systemd(target: HostSettings) -> bool:
    match target.kind:
        case "process":
            return False
        case "systemd":
            return True
        case _:
            assert_never(target.kind)


def check_user(target: HostSettings, settings: Settings) -> Iterator[CheckResult]:
    """Replicas do not run as root."""
    alone = settings.model_copy(update={"targets": (target,)})
    for refusal in root_refusals(alone):
        yield problem("user", refusal.partition(": ")[2], "else the daemon does not start")
        return
    match target.kind:
        case "process":
            if os.geteuid() == 0:
                fix = "run the daemon as another user (deploy/systemd/unprivileged.conf), or use kind: systemd"
                yield warning("user", f"{target.name}: kind process: replicas run as root, as the daemon does", fix)
        case "systemd":
            yield from _unit_user(target)
        case _:
            assert_never(target.kind)


def _unit_user(target: HostSettings) -> Iterator[CheckResult]:
    if os.geteuid() != 0:
        fix = "run this and the daemon as root; replicas run as targets[].user"
        yield problem("user", f"{target.name}: kind systemd needs root: it writes units", fix)
    try:
        pwd.getpwnam(target.user)
    except KeyError:
        fix = f"reconciler host install, or useradd --system {target.user}"
        yield problem("user", f"{target.name}: no user {target.user} to run replicas", fix)
    else:
        yield ok("user", f"{target.name}: replicas run as {target.user}")


def _controllers() -> Iterator[CheckResult]:
    """Without them, units have the same shares whatever their resources say."""
    try:
        there = _CONTROLLERS.read_text().split()
    except OSError:
        there = []
    missing = [name for name in ("cpu", "memory") if name not in there]
    if missing:
        fix = "boot with systemd.unified_cgroup_hierarchy=1"
        yield warning("systemd", f"no cgroup controller for {' and '.join(missing)}: replicas are not kept apart", fix)


def _connection() -> CheckResult:
    """The daemon reaches systemd: by the private socket, or by the system bus."""
    # Imported late: who runs child processes needs no D-Bus.
    from reconciler.host.systemd.bus import NoConnection
    from reconciler.host.systemd.systemd_api import Systemd

    with closing(Systemd()) as systemd:
        try:
            systemd.units(_UNIT)
        except NoConnection as error:
            fix = "run this as root where /run/systemd/private is seen, or apt-get install dbus"
            return problem("systemd", f"cannot be reached: {error}", fix)
        return ok("systemd", f"asked over D-Bus at {systemd.socket}")


def _bus() -> Iterator[CheckResult]:
    """Who starts a unit and waits for its end must be on the bus, root or not: so engines are asked."""
    from reconciler.host.systemd.bus import SYSTEM, Bus, NoConnection

    try:
        Bus(lambda path, name: None, SYSTEM).close()
    except NoConnection as error:
        fix = "apt-get install dbus && systemctl start dbus.socket"
        yield problem("systemd", f"preflights are not possible: {error}", fix)


def _unit() -> CheckResult:
    """The daemon's unit is there, comes back after a reboot, and is up."""
    state = properties(
        "LoadState", "UnitFileState", "ActiveState", "SubState", "NeedDaemonReload", "InactiveExitTimestampMonotonic"
    )
    if state.get("LoadState") != "loaded":
        return warning("systemd", f"{_UNIT} is {state.get('LoadState') or 'unknown'}", "reconciler host install")
    if state["NeedDaemonReload"] == "yes":
        return warning(
            "systemd", f"{_UNIT} was changed on disk", "systemctl daemon-reload, then systemctl restart " + _UNIT
        )
    if state["ActiveState"] == "failed" or state["SubState"] == "auto-restart":
        return problem("systemd", f"{_UNIT} failed", f"see journalctl -u {_UNIT}; then systemctl start {_UNIT}")
    message = f"{_UNIT} is {state['UnitFileState']} and {state['ActiveState']} ({state['SubState']})"
    if state["UnitFileState"] != "enabled":
        return warning("systemd", message, f"systemctl enable {_UNIT}: else nothing follows git after a reboot")
    if state["ActiveState"] == "inactive" and state["InactiveExitTimestampMonotonic"] == "0":
        return ok("systemd", f"{message}, but was not started yet: reconciler host install does that")
    if state["ActiveState"] not in ("active", "activating", "reloading"):
        return warning("systemd", message, f"systemctl start {_UNIT}")
    return ok("systemd", message)


def properties(*names: str) -> dict[str, str]:
    """systemd's properties of the daemon's unit; empty if it knows none."""
    answer = ask(("systemctl", "show", "--property", ",".join(names), _UNIT))
    lines = (line.partition("=") for line in answer.text.splitlines())
    return dict.fromkeys(names, "") | {name: value for name, _, value in lines}
