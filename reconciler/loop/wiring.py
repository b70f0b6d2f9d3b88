"""The parts of a daemon, put together from settings."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import structlog

from reconciler import __version__
from reconciler.build import build_id
from reconciler.config.conflicts import KEPT
from reconciler.config.settings import ClusterSettings, HostSettings, Settings, TargetSettings
from reconciler.config.values import NAME
from reconciler.errors import Retryable, SettingsError, Terminal
from reconciler.evaluation.evaluator import Evaluation, Evaluator
from reconciler.evaluation.sandbox import Sandbox
from reconciler.host.checks.fits import NOTHING, Reservations, Reserved
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.root_replicas import refuse_root
from reconciler.host.target import HostTarget
from reconciler.host.teardown import end_proxy
from reconciler.loop.deletions import DeletionGuard
from reconciler.loop.failures import PassErrors
from reconciler.loop.host_wing import HostWing
from reconciler.loop.reconcile import Reconciler
from reconciler.loop.recorder import Recorder
from reconciler.model import NO_ORIGIN, Observed, Reason, ReasonCode
from reconciler.model.target import Target
from reconciler.report.history import History
from reconciler.report.requests import RequestTally
from reconciler.report.status import LeftoverInfo, TargetReport
from reconciler.source import Check, GitSource
from reconciler.state.approvals import Approvals
from reconciler.state.cordon import Cordon
from reconciler.state.folder import HISTORY, refuse_open_state
from reconciler.state.suspension import HostDrain, Suspension
from reconciler.state.target_registry import Leftover, TargetRegistry
from reconciler.web.metrics import Metrics

log = structlog.get_logger()


@dataclass
class ManagedTarget:
    """One target with everything around it. `leftover`: it is not in the config any more, and is drained."""

    settings: TargetSettings
    target: Target
    reconciler: Reconciler
    suspension: Suspension
    recorder: Recorder
    deletions: DeletionGuard
    wake: threading.Event
    tally: RequestTally
    is_turning: bool = False
    last_pass_at: float = 0.0
    passes: int = 0
    leftover: Leftover | None = None
    is_retired: bool = False
    errors: PassErrors = field(init=False)

    def __post_init__(self) -> None:
        self.errors = PassErrors(self.settings.name)

    def report(self) -> TargetReport:
        """The target after its latest pass, with what was counted since."""
        return replace(self.reconciler.report, requests=self.tally.counts(), closed_paths=self.tally.closed_paths())


def make_folder(settings: Settings) -> None:
    """Our own folder, closed to others. Raises Retryable."""
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Retryable(f"state_dir: cannot make {settings.state_dir}: {error.strerror}") from None


def make_source(settings: Settings, mirror: Path | None = None, sandbox: Sandbox | None = None) -> GitSource:
    """The repository, with every folder that some target reads. With a sandbox, what it understands is accepted."""
    readers = tuple(target.paths for target in settings.targets)
    paths = tuple(dict.fromkeys(path for each in readers for path in each))
    check = Check(sandbox.check, _readers_id(settings)) if sandbox else None
    return GitSource(settings.source, mirror or settings.state_dir / "git", paths, check, readers=readers)


def _readers_id(settings: Settings) -> str:
    """Changes with everything of the daemon that decides whether a revision can be read."""
    told = f"{__version__} {build_id()} {settings.model_dump_json(include={'targets', 'source'})}"
    return hashlib.sha256(told.encode()).hexdigest()


def make_places(
    settings: Settings,
    history: History,
    metrics: Metrics,
    scratch: Path | None = None,
    sandbox: Sandbox | None = None,
    *,
    is_proposed: bool = False,
) -> list[ManagedTarget]:
    """All targets, not yet locked. With `scratch`, what looking leaves behind goes there. `is_proposed`: see
    HostTarget.

    Raises SettingsError where two would lease one GPU, something would be started twice or as root, or other users may
    write to our folder; Retryable for a driver.
    """
    refuse_open_state(settings)
    leftovers = TargetRegistry(settings.state_dir).check(settings)
    refuse_shared_gpus(settings)
    refuse_root(settings)
    reserved = partial(_reserved, leftovers)
    places = [
        make_place(
            target,
            settings,
            history,
            metrics,
            reserved,
            scratch,
            sandbox.target(target.name) if sandbox else None,
            is_proposed=is_proposed,
        )
        for target in settings.hosts
    ]
    places += [
        make_cluster_place(
            target, settings, history, metrics, scratch, sandbox.target(target.name) if sandbox else None
        )
        for target in settings.clusters
    ]
    removed = (_make_removed(left, settings, history, metrics, scratch) for left in leftovers)
    return places + [place for place in removed if place is not None]


def _make_removed(
    left: Leftover, state: Settings, history: History, metrics: Metrics, scratch: Path | None
) -> ManagedTarget | None:
    """A target that was taken out of the config: what it started is drained, as if git named none of it."""
    settings = left.target.config
    if settings is None:
        log.warning("target_leftover_found", target=left.target.name, what=str(left), fix=left.fix)
        return None
    log.warning("target_removed", target=left.target.name, what=str(left), now="it is drained and stopped")
    place = make_place(settings, state, history, metrics, scratch=scratch)
    # The config says it, not git.
    why = Reason(ReasonCode.TARGET_REMOVED, "taken out of the config; put it back to keep what it runs", NO_ORIGIN)
    place.reconciler.leave(why)
    return replace(place, leftover=left)


def leftover_info(left: Leftover) -> LeftoverInfo:
    """The same, as it is reported."""
    services = tuple(map(str, left.services))
    return LeftoverInfo(left.target.name, str(left.folder), left.replicas, services, str(left), left.fix)


def _reserved(leftovers: tuple[Leftover, ...]) -> Reservations:
    """What replicas of removed targets hold, until they are gone. Raises Retryable."""
    if not leftovers:
        return NOTHING
    held = [(left.target.name, record.lease) for left in leftovers for record in Inventory(left.folder).replicas()]
    whose = {
        uuid: f"{name}, which was taken out of the config, has it still" for name, lease in held for uuid in lease.gpus
    }
    return Reservations(frozenset(lease.port for _, lease in held), whose)


def keep_targets(settings: Settings, history: History) -> None:
    """Write down which targets are driven from now on, and finish what a rename began. Raises Retryable."""
    registry = TargetRegistry(settings.state_dir)
    for one in registry.known():
        if one.was:
            history.rename(one.was, one.name)
    registry.remember(settings)


def rename_target(settings: Settings, old: str, new: str) -> bool:
    """Call a target otherwise, whatever runs of it. False: it is called so already. Raises ReconcileError."""
    if not re.fullmatch(NAME, new) or new in KEPT:
        raise Terminal(f"{new!a} cannot name a target; use lowercase letters, digits and '-', and no name of our own")
    if {old, new} <= {target.name for target in settings.targets}:
        raise Terminal(f"the config names both {old} and {new}: they are two targets; leave one of them in it")
    changed = TargetRegistry(settings.state_dir).rename(old, new)
    if (settings.state_dir / HISTORY).exists():
        with closing(make_history(settings)) as history:
            history.rename(old, new)
            if changed:
                history.note(new, history.applied(new), "", "target_renamed", f"was called {old} before", time.time())
    return changed


def retire(place: ManagedTarget, state: Settings) -> bool:
    """End the proxy of a removed target, and forget it, once nothing else of it is left. Raises Retryable."""
    left, report = place.leftover, place.reconciler.report
    settings = place.settings
    if (
        left is None
        or not isinstance(settings, HostSettings)
        or not isinstance(report.observed, Observed)
        or report.observed.replicas
        or report.observed.owned
    ):
        return False
    for what in end_proxy(left.folder, settings):
        log.warning("target_leftover_found", target=settings.name, what=what)
    TargetRegistry(state.state_dir).remember(state)
    log.info("target_forgotten", target=settings.name, folder=str(left.folder))
    return True


def refuse_shared_gpus(settings: Settings) -> None:
    """Each target leases without knowing of the others."""
    having = [target for target in settings.hosts if target.gpus]
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


def _is_known_later(target: HostSettings) -> bool:
    """Does only the driver know what this target may lease?"""
    return target.gpus == "auto" or any(uuid.startswith("MIG-") for uuid in target.gpus)


def make_place(
    settings: HostSettings,
    state: Settings,
    history: History,
    metrics: Metrics,
    reserved: Reserved = lambda: NOTHING,
    scratch: Path | None = None,
    evaluation: Evaluation | None = None,
    *,
    is_proposed: bool = False,
) -> ManagedTarget:
    """One target, not yet locked."""
    wake = threading.Event()
    folder = TargetRegistry(state.state_dir).folder_of(settings.name)
    wanted = evaluation or Evaluator(settings)
    cache = scratch / folder.name if scratch else folder
    tally = RequestTally(cache / "requests.json")
    target = HostTarget(
        settings,
        folder,
        wake.set,
        lambda: wanted.store,
        state.closed,
        reserved,
        tally.take_refused,
        cache=cache,
        is_proposed=is_proposed,
    )
    suspension = Suspension(folder / "suspended.json")
    recorder = Recorder(settings.name, history, metrics, tally)
    cordon, drain = Cordon(folder / "cordon.json"), make_drain(state)
    deletions = DeletionGuard(settings.prune.limits, Approvals(folder / "approvals.json"), recorder)
    wing = HostWing(settings, target)
    reconciler = Reconciler(settings, wing, history, suspension, cordon, recorder, deletions, wanted, drain)
    return ManagedTarget(settings, target, reconciler, suspension, recorder, deletions, wake, tally)


def make_cluster_place(
    settings: ClusterSettings,
    state: Settings,
    history: History,
    metrics: Metrics,
    scratch: Path | None = None,
    evaluation: Evaluation | None = None,
) -> ManagedTarget:
    """One cluster, which nothing was asked of yet. Raises SettingsError."""
    if find_spec("kubernetes") is None:
        text = "needs the Kubernetes client, which is not installed: pip install 'vllm-reconciler[kubernetes]'"
        raise SettingsError(f"target {settings.name}: kind kubernetes {text}")
    # Reading it takes a while, and hosts need none of it.
    from reconciler.loop.cluster_wing import ClusterWing

    wake = threading.Event()
    folder = TargetRegistry(state.state_dir).folder_of(settings.name)
    cache = scratch / folder.name if scratch else folder
    wanted = evaluation or Evaluator(settings)
    wing = ClusterWing(settings, cache, wake.set, lambda: wanted.store)
    suspension, cordon = Suspension(folder / "suspended.json"), Cordon(folder / "cordon.json")
    recorder = Recorder(settings.name, history, metrics)
    deletions = DeletionGuard(settings.prune.limits, Approvals(folder / "approvals.json"), recorder)
    reconciler = Reconciler(settings, wing, history, suspension, cordon, recorder, deletions, wanted)
    tally = RequestTally(cache / "requests.json")
    return ManagedTarget(settings, wing.target, reconciler, suspension, recorder, deletions, wake, tally)


def make_drain(settings: Settings) -> HostDrain:
    """The one file that says whether this host is drained by hand: for all its targets."""
    return HostDrain(settings.state_dir / "drained.json")


def make_history(settings: Settings) -> History:
    return History(settings.state_dir / HISTORY)
