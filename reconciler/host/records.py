"""What is written down of replicas and services when actions are done to them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import assert_never

from reconciler.errors import Retryable
from reconciler.host.checks.preflights import Preflights
from reconciler.host.clock import Clock
from reconciler.host.inventory import Inventory
from reconciler.host.supervisor import Supervisor
from reconciler.host.translator import Translator
from reconciler.model import (
    Drain,
    Forget,
    MarkReady,
    NoteCrash,
    Owned,
    Promote,
    Promoted,
    Reattach,
    Relabel,
    ServiceId,
    TakeOwnership,
    Translation,
    Undrain,
)

_CRASHES_KEPT = 10
_RUNS_KEPT = 64
_LINES_OF_START = 4000


class Records:
    """Of one host, in its inventory. Every change is idempotent."""

    def __init__(
        self,
        target: str,
        inventory: Inventory,
        supervisor: Supervisor,
        translator: Translator,
        preflights: Preflights,
        clock: Clock,
    ) -> None:
        self._target = target
        self._inventory = inventory
        self._supervisor = supervisor
        self._translator = translator
        self._preflights = preflights
        self._clock = clock

    def note(self, action: MarkReady | Reattach | Relabel | Drain | Undrain) -> None:
        with self._inventory.changing():
            record = self._inventory.change(action.replica)
            match action:
                case MarkReady():
                    record = self._supervisor.note(record)
                    record = replace(record, ready_at=record.ready_at or self._clock.now(), again="")
                case Reattach():
                    record = self._supervisor.adopt(record)
                    if not action.serves:
                        # It has to load its model again, and gets the time for that.
                        record = replace(record, ready_at=None, created_at=self._clock.now(), again=action.reason)
                case Relabel():
                    record = replace(record, digest=action.digest, spec=action.spec, origin=action.origin)
                case Drain():
                    record = replace(record, draining_at=record.draining_at or self._clock.now())
                case Undrain():
                    record = replace(record, draining_at=None)
                case _:
                    assert_never(action)
            self._inventory.write(record)
        if isinstance(action, MarkReady):
            self._preflights.note_start(
                record.id.service, record.spec, self._supervisor.logs(record.id, _LINES_OF_START)
            )

    def remember(self, action: TakeOwnership | Promote | NoteCrash | Forget) -> None:
        match action:
            case Forget():
                self._inventory.forget_service(action.service)
            case TakeOwnership():
                known = self._inventory.service(action.service) or Owned(action.service, action.origin)
                self._inventory.remember_service(replace(known, origin=action.origin))
            case Promote():
                known = self._inventory.service(action.service) or Owned(action.service, action.promoted.origin)
                same = known.promoted is not None and known.promoted.digest == action.promoted.digest
                known = known if same else replace(known, crashes=(), conflicts=())
                promoted = replace(action.promoted, translation=self._proven(action.service, action.promoted, known))
                changed = replace(known, promoted=promoted, origin=action.promoted.origin)
                self._inventory.remember_service(changed)
            case NoteCrash():
                self._note_crash(action)
            case _:
                assert_never(action)

    def _proven(self, service: ServiceId, promoted: Promoted, known: Owned) -> Translation:
        """What the config made of it when it was started: of the youngest that serve."""
        same = [r for r in self._inventory.replicas() if r.id.service == service and r.digest == promoted.digest]
        serving = [record for record in same if record.ready_at is not None and record.draining_at is None]
        if serving and promoted.replicas:
            return max(serving, key=lambda record: record.created_at).translation
        return known.promoted.translation if known.promoted else ()

    def restart(self, service: ServiceId, who: str) -> None:
        """Write down that its replicas are to be replaced by new ones. Raises Retryable."""
        with self._inventory.changing():
            known = self._inventory.service(service)
            if known is None:
                raise Retryable(f"{service} has no record on {self._target} yet; try again once it has started")
            at = self._clock.now()
            when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            request = f"requested at {when} by {who}"
            self._inventory.remember_service(replace(known, restart=request, restarted_at=at))

    def complete(self) -> None:
        """Older daemons did not write down what the config made of a spec: they count as made by today's."""
        owned = self._inventory.services()
        for record in self._inventory.replicas():
            if not record.translation and (now := self._translator.of(record.spec, owned.get(record.id.service))):
                self._inventory.change(record.id, translation=now)
        for one in owned.values():
            if one.promoted is not None and not one.promoted.translation:
                now = self._translator.of(one.promoted.spec, one)
                self._inventory.remember_service(replace(one, promoted=replace(one.promoted, translation=now)))

    def _note_crash(self, action: NoteCrash) -> None:
        known = self._inventory.service(action.replica.service)
        if known is None:
            record = self._inventory.change(action.replica)
            known = Owned(record.id.service, record.origin)
        if action.run in known.counted:
            return
        known = replace(known, counted=(*known.counted, action.run)[-_RUNS_KEPT:])
        before = known.conflicts if action.conflict else known.crashes
        times = tuple(sorted({*before, action.at}))[-_CRASHES_KEPT:]
        noted = replace(known, conflicts=times) if action.conflict else replace(known, crashes=times)
        self._inventory.remember_service(noted)
