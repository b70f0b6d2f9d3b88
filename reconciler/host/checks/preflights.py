"""The preflight verdicts on desired specs: valid as long as the question stays the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.preflight import PreflightRunner, engine_version, key_of
from reconciler.engines.verdict import NoVerdict, PreflightVerdict
from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.host.checks.fits import Fits
from reconciler.host.checks.start_checks import StartChecks
from reconciler.host.known_bugs import KnownBugs
from reconciler.host.staging.weights import UnusableFolder
from reconciler.host.workload import Workloads
from reconciler.model import (
    AskPreflight,
    Desired,
    EffectiveSpec,
    NoOrigin,
    Observed,
    Origin,
    Owned,
    Preflight,
    Reason,
    ReasonCode,
    Replica,
    ServiceId,
)
from reconciler.system.files import Stamp, Stamps

NEVER: Mapping[ServiceId, float] = {}


@dataclass(slots=True)
class _KnownQuestion:
    """A question and what it was made from: it need not be made again while all that is as it was."""

    desired: Desired
    seen: tuple[tuple[str, Stamp], ...]
    engine: str
    asked: PreflightQuestion
    key: str
    verdict: PreflightVerdict | None = None
    preflight: Preflight | None = None

    def about(self, verdict: PreflightVerdict) -> Preflight:
        """The verdict as text, computed once."""
        if self.preflight is None or self.verdict is not verdict:
            self.verdict = verdict
            self.preflight = verdict.about(self.asked, self.desired.origin, dict(self.desired.variable_origins))
        return self.preflight


class _HostView:
    """What one pass sees of the host, each file and each engine once."""

    def __init__(self, workloads: Workloads) -> None:
        self.stamps = Stamps()
        self._workloads = workloads
        self._engines: dict[Path, str] = {}

    def engine(self, asked: PreflightQuestion) -> str:
        """The engine's version; an image's is its ID."""
        if asked.image:
            return ""
        if asked.python not in self._engines:
            self._engines[asked.python] = engine_version(asked.python)
        return self._engines[asked.python]

    def holds(self, known: _KnownQuestion, desired: Desired) -> bool:
        """Would its question be made just so again?"""
        return (
            (known.desired is desired or (known.desired == desired and _lines(known.desired) == _lines(desired)))
            and known.engine == self.engine(known.asked)
            and self._has_image(known)
            and all(self.stamps.of(path) == stamp for path, stamp in known.seen)
        )

    def _has_image(self, known: _KnownQuestion) -> bool:
        if not known.asked.image or known.desired.spec is None:
            return True
        try:
            return self._workloads.image(known.desired.spec) == known.asked.image
        except Retryable:
            return False


def _lines(desired: Desired) -> list[Origin | NoOrigin]:
    """Where its arguments stand: what the engine says of them names these lines."""
    return [each.origin for each in desired.spec.command_line] if desired.spec else []


@dataclass(frozen=True, slots=True)
class SpecVerdicts:
    """What is known of specs, by digest; the fields are Observed's."""

    preflights: dict[str, Preflight] = field(default_factory=dict)
    asking: set[str] = field(default_factory=set)
    blockers: dict[str, tuple[Reason, ...]] = field(default_factory=dict)


class Preflights:
    """The verdicts on desired specs: the engine's own, kept on disk; and missing weights, checked every time."""

    def __init__(
        self,
        workloads: Workloads,
        runner: PreflightRunner,
        wake: Callable[[], None],
        fits: Fits,
        checks: StartChecks | None,
    ) -> None:
        """Without `checks`, only the engine is asked."""
        self._workloads = workloads
        self._checks = checks
        self._fits = fits
        self._wake = wake
        self._runner = runner
        self._refused: dict[str, Preflight] = {}
        self._known: dict[tuple[ServiceId, str], _KnownQuestion] = {}
        self._bugs = KnownBugs()
        self._tidied: object = None
        self._since: Mapping[ServiceId, float] = NEVER

    def ask(self, action: AskPreflight) -> None:
        """Begin a preflight. Raises Retryable when none is possible now."""
        if bug := self._bugs.of((action.service, action.digest)):
            raise Retryable(bug)
        try:
            asked = self._workloads.question(action.service, action.spec)
        except Terminal as error:
            self._refused[action.digest] = _refusal(error, action.origin)
            self._wake()
            return
        self._runner.ask(asked, self._since.get(action.service, 0.0))

    def look_up(
        self,
        wanted: Iterable[Desired],
        running: Collection[str],
        since: Mapping[ServiceId, float] = NEVER,
    ) -> SpecVerdicts:
        """The known verdicts, the running preflights, and the blockers of those digests that are not `running`.

        What was said of a service before `since`, seconds since 1970, does not count any more.
        """
        self._since = since
        found = SpecVerdicts()
        look, pending, known = _HostView(self._workloads), self._runner.pending(), {}
        wanted = tuple(wanted)
        if self._refused:
            asked = {desired.digest for desired in wanted}
            self._refused = {digest: preflight for digest, preflight in self._refused.items() if digest in asked}
        for desired in wanted:
            try:
                question = self._question(desired, look, found.preflights)
                if question is not None:
                    known[desired.id, desired.digest] = question
                    if desired.digest in running or not self._is_blocked(question, found):
                        self._answer(question, pending, found)
            except ReconcileError:
                raise
            except Exception as error:
                # No verdict is neither accepted nor rejected: the reason is reported.
                self._bugs.note((desired.id, desired.digest), error)
            else:
                self._bugs.lift((desired.id, desired.digest))
        self._known = known
        return found

    def tidy(self, owned: Mapping[ServiceId, Owned], replicas: Iterable[Replica]) -> None:
        """Delete verdicts and measurements that no desired, running or promoted spec needs.

        It costs nothing while none of these changes.

        Where a question cannot be made now, its verdict goes as well: the engine is asked again once it can.
        """
        kept = [(service, one.promoted) for service, one in owned.items() if one.promoted is not None]
        there = {one.digest: one for one in replicas}
        keys = frozenset(known.key for known in self._known.values())
        now = keys, self._runner.answers, tuple(one.digest for _, one in kept), frozenset(there)
        if now == self._tidied:
            return
        self._tidied = now
        asked = [known.asked for known in self._known.values()]
        specs = [*((service, one.spec) for service, one in kept), *((r.id.service, r.spec) for r in there.values())]
        for service, spec in specs:
            with suppress(Retryable, Terminal):
                try:
                    asked.append(self._workloads.question(service, spec))
                except ReconcileError:
                    raise
                except Exception as error:
                    self._bugs.note((service, "what runs"), error)
        self._runner.keep({key_of(each) for each in asked}, asked)
        self._fits.keep(asked)

    def _is_blocked(self, known: _KnownQuestion, found: SpecVerdicts) -> bool:
        """Is there something in the way, whatever the engine says of the arguments?"""
        desired, spec = known.desired, known.desired.spec
        if spec is None or not desired.replicas or self._checks is None:
            return False
        checked = self._checks.of(desired, spec, known.asked)
        if checked.refused:
            found.preflights[desired.digest] = Preflight("", reasons=checked.refused)
        if checked.blocked:
            found.blockers[desired.digest] = checked.blocked
        return bool(checked.refused or checked.blocked)

    def _answer(self, known: _KnownQuestion, pending: Collection[str], found: SpecVerdicts) -> None:
        desired, spec = known.desired, known.desired.spec
        verdict = self._runner.result(known.key, self._since.get(desired.id, 0.0))
        if verdict is not None and spec is not None:
            fit = self._fits.of(known.key, known.asked, spec, verdict)
            preflight = known.about(verdict)
            if preflight.fit is not fit:
                known.preflight = preflight = replace(preflight, fit=fit)
            found.preflights[desired.digest] = preflight
        elif known.key in pending:
            found.asking.add(desired.digest)
        if verdict is None and (trouble := self._runner.trouble(known.key)) and trouble.lasts:
            found.blockers[desired.digest] = (_no_verdict(trouble.error, desired, known.asked),)
            if not trouble.is_due:
                found.asking.add(desired.digest)

    def note_start(self, service: ServiceId, spec: EffectiveSpec, log: Iterable[str]) -> None:
        """A replica of this spec became ready, and this is its log: keep its memory figures."""
        with suppress(Retryable, Terminal):
            asked = self._workloads.question(service, spec)
            name = key_of(asked)
            if verdict := self._runner.result(name):
                self._fits.note(name, asked, spec, verdict, log)

    def close(self) -> None:
        self._runner.close()

    def _question(self, desired: Desired, look: _HostView, refused: dict[str, Preflight]) -> _KnownQuestion | None:
        """What can be asked; notes in `refused` what cannot, where that was said before."""
        known = self._known.get((desired.id, desired.digest))
        return known if known is not None and look.holds(known, desired) else self._new_question(desired, look, refused)

    def _new_question(self, desired: Desired, look: _HostView, refused: dict[str, Preflight]) -> _KnownQuestion | None:
        if desired.spec is None:
            return None
        try:
            asked = self._workloads.question(desired.id, desired.spec)
            files = self._workloads.files(desired.id, desired.spec, asked)
            seen = tuple((path, look.stamps.of(path)) for path in files)
            engine = look.engine(asked)
            # Only now that we know what it looked like before: what changes meanwhile is noticed by the next pass.
            asked = self._workloads.question(desired.id, desired.spec)
        except Retryable:
            return None
        except Terminal as error:
            if desired.digest in self._refused:
                refused[desired.digest] = _at_its_mount(_refusal(error, desired.origin), desired)
            return None
        # The files are there now: what was said before does not hold any more.
        self._refused.pop(desired.digest, None)
        return _KnownQuestion(desired, seen, engine, asked, key_of(asked))


def running_digests(wanted: Iterable[Desired], observed: Observed) -> frozenset[str]:
    """The digests of which enough runs already: nothing has to be started for them. Services may share one."""
    alive = Counter(r.digest for r in observed.replicas if r.alive and r.stopping_at is None and r.draining_at is None)
    asked: Counter[str] = Counter()
    for one in wanted:
        asked[one.digest] += max(1, one.replicas)
    outdated = {digest for _, digest in observed.outdated}
    return frozenset(digest for digest, count in asked.items() if alive[digest] >= count and digest not in outdated)


def _refusal(error: Terminal, origin: Origin) -> Preflight:
    code = error.code if isinstance(error, UnusableFolder) else ReasonCode.MODEL_NOT_FOUND
    return Preflight("", reasons=(Reason(code, str(error), origin),))


def _at_its_mount(preflight: Preflight, desired: Desired) -> Preflight:
    """Where the service says which model it is."""
    where = dict(desired.mount_origins).get("/mnt/models") or next((each for _, each in desired.mount_origins), None)
    return replace(preflight, reasons=tuple(replace(one, origin=where or one.origin) for one in preflight.reasons))


def _no_verdict(error: NoVerdict, desired: Desired, asked: PreflightQuestion) -> Reason:
    """The preflight is repeated, but nothing should wait for it."""
    lines = dict(desired.variable_origins)
    text = f"variable {error.variable}: {error}" if error.variable in lines else str(error)
    return Reason(ReasonCode.PREFLIGHT_FAILED, text, error.origin(asked) or lines.get(error.variable) or desired.origin)
