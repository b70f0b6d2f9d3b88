"""What `host install` does, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reconciler.errors import Terminal
from reconciler.host.install.root import UNIT, USERS, System
from reconciler.host.install.steps import Step, close_file, make_folder, write_file

CONFIG = "/etc/reconciler/config.yaml"
STATE = "/var/lib/reconciler"
CACHE = "/var/cache/reconciler"
"""Made by systemd for replicas."""
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
USERS_FILE = "/etc/sysusers.d/reconciler.conf"
_EXAMPLE_PROGRAM = "/opt/reconciler/bin/reconciler"


def install(system: System, start: bool) -> Iterator[Step]:
    """The steps to a daemon that runs now and after every boot. Raises Terminal."""
    yield write_file(system.at(USERS_FILE), ship("reconciler.sysusers.conf"), 0o644)
    make_users = ("systemd-sysusers", "reconciler.conf")
    what = f"make the users {', '.join(USERS)}"
    yield Step(what, system.users() != USERS, lambda: system.run(*make_users))
    yield make_folder(system.at("/etc/reconciler"), 0o755)
    yield make_folder(system.at(STATE), 0o700)
    yield write_file(system.at(CONFIG), ship("config.yaml"), 0o600, keep=True)
    unit = write_file(system.at(UNIT_FILE), _unit(system), 0o644)
    yield unit
    if system.is_live:
        stale = unit.needed or system.property("NeedDaemonReload") == "yes"
        yield Step("systemctl daemon-reload", stale, lambda: system.run("systemctl", "daemon-reload"))
    # Only now systemd knows of a drop-in that names another user. An older release, or an editor, may have left the
    # config open, and addresses in it may hold passwords.
    if (closing := close_file(system.at(CONFIG), system.daemon_user())).needed:
        yield closing
    yield Step(f"systemctl enable {UNIT}", not system.is_enabled(), lambda: system.run("systemctl", "enable", UNIT))
    if system.is_live and start and is_configured(system):
        yield _start(system, changed=unit.needed)


def is_configured(system: System) -> bool:
    """Has the config been edited? The one that we ship names a repository that does not exist."""
    config = system.at(CONFIG)
    return config.is_file() and config.read_bytes() != ship("config.yaml")


def _start(system: System, changed: bool) -> Step:
    """What serves goes on serving while a daemon is replaced."""
    is_active = system.property("ActiveState") == "active"
    verb = "restart" if is_active and changed else "start"
    return Step(f"systemctl {verb} {UNIT}", changed or not is_active, lambda: system.run("systemctl", verb, UNIT))


def _unit(system: System) -> bytes:
    return ship("reconciler.service").replace(_EXAMPLE_PROGRAM.encode(), system.program().encode())


def ship(name: str) -> bytes:
    """A file of deploy/systemd, from the installed package or the top of a checkout. Raises Terminal."""
    for folder in (Path(__file__).parent / "systemd", Path(__file__).parents[3] / "deploy" / "systemd"):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    raise Terminal(f"{name} is missing from this installation; install vllm-reconciler again")
