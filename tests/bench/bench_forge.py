"""How soon a push to a real Gitea is acted on and answered. Prints JSON; needs what `tests/run.sh forge` builds.

Engines are engines in name only. `webhook_to_fetch`: from the request until git is asked. `push_to_first_action`: from
the end of `git push`; Gitea sends its webhook a little before that. `fact_to_status`: from when the daemon tells that a
commit is live until Gitea tells so. `pass`: what a pass takes, with an empty outbox and with one of 10,000 messages for
a forge that refuses the token.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from reconciler.forge.messages import CommitState, CommitStatus
from reconciler.forge.outbox import OUTBOX, Outbox
from tests.bench.bench_push import first_action
from tests.e2e.forge_rig import SEQS, ForgeRig, light_parts, metric, said_by_webhook
from tests.forge.gitea.account import Account
from tests.forge.gitea.server import Gitea, find_program

_SHIM = '#!/bin/sh\ndate +%s.%N >>"{log}"\nexec {git} "$@"\n'


def main(pushes: int = 15, webhooks: int = 30, passes: int = 15) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        gitea = Gitea(folder / "gitea", find_program())
        asked = watch_git(folder)
        forge = Account.create(gitea).new_repository()
        rig = ForgeRig(folder / "rig", **light_parts(folder), forge=forge)
        try:
            rig.start()
            rig.converge()
            rig.answer(rig.repository.head(), "success")
            figures = {"webhook_to_fetch": [webhook_to_fetch(rig, asked) for _ in range(webhooks)]}
            # What writes down costs time itself.
            (folder / "bin" / "git").unlink()
            seen = [push(rig, 20 + number) for number in range(pushes)]
            figures |= {
                "push_to_first_action": [each[0] for each in seen],
                "fact_to_status": [each[1] for each in seen],
            }
            figures["pass_with_empty_outbox"] = [pass_seconds(rig) for _ in range(passes)]
            forge.owner.revoke(rig.token)
            fill_outbox(rig)
            figures["pass_with_full_outbox"] = [pass_seconds(rig) for _ in range(passes)]
        finally:
            rig.close()
            gitea.close()
    print(json.dumps({f"{name}_ms_{kind}": value for name, values in figures.items() for kind, value in shown(values)}))


def shown(seconds: list[float]) -> list[tuple[str, float]]:
    return [("p50", round(statistics.median(seconds) * 1e3, 1)), ("max", round(max(seconds) * 1e3, 1))]


def watch_git(folder: Path) -> Path:
    """Processes that are started from now on write down when they call git."""
    real = next(Path(place) / "git" for place in os.environ["PATH"].split(":") if (Path(place) / "git").exists())
    shim = folder / "bin" / "git"
    shim.parent.mkdir()
    log = folder / "asked"
    log.touch()
    shim.write_text(_SHIM.format(log=log, git=real))
    shim.chmod(0o755)
    os.environ["PATH"] = f"{shim.parent}:{os.environ['PATH']}"
    return log


def webhook_to_fetch(rig: ForgeRig, asked: Path) -> float:
    """Seconds."""
    # More than one in a second is not answered by asking git again.
    time.sleep(1.5)
    before = len(asked.read_text().splitlines())
    sent = time.time()
    assert said_by_webhook(rig) == 202
    return float(rig.wait("git to be asked", lambda: asked.read_text().splitlines()[before:], 10)[0]) - sent


def pass_seconds(rig: ForgeRig) -> float:
    """The mean of the passes that one `sync` has made."""
    before = [metric(rig, f"reconciler_reconcile_duration_seconds_{name}") for name in ("sum", "count")]
    rig.ask("sync")
    after = [metric(rig, f"reconciler_reconcile_duration_seconds_{name}") for name in ("sum", "count")]
    return (after[0] - before[0]) / (after[1] - before[1])


def fill_outbox(rig: ForgeRig, messages: int = 10_000) -> None:
    """With what waits until the forge takes the token."""
    texts = [CommitStatus(f"{number:040x}", "tests", CommitState.SUCCESS, "done") for number in range(messages)]
    with closing(Outbox(rig.state_dir / OUTBOX)) as outbox:
        outbox.put(texts, time.time())


def push(rig: ForgeRig, seqs: int) -> tuple[float, float]:
    """Seconds from the end of the push to the first action, and from a live commit to its status."""
    rig.repository.edit(rig.manifest, SEQS, f"--max-num-seqs={seqs}")
    revision = rig.repository.push("Change an argument")
    pushed = time.time()
    began = rig.wait("the first action", lambda: first_action(rig, revision), 60) - pushed
    rig.wait("it to be live", lambda: rig.is_applied(revision), 60)
    live = time.time()
    rig.answer(revision, "success")
    return began, time.time() - live


if __name__ == "__main__":
    main()
