"""Where every action of a plan is performed: quarantines and records of the daemon here, all else by the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from reconciler.errors import Retryable
from reconciler.model import Action, KeepLastGood, NoteFailure, Promote, Quarantine, Reject, ServiceId
from reconciler.model.target import Target
from reconciler.report.history import History


class QuarantineLog:
    """The quarantines of one target."""

    def __init__(self, target: str, history: History) -> None:
        self._target = target
        self._history = history
        self._unwritten: dict[tuple[ServiceId, str], Quarantine] = {}
        self._elsewhere: dict[tuple[ServiceId, str], Quarantine] = {}
        self._lifted: set[tuple[ServiceId, str]] = set()

    def see(self, elsewhere: Iterable[Quarantine]) -> None:
        """What is on record on the target itself, where another daemon may have written it. What was lifted here stays
        lifted until it is off that record."""
        self._elsewhere = {(each.service, each.digest): each for each in elsewhere}
        self._lifted &= self._elsewhere.keys()

    def now(self) -> Mapping[tuple[ServiceId, str], Quarantine]:
        """All that hold. What could not be written before is written first, if it can be by now."""
        for quarantine in tuple(self._unwritten.values()):
            with suppress(Retryable):
                self.reject(quarantine)
        elsewhere = {key: each for key, each in self._elsewhere.items() if key not in self._lifted}
        return {**elsewhere, **self._unwritten, **self._history.quarantines(self._target)}

    def reject(self, quarantine: Quarantine) -> None:
        """A disk that is full must not have a digest tried that failed."""
        key = (quarantine.service, quarantine.digest)
        self._lifted.discard(key)
        self._unwritten[key] = quarantine
        self._history.reject(self._target, quarantine)
        self._unwritten.pop(key, None)

    def lift(self, service: ServiceId) -> None:
        """Git has moved on successfully: what failed before may be tried again when git asks for it again."""
        self._history.lift(self._target, service)
        self._lifted |= {key for key in self._elsewhere if key[0] == service}
        self._unwritten = {key: one for key, one in self._unwritten.items() if key[0] != service}

    def forget(self, service: str | None) -> set[str]:
        """Try everything of a service again; None: of all. Returns the services that this concerns."""
        chosen = [key for key in self.now() if service in (None, str(key[0]))]
        for key in chosen:
            self._unwritten.pop(key, None)
            self._lifted |= {key} & self._elsewhere.keys()
            self._history.lift(self._target, *key)
        return {str(one) for one, _ in chosen}


@dataclass(frozen=True, slots=True)
class Performer:
    """Performs actions on one target."""

    target: Target
    quarantines: QuarantineLog

    def perform(self, action: Action) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""
        match action:
            case Reject():
                self.quarantines.reject(action.quarantine)
            case NoteFailure():
                """Its result is what is kept, by the log of failures."""
            case Promote():
                self.target.perform(action)
                if action.promoted.replicas:
                    self.quarantines.lift(action.service)
            case KeepLastGood():
                self.target.perform(action)
                self.quarantines.lift(action.service)
            case _:
                self.target.perform(action)
