"""What a pass leaves behind for people: log lines, history entries, metrics, the applied revision."""

from __future__ import annotations

import time

import structlog

from reconciler.fault_isolation import Faults
from reconciler.loop.source_recorder import CommitEvent, finding, findings
from reconciler.model import (
    EVERYTHING,
    Action,
    AskPreflight,
    Bug,
    Desired,
    DesiredState,
    Drain,
    EnsureProxy,
    MarkReady,
    NoteCrash,
    Observed,
    Outcome,
    Plan,
    Reject,
    Remove,
    Replica,
    ReplicaId,
    Result,
    ServiceId,
    SetRoutes,
    Start,
    Stop,
    Sync,
    Unreachable,
    WriteInventory,
)
from reconciler.model.target import Seen
from reconciler.report.actions import action_name, event_name, services_of, subject_of
from reconciler.report.applied import HoldUp, holds_up, is_applied
from reconciler.report.history import FETCHED, History
from reconciler.report.requests import Fate, RequestTally
from reconciler.web.metrics import Metrics

# Steps between two things that a person cares about.
_QUIET = (SetRoutes, Remove, WriteInventory)
_LOUD = (Reject, NoteCrash)
# Subjects that are no service.
_REVISION, _VIEW, _PASS, _DELETIONS = "revision", "view", "pass", "deletions"
_NO_SERVICES = frozenset({_REVISION, _VIEW, _PASS, _DELETIONS, "config"})
_RESOLVED = {
    _VIEW: "git is read in full again",
    _PASS: "passes are made again",
    _DELETIONS: "no deletions are held any more",
}


class Recorder:
    """Writes only when something happened: a pass that changes nothing writes nothing."""

    def __init__(self, target: str, history: History, metrics: Metrics, tally: RequestTally | None = None) -> None:
        self._target = target
        self._history = history
        self._metrics = metrics
        self._tally = tally
        self._followed: tuple[Desired, ...] | None = None
        self._draining: dict[ReplicaId, int] = {}
        self._log = structlog.get_logger().bind(target=target)
        self._applied = history.applied(target)
        self._seen: tuple[str, float] = ("", 0.0)
        self._last_errors: dict[tuple[str, str], str] = {}
        self._asked: dict[ServiceId, str] = {}
        self._reported = history.reported(target)
        self._bugs: frozenset[Bug] = frozenset()

    def record(
        self,
        desired: DesiredState,
        observed: Seen | Unreachable,
        plan: Plan,
        results: tuple[Result, ...],
        seconds: float,
    ) -> str:
        """Record what one pass did. Returns the revision that was last applied."""
        ok = not isinstance(observed, Unreachable) and all(r.outcome is not Outcome.FAILED for r in results)
        self._metrics.observe_pass(self._target, seconds, ok=ok)
        self._report(_PASS, desired.revision, None)
        if desired.revision != self._seen[0]:
            self._seen = (desired.revision, time.time())
            text = f"{len(desired.services)} services in git"
            self._report(_REVISION, desired.revision, CommitEvent(FETCHED, text, desired.revision))
        faults = Faults("telling of")
        self._report_problems(desired, observed)
        if not isinstance(observed, Unreachable):
            self._report_held(desired, plan)
            self._report_findings(desired, plan, faults)
        self._follow(desired)
        if results and (self._draining or self._asked or self._last_errors):
            self._drop_removed(desired, observed)
        for result in results:
            try:
                self._record_result(result, plan, observed)
            except Exception as error:
                faults.note_other(f"telling of {action_name(result.action)} {subject_of(result.action)}", error)
        self._log_bugs((*plan.bugs, *faults.bugs), plan.revision)
        self._note_applied(desired, observed, plan)
        return self._applied

    def _drop_removed(self, desired: DesiredState, observed: Seen | Unreachable) -> None:
        """Delete what was reported of services and replicas that no longer exist: otherwise it only grows."""
        if not isinstance(observed, Observed):
            return
        there = {replica.id for replica in observed.replicas}
        services = {service.id for service in desired.services} | observed.owned.keys() | {one.service for one in there}
        names = {"", *map(str, services)}
        self._draining = {replica: count for replica, count in self._draining.items() if replica in there}
        self._asked = {service: digest for service, digest in self._asked.items() if service in services}
        errors = self._last_errors.items()
        self._last_errors = {key: error for key, error in errors if names.issuperset(key[0].split(", "))}

    def _log_bugs(self, bugs: tuple[Bug, ...], revision: str) -> None:
        """Each traceback once, as long as it is the same."""
        if not (bugs or self._bugs):
            return
        now = frozenset(bugs)
        for bug in sorted(now - self._bugs, key=lambda one: one.subject):
            self._log.error("fault_isolated", subject=bug.subject, traceback=bug.traceback, revision=revision)
        self._bugs = now

    def record_failed_pass(self, why: str, seconds: float) -> None:
        """Record that a pass failed: the same reason is reported once, each try is counted."""
        self._metrics.observe_pass(self._target, seconds, ok=False)
        self._report(_PASS, self._seen[0] or self._applied, finding("pass_failed", why))

    def record_cordon(self, event: str, why: str, revision: str) -> None:
        """Tell that host.yaml drains or cordons the host now, or does no longer."""
        self._log.warning(event, reason=why, revision=revision)
        self._note(revision, "", event, why)

    def record_by_hand(self, event: str, message: str, service: str = "") -> None:
        """Record a manual request, or its end. `service` is `namespace/name`, or all of them."""
        service = "" if service == EVERYTHING else service
        self._log.warning(event, service=service, reason=message)
        self._note(self._seen[0] or self._applied, service, event, message)

    def _record_result(self, result: Result, plan: Plan, observed: Seen | Unreachable) -> None:
        action, name = result.action, action_name(result.action)
        services = ", ".join(str(service) for service in services_of(action))
        self._metrics.count_action(self._target, name, result.outcome.value)
        if result.outcome is Outcome.SKIPPED:
            return
        if result.outcome is Outcome.FAILED:
            self._record_failure(services, name, result, plan)
            return
        again = _is_repeated(action, observed) or self._is_repeated_preflight(action)
        if not again:
            self._last_errors.pop((services, name), None)
        self._count(action, observed)
        level = self._log.debug if again else self._log.warning if isinstance(action, _LOUD) else self._log.info
        event = event_name(action)
        level(event, service=services, subject=subject_of(action), reason=action.reason, revision=plan.revision)
        if not (again or isinstance(action, _QUIET)):
            self._history.note(self._target, plan.revision, services, event, _sentence(action), time.time())

    def _record_failure(self, services: str, name: str, result: Result, plan: Plan) -> None:
        """The same failure is reported once, however often it is retried."""
        if self._last_errors.get((services, name)) == result.error:
            return
        self._last_errors[(services, name)] = result.error
        event = event_name(result.action, failed=True)
        self._log.error(event, service=services, error=result.error, revision=plan.revision)
        self._history.note(self._target, plan.revision, services, event, result.error, time.time())

    def _is_repeated_preflight(self, action: Action) -> bool:
        """An engine that gives no answer is asked again and again, with nothing in between; people read it once."""
        if not isinstance(action, AskPreflight):
            for service in services_of(action):
                self._asked.pop(service, None)
            return False
        before = self._asked.get(action.service)
        self._asked[action.service] = action.digest
        return before == action.digest

    def _count(self, action: Action, observed: Seen | Unreachable) -> None:
        if isinstance(action, Drain | Stop) and isinstance(observed, Observed) and self._tally is not None:
            for replica in observed.replicas:
                if replica.id == action.replica:
                    self._count_requests(action, replica, self._tally)
        if isinstance(action, MarkReady) and isinstance(observed, Observed):
            for replica in observed.replicas:
                if replica.id == action.replica:
                    self._metrics.observe_first_token(self._target, time.time() - replica.created_at)

    def _count_requests(self, action: Drain | Stop, replica: Replica, tally: RequestTally) -> None:
        """What runs when a drain begins is drained once it has ended, unless it is cut before."""
        if isinstance(action, Drain):
            self._draining[replica.id] = replica.at_proxy or 0
        elif replica.stopping_at is None:
            tally.add(replica.service, Fate.LOST, action.cut)
            most = max(self._draining.pop(replica.id, 0), replica.most_in_flight)
            if replica.draining_at is not None:
                tally.add(replica.service, Fate.DRAINED, most - action.cut)

    def _follow(self, desired: DesiredState) -> None:
        if self._tally is not None and desired.services is not self._followed and not desired.unreadable:
            self._followed = desired.services
            self._tally.follow(desired.services, desired.revision)

    def _report_problems(self, desired: DesiredState, observed: Seen | Unreachable) -> None:
        """What keeps us from seeing or reading, when it changes."""
        lines = [str(reason) for reason in (*desired.unreadable, *desired.refused)]
        if isinstance(observed, Unreachable):
            lines.append(f"unreachable: {observed.reason}")
        if not desired.prunable:
            lines.append("this target's folder or its own file is missing from git: nothing is pruned")
        problems = "; ".join(lines)
        if (
            self._report(_VIEW, desired.revision, finding("incomplete_view", problems) if problems else None)
            and problems
        ):
            self._log.warning("incomplete_view", reason=problems, revision=desired.revision)

    def _report_held(self, desired: DesiredState, plan: Plan) -> None:
        """Deletions that wait for an approval, when they change."""
        held = plan.deletions.held
        text = "; ".join(reason.message for reason in held.reasons) if held else ""
        found = CommitEvent("deletions_held", text, held.hash) if held else None
        if self._report(_DELETIONS, desired.revision, found) and held:
            self._log.warning("deletions_held", hash=held.hash, reason=text, revision=desired.revision)

    def _report_findings(self, desired: DesiredState, plan: Plan, faults: Faults) -> None:
        """Why services are out of sync, when it changes."""
        known = findings(desired, plan, faults)
        for service, found in known.items():
            self._report(str(service), desired.revision, found, str(service))
        if not (reported := self._reported.keys() - _NO_SERVICES - {str(service) for service in known}):
            return
        verdicts = {str(service): verdict for service, verdict in plan.verdicts.items()}
        for subject in reported:
            if subject not in verdicts:
                self._keep(subject, "")  # That it was deleted is reported by an action.
            elif verdicts[subject].sync is Sync.SYNCED:
                self._report(subject, desired.revision, None, subject)

    def _report(self, subject: str, revision: str, found: CommitEvent | None, service: str = "") -> bool:
        """Report a finding unless it was the last one reported; None ends it. True: it is new."""
        before = self._reported.get(subject, "")
        if before == (found.key if found else ""):
            return False
        if found is not None and found.by_action:
            self._keep(subject, found.key)
            return True
        if found is None:
            text = _RESOLVED.get(subject) or f"no longer {before.partition(' ')[0]}"
            found = CommitEvent("resolved", text, "")
        self._reported[subject] = found.key
        reported = (subject, found.key)
        self._history.note(self._target, revision, service, found.event, found.message, time.time(), reported)
        return True

    def _keep(self, subject: str, text: str) -> None:
        self._reported.pop(subject, None)
        if text:
            self._reported[subject] = text
        self._history.remember(self._target, subject, text)

    def _note_applied(self, desired: DesiredState, observed: Seen | Unreachable, plan: Plan) -> None:
        if desired.revision == self._applied or not is_applied(desired, observed, plan):
            return
        self._applied = desired.revision
        self._history.set_applied(self._target, desired.revision)
        self._metrics.observe_commit_applied(self._target, time.time() - self._seen[1])
        self._log.info("applied", revision=desired.revision)
        self._note(desired.revision, "", "applied", _what_is_applied(holds_up(desired, plan)))

    def _note(self, revision: str, service: str, event: str, message: str) -> None:
        self._history.note(self._target, revision, service, event, message, time.time())


def _what_is_applied(held: tuple[HoldUp, ...]) -> str:
    if not held:
        return "everything is in sync with this revision"
    names = (f"{one.service}: {one.reason}" if one.service else str(one.reason) for one in held)
    return f"everything that can be is in sync with this revision; held up by {'; '.join(names)}"


def _is_repeated(action: Action, observed: Seen | Unreachable) -> bool:
    """A stuck replica is stopped again in every pass; the history shows it once."""
    if not isinstance(action, Stop) or not isinstance(observed, Observed):
        return False
    return any(r.id == action.replica and r.stopping_at is not None for r in observed.replicas)


def _sentence(action: Action) -> str:
    if isinstance(action, Start):
        return f"{action.replica.serial}: {action.reason}"
    if isinstance(action, EnsureProxy | Reject):
        return action.reason
    return f"{subject_of(action)}: {action.reason}"
