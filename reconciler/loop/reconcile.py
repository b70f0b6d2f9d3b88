"""One pass over one target: desired → observe → preflight → plan → execute → report. Only here stages are chained."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import inf

import structlog

from reconciler.config.settings import HostSettings, TargetSettings
from reconciler.errors import NotUnderstood, Retryable
from reconciler.evaluation.evaluator import Evaluation, Evaluator
from reconciler.host.execute import BESIDE
from reconciler.loop.deletions import DeletionGuard
from reconciler.loop.failures import FailureLog
from reconciler.loop.perform import Performer, QuarantineLog
from reconciler.loop.recorder import Recorder
from reconciler.model import (
    NO_ORIGIN,
    ByHand,
    ClusterView,
    DesiredState,
    Holds,
    Outcome,
    Plan,
    Reason,
    ReasonCode,
    Result,
    Snapshot,
    Start,
    Unreachable,
    Unstage,
    service_of,
)
from reconciler.model.backoff import backoff
from reconciler.model.target import Seen, Wing
from reconciler.report.history import History
from reconciler.report.status import TargetReport
from reconciler.state.cordon import Cordon
from reconciler.state.suspension import HostDrain, Suspension

log = structlog.get_logger()

_FIRST_RETRY = 0.5
_LAST_RETRY = 30.0
_AFTER_DOING = 0.2


@dataclass(frozen=True, slots=True)
class Pass:
    """The input and results of one pass. `again_in`: seconds until the next pass; None: at the next event."""

    desired: DesiredState
    observed: Seen | Unreachable
    plan: Plan
    results: tuple[Result, ...]
    again_in: float | None


class Reconciler:
    """Makes pass after pass over one target. What it remembers is only a cache: losing it loses nothing."""

    def __init__(
        self,
        settings: TargetSettings,
        wing: Wing,
        history: History,
        suspension: Suspension,
        cordon: Cordon,
        recorder: Recorder,
        deletions: DeletionGuard,
        evaluation: Evaluation | None = None,
        drain: HostDrain | None = None,
    ) -> None:
        self._settings = settings
        self._wing = wing
        self._suspension = suspension
        self._cordon = cordon
        self._recorder = recorder
        self._drain = drain
        self._deletions = deletions
        self._ends_at = 0.0
        self._evaluation = evaluation or Evaluator(settings)
        self._desired: tuple[DesiredState, DesiredState] | None = None
        self._leaving: Reason | None = None
        self._unanswered = 0
        self.failures = FailureLog(settings.name, history)
        self._quarantines = QuarantineLog(settings.name, history)
        self._performer = Performer(wing.target, self._quarantines)
        self._routing = settings.routing if isinstance(settings, HostSettings) else None
        self.report = TargetReport(None, None, None, self._routing, name=settings.name)

    def run_pass(self, snapshot: Snapshot | None, act: bool = True) -> Pass:
        """One pass. With `act` False nothing is performed (except preflights). None: nothing was read from git yet."""
        began = time.monotonic()
        if act:
            self._end_what_is_over()
        suspended = self._suspension.in_force()
        drained = self._drain.current() if self._drain else None
        desired = self._wanted(snapshot) if act else self.desired(snapshot)
        observed = self._wing.observe(desired)
        if isinstance(observed, ClusterView):
            self._quarantines.see(observed.quarantines)
        plan = self._wing.plan(
            desired,
            observed,
            Holds(
                drain=desired.drain,
                drained_by_hand=_by_hand(drained),
                unschedulable=desired.unschedulable,
                suspended=frozenset(suspended),
                quarantines=self._quarantines.now(),
                deletions=self._deletions.rules(snapshot),
            ),
            self.failures.now(),
        )
        if act:
            self._remember_cordon(desired)
            self._deletions.note(snapshot, desired, observed, plan)
        results = self._wing.execute(plan, self._performer.perform, self.failures.waiting(plan)) if act else ()
        if act:
            self.failures.note(desired, observed, plan, results)
        self._ends_at = min((one.until for one in (*suspended.values(), drained) if one and one.until), default=inf)
        one_pass = Pass(desired, observed, plan, results, self._again_in(plan, observed, results, began))
        applied = self.report.applied
        if act:
            applied = self._recorder.record(desired, observed, plan, results, time.monotonic() - began)
        self.report = TargetReport(
            desired,
            observed,
            plan,
            self._routing,
            frozenset(suspended),
            results,
            self._settings.name,
            applied,
            suspended,
            drained,
            failures=self.failures.now(),
            approvals=self._deletions.approvals,
            reached_at=self.report.reached_at if isinstance(observed, Unreachable) else observed.at,
        )
        return one_pass

    def rehearse(self, plan: Plan) -> bool:
        """Ask what would be refused of a plan. Returns whether another plan shows more."""
        return self._wing.rehearse(plan)

    def fail(self, why: str, seconds: float) -> None:
        """A pass was not possible, after so long a try: nothing is known of the target now."""
        unreachable = Unreachable(self._settings.name, time.time(), why)
        self.report = replace(self.report, observed=unreachable, plan=None, last_results=(), pass_error=why)
        try:
            self._recorder.record_failed_pass(why, seconds)
        except Exception:
            # It may be the history that makes passes fail.
            log.exception("failed_pass_not_recorded", target=self._settings.name)

    def leave(self, why: Reason) -> None:
        """From now on no service is desired here, regardless of git."""
        self._leaving = why

    def desired(self, snapshot: Snapshot | None) -> DesiredState:
        """What this revision asks for here;

        the same object while nothing changed. Raises if that cannot be determined.
        """
        if self._leaving:
            revision = snapshot.revision if snapshot else ""
            return DesiredState(self._settings.name, revision, (), notes=(self._leaving,), leaving=self._leaving)
        if snapshot is None:
            raise Retryable("no revision of git is known, and none can be read now")
        wanted = self._evaluation.evaluate(snapshot)
        if self._desired is None or self._desired[0] is not wanted:
            self._desired = (wanted, self._cordon.settle(wanted))
        return self._desired[1]

    def _wanted(self, snapshot: Snapshot | None) -> DesiredState:
        """The same; if it cannot be determined, everything stays as it is and is kept alive."""
        try:
            return self.desired(snapshot)
        except (NotUnderstood, Retryable) as error:
            # It is about the revision as a whole.
            unknown = Reason(ReasonCode.EVALUATION_FAILED, str(error), NO_ORIGIN)
            state = DesiredState(
                self._settings.name,
                snapshot.revision if snapshot else "",
                (),
                unreadable=(unknown,),
                prunable=False,
                host_known=False,
                paths=self._settings.paths,
            )
            return self._cordon.settle(state)

    def close(self) -> None:
        """Close threads. Models keep serving."""
        self._wing.close()

    def _end_what_is_over(self) -> None:
        """What a person asked for until a time ends by itself then."""
        if time.time() < self._ends_at:
            return
        try:
            for name in self._suspension.expire():
                self._recorder.record_by_hand("resumed", "the time given for it is over", name)
            if self._drain and self._drain.expire():
                self._recorder.record_by_hand("host_undrained", "the time given for it is over")
        except Retryable as error:
            # It is over all the same; only the file still names it.
            log.error("suspension_end_not_recorded", target=self._settings.name, error=str(error))

    def _remember_cordon(self, desired: DesiredState) -> None:
        try:
            for event, why in self._cordon.remember(desired):
                self._recorder.record_cordon(event, why, desired.revision)
        except Retryable as error:
            # It is followed all the same; only a host.yaml that breaks later would not be understood.
            log.error("cordon_not_recorded", target=self._settings.name, error=str(error))

    def retry(self, service: str | None) -> frozenset[str]:
        """Retry what failed of a service, or of all: quarantined digests, and actions that wait for their retry.

        Returns the services that this concerns.
        """
        return frozenset(self.failures.forget(service) | self._quarantines.forget(service))

    def _again_in(
        self, plan: Plan, observed: Seen | Unreachable, results: tuple[Result, ...], began: float
    ) -> float | None:
        """Seconds from now. What fails is tried again more and more slowly, without holding up the others."""
        waiting = [*self.failures.waiting(plan), *(r.action for r in results if r.outcome is Outcome.FAILED)]
        # Deleting files, and what nothing depends on, delays nothing; a missing proxy delays everything.
        failed = {service_of(action) for action in waiting if not isinstance(action, (Unstage, *BESIDE))}
        spent = time.monotonic() - began
        due = [at - plan.at for service, at in plan.looks.items() if None not in failed and service not in failed]
        looks = [max(0.0, seconds - spent) for seconds in due]
        if self._ends_at < inf:
            looks.append(max(0.0, self._ends_at - time.time()))
        if any(result.outcome is Outcome.DONE and service_of(result.action) not in failed for result in results):
            # After actions, look again soon for their results.
            looks.append(_AFTER_DOING)
        if isinstance(observed, Unreachable):
            self._unanswered += 1
            looks.append(backoff(self._unanswered, _FIRST_RETRY, _LAST_RETRY))
        else:
            self._unanswered = 0
        if any(isinstance(r.action, Start) and r.outcome is Outcome.FAILED and not r.retryable for r in results):
            # Another try is of no use, so the last good digest comes back.
            looks.append(_AFTER_DOING)
        if (retry := self.failures.due(plan)) is not None:
            looks.append(max(_FIRST_RETRY, retry))
        return min(looks, default=None)


def _by_hand(drained: ByHand | None) -> Reason | None:
    if drained is None:
        return None
    # A person did it, without git.
    return Reason(ReasonCode.DRAINED, f"the host is drained {drained}; `reconciler host undrain` ends it", NO_ORIGIN)
