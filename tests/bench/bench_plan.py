"""A pass that changes nothing over many services, and the plan of a first one. Prints JSON; asserts nothing."""

from __future__ import annotations

import json
import statistics
import time

from reconciler.host.plan import make_plan
from reconciler.model import Holds
from tests.support.simulation import PATIENCE, Host, state, wanted


def main() -> None:
    figures: dict[str, float] = {}
    for count in (1_000, 10_000):
        commit = state(*[wanted(f"s{n:05d}", "good1") for n in range(count)])
        host = Host(memory=count + 10)
        host.ports = count + 10
        host.converge(commit)
        observed = host.observe()
        times = []
        for _ in range(7):
            began = time.perf_counter()
            plan = make_plan(commit, observed, Holds(), PATIENCE)
            times.append((time.perf_counter() - began) * 1e3)
            assert not plan.actions
        figures[f"noop_plan_{count}_services_ms"] = round(statistics.median(times), 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
