"""What the demo's daemon says on commits of a forge, told as it comes."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from reconciler.demo.narrator import Narrator
from reconciler.errors import Terminal
from reconciler.forge.commit_status import context_of
from reconciler.forge.messages import CommitState, CommitStatus
from reconciler.forge.outbox import FORGE, OUTBOX, Outbox

_LONGEST_WAIT = 120.0


class CommitStatusWatcher:
    """Of one target. They are read where the daemon keeps them until they are delivered."""

    def __init__(self, state_dir: Path, target: str, say: Narrator) -> None:
        self._file, self._context, self._say = state_dir / OUTBOX, context_of(target), say
        self._told: CommitStatus | None = None

    def tell(self, revision: str) -> CommitStatus | None:
        """What was said last on the commit; told if it is new."""
        if not self._file.exists():
            return None
        with closing(Outbox(self._file)) as outbox:
            said = outbox.last(CommitStatus(revision, self._context, CommitState.PENDING, ""))
        if isinstance(said, CommitStatus) and said != self._told:
            self._told = said
            self._say.tell(f"on commit {revision[:8]}: {said.context} {said.state}: {said.description}")
        return self._told

    def await_state(self, revision: str, state: CommitState) -> None:
        """Until this was said on the commit, and has reached the forge. Raises Terminal when it does not."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < deadline:
            said = self.tell(revision)
            if said and (said.revision, said.state) == (revision, state) and not self._waiting():
                return
            time.sleep(0.5)
        why = self._waiting() or f"the last was {self._told.description if self._told else 'nothing'}"
        raise Terminal(f"{state} was not said on commit {revision[:8]} within {_LONGEST_WAIT:g} s: {why}")

    def _waiting(self) -> str:
        """Why something waits for the forge; empty: nothing does."""
        with closing(Outbox(self._file)) as outbox:
            found = [one for one in outbox.waiting() if one.destination == FORGE and one.count]
        return found[0].error or "it is on its way" if found else ""
