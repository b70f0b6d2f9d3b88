"""Everything that depends on a host's kind, made in one place: child processes, or units of systemd.

What systemd needs is imported late: child processes need no D-Bus. Units are named after the target's folder, which a
rename does not change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from reconciler.config.settings import HostSettings
from reconciler.engines.preflight import Begin, begin_child
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.process.supervisor import ProcessSupervisor
from reconciler.host.routing import bootstrap, process
from reconciler.host.routing.envoy import Spawn
from reconciler.host.staging.fetcher import Fetcher, FetchProcess
from reconciler.host.supervisor import Supervisor

if TYPE_CHECKING:
    from reconciler.host.systemd.images import Images

PROXY = "proxy"
"""The folder of a target's proxy, below the target's own."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What runs the parts of one host.

    `prepare_shutdown` has a shutdown wait for running requests, and the next boot start the proxy as we would;
    `remove_proxy` has nothing start the proxy again. Both raise Retryable. `images` is None where nothing runs in a
    container.
    """

    supervisor: Supervisor
    spawn_proxy: Spawn
    prepare_shutdown: Callable[[], None]
    remove_proxy: Callable[[], None]
    fetcher: Fetcher
    begin_preflight: Begin
    images: Images | None = None


def make_backend(settings: HostSettings, inventory: Inventory, gpus: Gpus, closed: tuple[Path, ...] = ()) -> Backend:
    """The backend of one host. Units see nothing of `closed`."""
    match settings.kind:
        case "process":
            return _make_process(settings, inventory, gpus)
        case "systemd":
            return _make_systemd(settings, inventory, gpus, closed)
        case _:
            assert_never(settings.kind)


def _make_process(settings: HostSettings, inventory: Inventory, gpus: Gpus) -> Backend:
    return Backend(
        supervisor=ProcessSupervisor(inventory, gpus),
        spawn_proxy=process.spawn,
        # Only systemd could wait, and does not know our children.
        prepare_shutdown=lambda: None,
        remove_proxy=lambda: None,
        fetcher=FetchProcess(_python(settings)),
        begin_preflight=begin_child,
    )


def _make_systemd(settings: HostSettings, inventory: Inventory, gpus: Gpus, closed: tuple[Path, ...]) -> Backend:
    from reconciler.host.systemd.fetch import FetchUnit
    from reconciler.host.systemd.images import Images
    from reconciler.host.systemd.preflight import PreflightSandbox
    from reconciler.host.systemd.proxy import DrainUnit, ProxyUnit
    from reconciler.host.systemd.supervisor import UnitSupervisor
    from reconciler.host.systemd.systemd_api import Systemd

    folder, seconds = inventory.folder, settings.rollout.shutdown_budget
    name, proxy_folder = folder.name, folder / PROXY
    systemd = Systemd()
    memory = bootstrap.MEMORY_FACTOR * bootstrap.full_heap(settings.routing.max_body_bytes)
    proxy = ProxyUnit(name, seconds, systemd, memory)
    drain = DrainUnit(name, proxy_folder, seconds, systemd)

    def prepare_shutdown() -> None:
        drain.ensure()
        proxy.renew(proxy_folder.absolute(), process.threads())

    def remove_proxy() -> None:
        drain.remove()
        proxy.remove()

    return Backend(
        supervisor=UnitSupervisor(name, settings.user, inventory, gpus, systemd, closed),
        spawn_proxy=proxy.spawn,
        prepare_shutdown=prepare_shutdown,
        remove_proxy=remove_proxy,
        # With a connection of its own: fetches and replicas are let go of at different times.
        fetcher=FetchUnit(name, _python(settings), Systemd()),
        begin_preflight=PreflightSandbox(name, settings.user, gpus, closed).begin,
        images=Images(name, folder / "images", systemd) if any(engine.podman for engine in settings.engines) else None,
    )


def _python(settings: HostSettings) -> Path:
    return settings.storage.python or Path(sys.executable)
