"""The parts of a daemon, put together from settings."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from reconciler.config import HostTarget as TargetSettings
from reconciler.config import Settings
from reconciler.cordon import Cordon
from reconciler.errors import Retryable
from reconciler.loop.journal import Journal
from reconciler.loop.turn import Turner
from reconciler.report.history import History
from reconciler.secrets import SecretSources
from reconciler.source import GitSource
from reconciler.suspension import Suspension
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
