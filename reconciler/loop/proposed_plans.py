"""The process that plans revisions which nobody has accepted yet, for the daemon: what it costs is not the daemon's.

usage: python -P -m reconciler.loop.proposed_plans LIFELINE

Standard input: the pickled arguments. Standard output: for each revision one line of JSON, `{"revision", "plan"}` or
`{"revision", "error", "lasting"}`; `lasting`: another try would end so as well. It ends with the daemon.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.settings import Settings
from reconciler.errors import ReconcileError, Retryable
from reconciler.evaluation.worker import end_with
from reconciler.fault_isolation import unexpected
from reconciler.loop.once import Preview, preview_each
from reconciler.report import log as logs
from reconciler.report.planned import plan_document
from reconciler.system.process_limits import be_ended_first

_NICE = 10
_KEPT_SECONDS = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class ProposedPlansArguments:
    """`folder` keeps what was fetched and asked for the next process."""

    settings: Settings
    revisions: tuple[str, ...]
    folder: Path


def main(lifeline: int) -> None:
    end_with(lifeline)
    os.nice(_NICE)
    be_ended_first()
    # Only answers may reach standard output.
    out = os.dup(1)
    os.dup2(2, 1)
    orders: ProposedPlansArguments = pickle.load(sys.stdin.buffer)  # noqa: S301
    logs.configure(orders.settings.log.model_copy(update={"level": "warning"}))
    _forget_old(orders.folder)
    with os.fdopen(out, "w") as answers:
        for revision, found in preview_each(orders.settings, orders.revisions, orders.folder):
            answers.write(json.dumps({"revision": revision, **_answer(found)}) + "\n")
            answers.flush()


def _forget_old(folder: Path) -> None:
    """What engines said of arguments that nobody has proposed for a while."""
    for path in folder.glob("*/preflight/*.json"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                path.unlink()


def _answer(found: Preview | Exception) -> dict[str, object]:
    if isinstance(found, ReconcileError):
        return {"error": str(found), "lasting": not isinstance(found, Retryable)}
    if isinstance(found, Exception):
        return {"error": unexpected(found), "lasting": True}
    try:
        return {"plan": plan_document(found.status, found.plans)}
    except Exception as error:
        return {"error": unexpected(error), "lasting": True}


if __name__ == "__main__":
    main(int(sys.argv[1]))
