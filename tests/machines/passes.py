"""Run inside a machine while no daemon does: passes over what runs there. Prints what they cost, as JSON.

usage: passes.py CONFIG COUNT
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from reconciler.config.settings import Settings
from reconciler.loop.wiring import make_history, make_place, make_source
from reconciler.report import log as logs
from reconciler.web.metrics import Metrics
from tests.machines.many_units import Counter


def main(config: Path, count: int) -> dict[str, object]:
    settings = Settings.load(config)
    # To standard error: what is printed is JSON.
    logs.configure(settings.log)
    source, history = make_source(settings), make_history(settings)
    place = make_place(settings.targets[0], settings, history, Metrics())
    place.target.lock()
    snapshot = source.last_good()
    assert snapshot is not None, "a daemon has accepted a revision before"
    counter = Counter()
    walls, cpus, trips, actions = [], [], [], []
    for _ in range(count):
        before, wall, cpu = counter.count, time.perf_counter(), time.thread_time()
        actions.append(len(place.reconciler.run_pass(snapshot).plan.actions))
        walls.append(1000 * (time.perf_counter() - wall))
        cpus.append(1000 * (time.thread_time() - cpu))
        trips.append(counter.count - before)
        # What the probes and signals of the first ones bring is over by then.
        time.sleep(0.05)
    place.reconciler.close()
    source.close()
    history.close()
    # The first reads everything again.
    return {
        "ms": round(statistics.median(walls[1:]), 1),
        "cpu_ms": round(statistics.median(cpus[1:]), 1),
        "first_ms": round(walls[0], 1),
        "trips": max(trips[1:]),
        "actions": sum(actions),
        "strangers": sorted({"kubernetes", "torch", "vllm"} & sys.modules.keys()),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
