"""The daemon, killed with -9 around every message to a forge, once at each point, and started again at once.

usage: crashing_while_told.py run --config FILE. It dies once a message is in the outbox, before it is posted, and once
it is posted but not marked so. `boundaries`, beside the config, names where it died: see `tests/e2e/crashing.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.forge.gitea import Gitea
from reconciler.forge.messages import CommitStatus, Message
from reconciler.forge.outbox import Outbox
from tests.e2e import crashing


def watch_calls() -> None:
    put, post = Outbox.put, Gitea.set_status

    def putting(outbox: Outbox, messages: Iterable[Message], now: float) -> int:
        known = list(messages)
        count = put(outbox, known, now)
        for one in known if count else ():
            if isinstance(one, CommitStatus):
                crashing.boundary(f"row {one.state} {one.revision}")
        return count

    def posting(forge: Gitea, status: CommitStatus) -> None:
        crashing.boundary(f"before {status.state} {status.revision}")
        post(forge, status)
        crashing.boundary(f"after {status.state} {status.revision}")

    Outbox.put, Gitea.set_status = putting, posting  # type: ignore[method-assign]


if __name__ == "__main__":
    crashing.live_again_and_again(watch_calls, files=False)
