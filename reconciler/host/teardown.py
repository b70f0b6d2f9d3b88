"""Ending everything that a daemon started, once it does not run any more. Requests that run are cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from reconciler.config.settings import HostSettings, Settings
from reconciler.config.values import parse_listen
from reconciler.errors import ReconcileError
from reconciler.host.backends import PROXY, Backend, make_backend
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.routing.process import is_free
from reconciler.host.staging.stager import Stager
from reconciler.host.supervisor import Supervisor
from reconciler.model import Fetch
from reconciler.secrets import NO_SECRETS
from reconciler.state.target_registry import TargetRegistry

_SECONDS = 20.0


def end_workloads(settings: Settings) -> list[str]:
    """End all replicas, downloads, pulls and proxies. Returns what is left, as text."""
    left: list[str] = []
    for folder, target in folders_of(settings):
        with _opened(folder, target) as backend:
            _end_fetches(folder, target, backend)
            left += _end_replicas(Inventory(folder), backend.supervisor)
            left += _end_proxy(folder, target, backend)
    return left


def is_fetching(settings: Settings) -> bool:
    """Is a model being fetched or an image pulled? Raises Retryable."""
    return any(_is_fetching(folder, target) for folder, target in folders_of(settings))


def folders_of(settings: Settings) -> list[tuple[Path, HostSettings]]:
    """Every target with its folder, also those that were taken out of the config. Raises Retryable."""
    registry = TargetRegistry(settings.state_dir)
    found = [(registry.folder_of(target.name), target) for target in settings.hosts]
    left = ((one.folder, one.target.config) for one in registry.leftovers(settings))
    # What is left may hold the address of another.
    return [(folder, target) for folder, target in left if target is not None] + found


def _is_fetching(folder: Path, target: HostSettings) -> bool:
    with _opened(folder, target) as backend:
        with _stager(folder, target, backend) as stager:
            if any(each.fetch is Fetch.RUNNING for each in stager.look().values()):
                return True
        return backend.images is not None and backend.images.has_scratch()


@contextmanager
def _opened(folder: Path, target: HostSettings) -> Iterator[Backend]:
    backend = make_backend(target, Inventory(folder), Gpus(()))
    try:
        yield backend
    finally:
        backend.supervisor.close()


def _stager(folder: Path, target: HostSettings, backend: Backend) -> closing[Stager]:
    return closing(Stager(target.storage, folder / "models", backend.fetcher, lambda: NO_SECRETS, lambda: None))


def _end_fetches(folder: Path, target: HostSettings, backend: Backend) -> None:
    with _stager(folder, target, backend) as stager:
        stager.end_all()
    if backend.images:
        backend.images.end_all()


def _end_replicas(inventory: Inventory, supervisor: Supervisor) -> list[str]:
    supervisor.recover()
    deadline = time.monotonic() + _SECONDS
    while left := _end_once(inventory, supervisor):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    return []


def _end_once(inventory: Inventory, supervisor: Supervisor) -> list[str]:
    """Kill and forget every replica; returns what resisted, as text."""
    left = []
    for record in inventory.replicas():
        try:
            supervisor.stop(record, force=True)
            supervisor.remove(inventory.replica(record.id) or record)
        except ReconcileError as error:
            left.append(str(error))
    return left


def end_proxy(folder: Path, target: HostSettings) -> list[str]:
    """End it permanently. Returns what is left, as text."""
    with _opened(folder, target) as backend:
        return _end_proxy(folder, target, backend)


def _end_proxy(folder: Path, target: HostSettings, backend: Backend) -> list[str]:
    # First what would start it again.
    backend.remove_proxy()
    EnvoyProxy(folder / PROXY, target.routing).stop()
    host, port = parse_listen(target.routing.listen)
    return [] if is_free(host, port) else [f"something still listens on {target.routing.listen}"]
