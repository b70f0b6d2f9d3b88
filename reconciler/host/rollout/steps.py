"""What one service needs done in this pass, collected while it is decided."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.model import Action, Reason, ReplicaId, Stage, StageImage, Start, Stop, TakeOwnership

SOON = 0.2


class Steps:
    """Grows in the order in which things are decided. Of what was decided earlier, later steps depend on no more than
    `started`, `stopped`, `staged` and `takes_ownership`.

    `text` is the one line for people, `strategy` the way to the goal in words, `lacking` why a replica could not start.
    """

    def __init__(self) -> None:
        self._records: list[Action] = []
        self._processes: list[Action] = []
        self.text = self.strategy = ""
        self.lacking: tuple[Reason, ...] = ()
        self.look_again_at: float | None = None

    def record(self, action: Action) -> None:
        """Written down before the routes change."""
        self._records.append(action)

    def act(self, action: Action) -> None:
        """Done after the routes have changed."""
        self._processes.append(action)

    def look(self, at: float) -> None:
        """Look again at this time, or earlier."""
        self.look_again_at = at if self.look_again_at is None else min(at, self.look_again_at)

    def say(self, text: str) -> None:
        """The first thing said is what people read."""
        self.text = self.text or text

    def lack(self, reasons: tuple[Reason, ...]) -> None:
        """The first start that lacks something says what."""
        self.lacking = self.lacking or reasons

    @property
    def records(self) -> tuple[Action, ...]:
        return tuple(self._records)

    @property
    def processes(self) -> tuple[Action, ...]:
        return tuple(self._processes)

    def started(self) -> set[ReplicaId]:
        return {action.replica for action in self._processes if isinstance(action, Start)}

    def stopped(self) -> set[ReplicaId]:
        return {action.replica for action in self._processes if isinstance(action, Stop)}

    def staged(self) -> set[str]:
        """The keys of models, and the images, that are fetched from now on."""
        return set(self._staged())

    def _staged(self) -> Iterator[str]:
        for action in self._processes:
            if isinstance(action, Stage):
                yield action.key
            elif isinstance(action, StageImage):
                yield action.image

    def takes_ownership(self) -> bool:
        return any(isinstance(action, TakeOwnership) for action in self._records)
