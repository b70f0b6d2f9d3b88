"""Ending everything that a daemon started, once it does not run any more. Requests that run are cut."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from reconciler.config.listen import parse_listen
from reconciler.config.settings import Settings, TargetSettings
from reconciler.errors import ReconcileError
from reconciler.host.backends import make_fetcher, make_images, make_supervisor
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.routing.ports import is_free
from reconciler.host.staging.stager import Stager
from reconciler.host.supervisor import Supervisor
from reconciler.model import Fetch
from reconciler.secrets import NO_SECRETS
from reconciler.state.target_registry import TargetRegistry

_SECONDS = 20.0


def end_workloads(settings: Settings) -> list[str]:
    """End all replicas, fetches, pulls and proxies. Returns what is left, in words."""
    left: list[str] = []
    for folder, target in folders_of(settings):
        _end_fetches(folder, target)
        left += _end_replicas(folder, target)
        left += end_proxy(folder, target)
    return left


def is_fetching(settings: Settings) -> bool:
    """Is a model being fetched or an image pulled? Raises Retryable."""
    return any(_is_fetching(folder, target) for folder, target in folders_of(settings))


def folders_of(settings: Settings) -> list[tuple[Path, TargetSettings]]:
    """Every target with its folder, also those that were taken out of the config. Raises Retryable."""
    registry = TargetRegistry(settings.state_dir)
    found = [(registry.folder_of(target.name), target) for target in settings.targets]
    left = ((one.folder, one.target.config) for one in registry.leftovers(settings))
    # What is left may hold the address of another.
    return [(folder, target) for folder, target in left if target is not None] + found


def _is_fetching(folder: Path, target: TargetSettings) -> bool:
    with _stager(folder, target) as stager:
        if any(each.fetch is Fetch.RUNNING for each in stager.look().values()):
            return True
    images = make_images(target, folder)
    return images is not None and images.has_scratch()


def _stager(folder: Path, target: TargetSettings) -> closing[Stager]:
    return closing(
        Stager(target.storage, folder / "models", make_fetcher(target, folder), lambda: NO_SECRETS, lambda: None)
    )


def _end_fetches(folder: Path, target: TargetSettings) -> None:
    with _stager(folder, target) as stager:
        stager.end_all()
    if images := make_images(target, folder):
        images.end_all()


def _end_replicas(folder: Path, target: TargetSettings) -> list[str]:
    inventory = Inventory(folder)
    supervisor, _ = make_supervisor(target, inventory, Gpus(()))
    try:
        supervisor.recover()
        deadline = time.monotonic() + _SECONDS
        while left := _end_once(inventory, supervisor):
            if time.monotonic() > deadline:
                return left
            time.sleep(0.1)
    finally:
        supervisor.close()
    return []


def _end_once(inventory: Inventory, supervisor: Supervisor) -> list[str]:
    """Kill and forget every replica; returns what resisted, in words."""
    left = []
    for record in inventory.replicas():
        try:
            supervisor.stop(record, force=True)
            supervisor.remove(inventory.replica(record.id) or record)
        except ReconcileError as error:
            left.append(str(error))
    return left


def end_proxy(folder: Path, target: TargetSettings) -> list[str]:
    """End it for good. Returns what is left, in words."""
    if target.kind == "systemd":
        from reconciler.host.systemd.drain import DrainUnit
        from reconciler.host.systemd.proxy import ProxyUnit
        from reconciler.host.systemd.ways import AnyManager

        # First the units: systemd would start it again.
        seconds = target.rollout.shutdown_budget
        with closing(AnyManager()) as manager:
            DrainUnit(folder.name, folder / "proxy", seconds, manager).remove()
            ProxyUnit(folder.name, seconds, manager).remove()
    EnvoyProxy(folder / "proxy", target.routing).stop()
    host, port = parse_listen(target.routing.listen)
    return [] if is_free(host, port) else [f"something still listens on {target.routing.listen}"]
