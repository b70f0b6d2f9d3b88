"""Passes without a daemon: `plan` only observes, `sync` reconciles until all is in sync or something failed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler import __version__
from reconciler.config.settings import ClusterSettings, Settings
from reconciler.errors import ReconcileError
from reconciler.evaluation.sandbox import Sandbox
from reconciler.loop.wiring import (
    ManagedTarget,
    keep_targets,
    leftover_info,
    make_drain,
    make_folder,
    make_history,
    make_places,
    make_source,
    retire,
)
from reconciler.model import (
    ApplyObject,
    AskPreflight,
    ByHand,
    DesiredState,
    ObjectChange,
    Observed,
    Outcome,
    Plan,
    ServiceId,
    Snapshot,
    Sync,
    Unreachable,
)
from reconciler.model.target import Seen
from reconciler.report.convergence import convergence_of
from reconciler.report.history import History
from reconciler.report.status import DaemonInfo, Document, RevisionInfo, TargetReport, build_status
from reconciler.source import GitSource, shown_address
from reconciler.state.folder import HISTORY, copy_state
from reconciler.state.suspension import HostDrain
from reconciler.state.target_registry import TargetRegistry
from reconciler.web.metrics import Metrics

_LONGEST_PREFLIGHT = 300.0
_LONGEST_PAUSE = 1.0
# A leader that is dead is succeeded within this.
_LONGEST_ELECTION = 15.0


@dataclass(frozen=True, slots=True)
class Preview:
    """What would happen: the status document, and per target what it is based on."""

    status: Document
    plans: tuple[tuple[DesiredState, Seen | Unreachable, Plan], ...]


def preview(
    settings: Settings,
    target: str | None,
    revision: str | None,
    progress: Callable[[str], None],
    *,
    is_proposed: bool = False,
) -> Preview:
    """What would change and why. Reads git, the targets and the installed engines; changes nothing.

    `is_proposed`: nobody has accepted the revision yet. No Secret is opened, nothing of it runs, and engines only parse
    its arguments.
    """
    if target is not None:
        settings.target(target)
    with _looking(settings, is_proposed=is_proposed) as (source, places):
        progress(f"asking {shown_address(settings.source.url)}")
        snapshot = source.snapshot(revision) if revision else source.poll()
        chosen = [place for place in places if target in (None, place.settings.name)]
        return _previewed(settings, snapshot, chosen, progress, is_proposed=is_proposed)


def preview_each(
    settings: Settings, revisions: Sequence[str], folder: Path
) -> Iterator[tuple[str, Preview | Exception]]:
    """The same of several revisions that nobody has accepted yet. What was read and asked is kept in `folder`.

    One that raises, be it by a bug of ours, keeps no other from its plan.
    """
    with _looking(settings, folder, is_proposed=True) as (source, places):
        for revision in revisions:
            try:
                snapshot = source.snapshot(revision)
                found: Preview | Exception = _previewed(settings, snapshot, places, lambda _: None, is_proposed=True)
            except Exception as error:
                found = error
            yield revision, found


def _previewed(
    settings: Settings,
    snapshot: Snapshot,
    places: list[ManagedTarget],
    progress: Callable[[str], None],
    *,
    is_proposed: bool,
) -> Preview:
    plans = tuple(_look(place, snapshot, progress, is_proposed=is_proposed) for place in places)
    reports = [place.report() for place in places]
    reports = [_without_unopened(one) for one in reports] if is_proposed else reports
    return Preview(_status(snapshot, places, settings, reports), plans)


def _without_sealed(desired: DesiredState, plan: Plan) -> Plan:
    """The plan without the Secrets whose values were not looked at, for which there is nothing to send."""
    sealed = {one.id for one in desired.objects if one.is_encrypted}
    kept = (one for one in plan.actions if not (isinstance(one, ApplyObject) and one.object in sealed))
    return replace(plan, actions=tuple(kept))


def _without_unopened(report: TargetReport) -> TargetReport:
    """A cluster's Secrets whose values were not looked at: that they differ is not known."""
    if report.plan is None or report.desired is None:
        return report
    known = report.plan.objects
    unopened = {one.id for one in report.desired.objects if one.is_encrypted} & known.keys()
    same = {
        name: replace(known[name], sync=Sync.UNKNOWN, change=ObjectChange.NONE, why="", lines=(), reasons=())
        for name in unopened
        if known[name].change in (ObjectChange.CHANGE, ObjectChange.REPAIR, ObjectChange.WAIT)
    }
    return replace(report, plan=replace(report.plan, objects={**known, **same})) if same else report


def sync(settings: Settings, timeout: float, progress: Callable[[Document], None]) -> Document:
    """Passes until all is in sync, nothing progresses any more, or the timeout. Returns the last status."""
    deadline = time.monotonic() + timeout
    with _parts(settings) as (source, places):
        snapshot = source.poll()
        while True:
            pauses = [place.reconciler.run_pass(snapshot).again_in for place in places]
            places = [place for place in places if not retire(place, settings)]
            status = _status(snapshot, places, settings, [place.report() for place in places])
            progress(status)
            done = convergence_of(status).settled and not any(has_acted(place.reconciler.report) for place in places)
            if done or time.monotonic() > deadline:
                return status
            _pause(places, min((p for p in pauses if p is not None), default=_LONGEST_PAUSE))


def has_acted(report: TargetReport) -> bool:
    """Did its last pass try anything? What failed before and waits for its retry is not a reason to continue."""
    return any(result.outcome is not Outcome.SKIPPED for result in report.last_results)


def drain_later(settings: Settings, asked: ByHand) -> None:
    """Without a daemon: the host is drained from the next pass on, by whichever process. Raises Retryable."""
    _write_down(settings, lambda drain: drain.begin(asked), "host_drained", str(asked))


def undrain_later(settings: Settings, by: str) -> bool:
    """The same for lifting it. Returns whether the host was drained."""
    lifted = make_drain(settings).current() is not None
    if lifted:
        _write_down(settings, lambda drain: drain.end(), "host_undrained", f"by {by}")
    return lifted


def _write_down(settings: Settings, write: Callable[[HostDrain], object], event: str, message: str) -> None:
    make_folder(settings)
    write(make_drain(settings))
    with closing(make_history(settings)) as history:
        for target in settings.targets:
            history.note(target.name, history.applied(target.name), "", event, message, time.time())


@contextmanager
def _parts(settings: Settings) -> Iterator[tuple[GitSource, list[ManagedTarget]]]:
    """What a sync needs exclusively."""
    make_folder(settings)
    history = make_history(settings)
    with _opened(settings, history) as (source, places):
        source.retry()
        for place in places:
            place.target.lock(_LONGEST_ELECTION)
        keep_targets(settings, history)
        yield source, places


@contextmanager
def _looking(
    settings: Settings, kept: Path | None = None, *, is_proposed: bool = False
) -> Iterator[tuple[GitSource, list[ManagedTarget]]]:
    """What a plan needs. Whatever is written goes to a copy: the daemon's folder may be another user's.

    In `kept`, what was fetched and asked for one plan serves the next one.
    """
    with ExitStack() as stack:
        name = None if kept else stack.enter_context(tempfile.TemporaryDirectory(prefix="reconciler-plan-"))
        scratch = kept or Path(str(name))
        copy_state(settings, scratch, is_kept=kept is not None)
        history = History(scratch / HISTORY)
        yield stack.enter_context(_opened(settings, history, scratch, is_proposed=is_proposed))


@contextmanager
def _opened(
    settings: Settings, history: History, scratch: Path | None = None, *, is_proposed: bool = False
) -> Iterator[tuple[GitSource, list[ManagedTarget]]]:
    sandbox = Sandbox(settings.targets, is_sealed=is_proposed)
    source = make_source(settings, scratch / "git" if scratch else None, sandbox)
    places = make_places(settings, history, Metrics(), scratch, sandbox, is_proposed=is_proposed)
    sandbox.start()
    try:
        yield source, places
    finally:
        for place in places:
            place.reconciler.close()
        sandbox.close()
        source.close()
        history.close()


def _look(
    place: ManagedTarget, snapshot: Snapshot, progress: Callable[[str], None], *, is_proposed: bool = False
) -> tuple[DesiredState, Seen | Unreachable, Plan]:
    """One target's plan, once every engine that has to be asked has answered.

    On a cluster an engine is asked by a Job in an image of the revision: not of one that nobody has accepted.
    """
    may_ask = not (is_proposed and isinstance(place.settings, ClusterSettings))
    deadline = time.monotonic() + _LONGEST_PREFLIGHT
    failed: set[tuple[ServiceId, str]] = set()
    rehearsed = False
    while True:
        one_pass = place.reconciler.run_pass(snapshot, act=False)
        asking = [action for action in one_pass.plan.actions if isinstance(action, AskPreflight) and may_ask]
        asking = [action for action in asking if (action.service, action.digest) not in failed]
        for action in asking:
            progress(f"{action.service}: validating the arguments with the installed vLLM")
            try:
                place.target.perform(action)
            except ReconcileError as error:
                # The others' plans are no worse for that; this one's still says that it has to be asked.
                failed.add((action.service, action.digest))
                progress(f"{action.service}: {error}")
        waiting = asking or (isinstance(one_pass.observed, Observed) and one_pass.observed.preflighting)
        if not waiting and not rehearsed:
            rehearsed = True
            plan = _without_sealed(one_pass.desired, one_pass.plan) if is_proposed else one_pass.plan
            if place.reconciler.rehearse(plan):
                continue
        if not waiting or time.monotonic() > deadline:
            return one_pass.desired, one_pass.observed, one_pass.plan
        _pause([place], _LONGEST_PAUSE)


def _pause(places: list[ManagedTarget], seconds: float) -> None:
    """Wait for news of one target, or for the time to pass."""
    places[0].wake.wait(max(0.02, min(seconds, _LONGEST_PAUSE)))
    for place in places:
        place.wake.clear()


def _status(
    snapshot: Snapshot,
    places: list[ManagedTarget],
    settings: Settings,
    reports: Sequence[TargetReport],
) -> Document:
    applied = {place.reconciler.report.applied for place in places if place.leftover is None}
    revision = RevisionInfo(
        desired=snapshot.revision,
        applied=applied.pop() if len(applied) == 1 else "",
        subject=snapshot.subject,
        fetched_at=time.time(),
        signer=snapshot.signer,
    )
    me = DaemonInfo(__version__, time.time(), os.getpid(), 1)
    left = [leftover_info(one) for one in TargetRegistry(settings.state_dir).leftovers(settings)]
    return build_status(revision=revision, targets=reports, daemon=me, leftovers=left)
