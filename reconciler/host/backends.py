"""Who does what on a host, by its kind: child processes of ours, or units of systemd, which are imported late.

Who runs child processes needs no D-Bus. Units are named after the target's folder, which a rename does not change.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from reconciler.config import settings as config
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


def make_supervisor(
    settings: config.TargetSettings, inventory: Inventory, gpus: Gpus, closed: tuple[Path, ...] = ()
) -> tuple[Supervisor, Spawn]:
    """Who keeps the replicas, and who starts the proxy. Units see nothing of `closed`."""
    match settings.kind:
        case "process":
            return ProcessSupervisor(inventory, gpus), process.spawn
        case "systemd":
            from reconciler.host.systemd.proxy import ProxyUnit
            from reconciler.host.systemd.supervisor import UnitSupervisor
            from reconciler.host.systemd.ways import AnyManager

            manager = AnyManager()
            supervisor = UnitSupervisor(inventory.folder.name, settings.user, inventory, gpus, manager, closed)
            proxy = ProxyUnit(inventory.folder.name, settings.rollout.shutdown_budget, manager, _memory(settings))
            return supervisor, proxy.spawn
        case _:
            assert_never(settings.kind)


def _memory(settings: config.TargetSettings) -> int:
    return bootstrap.MEMORY_FACTOR * bootstrap.full_heap(settings.routing.max_body_bytes)


def prepare_shutdown(settings: config.TargetSettings, proxy: Path) -> None:
    """Have a shutdown wait for running requests, and the next boot start the proxy as we would. Raises Retryable.

    `proxy` is the folder of the proxy.
    """
    if settings.kind == "process":
        # Only systemd could wait, and does not know our children.
        return
    from reconciler.host.systemd.drain import DrainUnit
    from reconciler.host.systemd.proxy import ProxyUnit
    from reconciler.host.systemd.ways import AnyManager

    with closing(AnyManager()) as manager:
        target, seconds = proxy.parent.name, settings.rollout.shutdown_budget
        DrainUnit(target, proxy, seconds, manager).ensure()
        ProxyUnit(target, seconds, manager, _memory(settings)).renew(proxy.absolute(), process.threads())


def make_fetcher(settings: config.TargetSettings, folder: Path) -> Fetcher:
    """Who fetches models."""
    python = settings.storage.python or Path(sys.executable)
    if settings.kind == "process":
        return FetchProcess(python)
    from reconciler.host.systemd.fetch import FetchUnit
    from reconciler.host.systemd.ways import AnyManager

    return FetchUnit(folder.name, python, AnyManager())


def make_images(settings: config.TargetSettings, folder: Path) -> Images | None:
    """Podman's images; None where nothing runs in a container."""
    if not any(engine.podman for engine in settings.engines):
        return None
    from reconciler.host.systemd.images import Images

    return Images(folder.name, folder / "images")


def make_begin(settings: config.TargetSettings, gpus: Gpus, folder: Path, closed: tuple[Path, ...] = ()) -> Begin:
    """How the engine is asked: as whoever runs the replicas."""
    if settings.kind == "process":
        return begin_child
    from reconciler.host.systemd.preflight import PreflightSandbox

    return PreflightSandbox(folder.name, settings.user, gpus, closed).begin
