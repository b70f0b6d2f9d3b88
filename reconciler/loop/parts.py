"""The parts of a daemon, put together from settings."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from reconciler.config import HostTarget as TargetSettings
from reconciler.config import Settings
from reconciler.cordon import Cordon
from reconciler.errors import Retryable, SettingsError
from reconciler.loop.journal import Journal
from reconciler.loop.turn import Turner
from reconciler.report.history import History
from reconciler.secrets import SecretSources
from reconciler.source import GitSource
from reconciler.suspension import Suspension
from reconciler.targets.gpus import Gpus
from reconciler.targets.host import HostTarget
from reconciler.web.metrics import Metrics


@dataclass
class Place:
    """One target with everything around it."""

    settings: TargetSettings
    target: HostTarget
    turner: Turner
    suspension: Suspension
    wake: threading.Event
    is_turning: bool = False
    turned_at: float = 0.0
    passes: int = 0


def make_folder(settings: Settings) -> None:
    """Our own folder, closed to others. Raises Retryable."""
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Retryable(f"state_dir: cannot make {settings.state_dir}: {error.strerror}") from None


def make_source(settings: Settings) -> GitSource:
    """The repository, with every folder that some target reads."""
    paths = tuple(dict.fromkeys(path for target in settings.targets for path in target.paths))
    return GitSource(settings.source, settings.state_dir / "git", paths)


def make_places(settings: Settings, history: History, metrics: Metrics) -> list[Place]:
    """All targets, not yet locked. Raises SettingsError where two would lease one GPU, Retryable for a driver."""
    refuse_shared_gpus(settings)
    return [make_place(target, settings, history, metrics) for target in settings.targets]


def refuse_shared_gpus(settings: Settings) -> None:
    """Each target leases without knowing of the others."""
    having = [target for target in settings.targets if target.gpus]
    if len(having) < 2 or not any(_is_known_later(target) for target in having):
        return
    owners: dict[str, str] = {}
    for target in having:
        for gpu in Gpus(target.gpus).list():
            if (other := owners.setdefault(gpu.uuid, target.name)) != target.name:
                raise SettingsError(
                    f"targets: {other} and {target.name} would both lease {gpu.uuid}: `auto` is every GPU of this "
                    "machine, and one in MIG mode is all of its parts; list those of each in its targets[].gpus"
                )


def _is_known_later(target: TargetSettings) -> bool:
    """Does only the driver know what this target may lease?"""
    return target.gpus == "auto" or any(uuid.startswith("MIG-") for uuid in target.gpus)


def make_place(settings: TargetSettings, state: Settings, history: History, metrics: Metrics) -> Place:
    """One target, not yet locked."""
    wake = threading.Event()
    folder = state.state_dir / settings.name
    secrets = SecretSources(settings)
    target = HostTarget(settings, folder, wake.set, lambda: secrets.store, state.closed)
    suspension = Suspension(folder / "suspended.json")
    journal = Journal(settings.name, history, metrics)
    turner = Turner(settings, target, history, suspension, Cordon(folder / "cordon.json"), journal, secrets)
    return Place(settings, target, turner, suspension, wake)


def make_history(settings: Settings) -> History:
    return History(settings.state_dir / "state.db")
