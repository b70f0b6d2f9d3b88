"""What answering commits costs the daemon: passes over 1,000 services, alone and beside an outbox of 10,000 messages
for a forge that is away; and what the outbox itself does in a second. Prints JSON."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from reconciler.config.forge import ForgeSettings
from reconciler.config.settings import HostSettings
from reconciler.forge.messages import CommitState, CommitStatus
from reconciler.forge.outbox import FORGE, Outbox
from reconciler.loop.answering import Answering
from reconciler.report.status import DaemonInfo, Document, RevisionInfo, build_status
from tests.bench.bench_pass import Synthetic, make_reconciler, make_snapshot
from tests.support import report_world

ROWS, SERVICES, PASSES = 10_000, 1_000, 60


def messages(number: int) -> list[CommitStatus]:
    text = "2 updated, 1 rejected: granite: unrecognized argument --max-modle-len (services/granite.yaml:31)"
    return [CommitStatus(f"{n:040x}", "reconciler/box", CommitState.FAILURE, text) for n in range(number)]


def outbox_alone(folder: Path) -> dict[str, float]:
    outbox, all_ = Outbox(folder / "outbox.db"), messages(ROWS)
    put = took(lambda: outbox.put(all_, time.time()))
    again = took(lambda: outbox.put(all_[:SERVICES], time.time()))
    shown = took(lambda: (outbox.waiting(), outbox.dead()))
    rows = outbox.due(FORGE, time.time(), 1000)
    delivered = took(lambda: deque(map(outbox.delivered, rows), 0))
    outbox.close()
    return {
        f"put_{ROWS}_ms": put,
        f"put_{SERVICES}_unchanged_ms": again,
        "status_of_the_outbox_ms": shown,
        "mark_one_delivered_ms": round(delivered / len(rows), 4),
    }


def took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(1e3 * (time.perf_counter() - began), 2)


class Passes:
    """No-op passes over services in memory, and the status document after each."""

    def __init__(self, folder: Path) -> None:
        settings = HostSettings.model_validate(
            {
                "name": "demo",
                "paths": ["runtimes", "demo"],
                "engines": [{"image": "vllm/vllm-openai-cpu:*", "python": sys.executable}],
                "volumes": {"models": "/models"},
            }
        )
        self.reconciler, self.history = make_reconciler(settings, Synthetic(), folder)  # type: ignore[arg-type]
        self.snapshot = make_snapshot(SERVICES)
        self.reconciler.run_pass(self.snapshot)

    def status(self) -> Document:
        info = RevisionInfo(self.snapshot.revision, self.snapshot.revision)
        return build_status(revision=info, targets=[self.reconciler.report], daemon=DaemonInfo("1", 1.0, 1, 1))

    def median(self, wake: Callable[[], None]) -> dict[str, float]:
        walls = []
        for _ in range(PASSES):
            began = time.perf_counter()
            self.reconciler.run_pass(self.snapshot)
            walls.append(1e3 * (time.perf_counter() - began))
            wake()
            time.sleep(0.05)
        p90 = statistics.quantiles(walls, n=10)[8]
        return {"median_ms": round(statistics.median(walls), 2), "p90_ms": round(p90, 2)}


@contextmanager
def answering(folder: Path, status: Callable[[], Document], rows: int) -> Iterator[Answering]:
    """With so much in the outbox, and a forge that nobody reaches."""
    folder.mkdir()
    (folder / "token").write_text("x")
    forge = ForgeSettings(kind="gitea", url="https://127.0.0.1:1", repository="a/b", token_file=str(folder / "token"))
    part = Answering(report_world.settings(folder, forge=forge), status)
    part.outbox.put(messages(rows), time.time())
    part.start()
    try:
        yield part
    finally:
        part.stop()


def main() -> None:
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        figures: dict[str, object] = {"outbox": outbox_alone(folder)}
        passes = Passes(folder)
        figures["passes_alone"] = passes.median(lambda: None)
        for rows in (0, ROWS):
            with answering(folder / f"state{rows}", passes.status, rows) as part:
                figures[f"passes_beside_{rows}_messages"] = passes.median(part.wake)
                figures[f"look_beside_{rows}_messages_ms"] = took(lambda: part.turn(time.time()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
