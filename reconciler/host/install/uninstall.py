"""The steps of `host uninstall`, in order. Models keep serving unless --workloads is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reconciler.config.settings import Settings
from reconciler.errors import Retryable, SettingsError, Terminal
from reconciler.host.install.deleting import delete_folder, holds_files
from reconciler.host.install.install import CACHE, CONFIG, STATE, UNIT_FILE, USERS_FILE
from reconciler.host.install.root import UNIT, System
from reconciler.host.install.steps import Step, delete_file
from reconciler.host.inventory import Inventory
from reconciler.host.staging.garbage import is_garbage
from reconciler.host.teardown import end_workloads, folders_of, is_fetching
from reconciler.model.model_sources import is_key
from reconciler.system.unix_sockets import listener_pid

_ENDS = "reconciler host uninstall --workloads ends them"
_MARKS = ("state.db", "git")


def uninstall(system: System, *, workloads: bool, purge: bool) -> Iterator[Step]:
    """The steps to a host without the daemon. `purge` takes config, state and caches as well. Raises ReconcileError."""
    settings = _settings(system, needed=workloads)
    if system.is_live:
        runs = system.property("ActiveState") not in ("", "inactive", "failed")
        yield Step(f"systemctl stop {UNIT}", runs, lambda: system.run("systemctl", "stop", UNIT))
    yield Step(f"systemctl disable {UNIT}", system.is_enabled(), lambda: system.run("systemctl", "disable", UNIT))
    if workloads and settings is not None:
        what = "end all replicas and the proxy, and what is fetched for them"
        yield Step(what, _has_workloads(settings), lambda: _end(settings))
    yield delete_file(system.at(UNIT_FILE))
    if system.is_live:
        loaded = system.property("LoadState") == "loaded"
        yield Step("systemctl daemon-reload", loaded, lambda: system.run("systemctl", "daemon-reload"))
    if purge:
        yield from _purge(system, settings)


def what_is_left(system: System, purged: bool) -> list[str]:
    """What an uninstall does not touch, each with the way to be rid of it."""
    left = []
    settings = _settings(system, needed=False)
    if settings is not None and _has_workloads(settings):
        left.append(f"replicas and the proxy, which serve on, or what is fetched for them; {_ENDS}")
    ours = (system.at("/etc/reconciler"), _state(system, settings), system.at(CACHE))
    kept = [path for path in ours if path.exists() and not purged]
    left += [f"{path}; reconciler host uninstall --purge deletes it" for path in kept]
    drop_ins = system.at(f"{UNIT_FILE}.d")
    left += [f"{drop_ins}, which is yours"] if drop_ins.exists() else []
    left += [f"the user {user}; userdel {user}" for user in system.users()]
    return left


def _settings(system: System, needed: bool) -> Settings | None:
    """None without a config that can be used, or for a machine that does not run."""
    if not system.is_live:
        return None
    try:
        return Settings.load(Path(CONFIG))
    except SettingsError as error:
        if needed and Path(CONFIG).exists():
            raise Terminal(f"{error}; without it the replicas of this host are not known") from None
        return None


def _state(system: System, settings: Settings | None) -> Path:
    return settings.state_dir if settings else system.at(STATE)


def _has_workloads(settings: Settings) -> bool:
    folders = [folder for folder, _ in folders_of(settings)]
    serves = any(Inventory(folder).replicas() or (folder / "proxy" / "process.json").exists() for folder in folders)
    return serves or is_fetching(settings)


def _end(settings: Settings) -> None:
    if daemon := listener_pid(settings.socket_path):
        raise Terminal(f"a daemon runs outside systemd, pid {daemon}, and would start them again: stop it first")
    if left := end_workloads(settings):
        raise Retryable(f"{'; '.join(left)}; stop them manually, then run this again")


def _purge(system: System, settings: Settings | None) -> Iterator[Step]:
    state, config = _state(system, settings), system.at("/etc/reconciler")
    if state.exists() and not any((state / mark).exists() for mark in _MARKS) and holds_files(state):
        raise Terminal(f"{state} does not look like the daemon's state; delete it manually if it is not needed")
    for folder in (state, system.at(CACHE), config):
        yield delete_folder(folder)
    for model in _models_elsewhere(settings) if settings else ():
        yield delete_folder(model)
    yield delete_file(system.at(USERS_FILE))


def _models_elsewhere(settings: Settings) -> list[Path]:
    """Outside of our state, others may keep files next to ours."""
    folders = [target.storage.folder for target in settings.hosts if target.storage.folder]
    found = (each for folder in folders if folder.is_dir() for each in folder.iterdir())
    return [each for each in found if is_key(each.name) or is_garbage(each.name)]
