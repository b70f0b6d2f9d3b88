"""Whole passes over many services, from a real snapshot to the report, with a synthetic answer of the target.

Prints JSON: a first pass (parse, resolve, plan), passes that change nothing, and the memory of the process.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from reconciler.config.settings import HostSettings
from reconciler.loop.deletions import DeletionGuard
from reconciler.loop.host_wing import Host, HostWing
from reconciler.loop.reconcile import Reconciler
from reconciler.loop.recorder import Recorder
from reconciler.model import (
    Capacity,
    Desired,
    Endpoint,
    File,
    Lease,
    Observed,
    Owned,
    Promoted,
    Replica,
    ReplicaId,
    Routed,
    ServiceRoute,
    Snapshot,
)
from reconciler.report.history import History
from reconciler.state.approvals import Approvals
from reconciler.state.cordon import Cordon
from reconciler.state.suspension import Suspension
from reconciler.web.metrics import Metrics

LAYOUT = Path(__file__).parents[2] / "repo_layout"


class Synthetic:
    """A target on which every service is in sync with git."""

    name = "demo"

    def __init__(self) -> None:
        self._answer: Observed | None = None
        self.written = 0

    def observe(self, wanted: tuple[Desired, ...]) -> Observed:
        if self._answer is None:
            replicas = tuple(_replica(one, 20000 + n) for n, one in enumerate(wanted))
            self._answer = Observed(
                target=self.name,
                at=time.time(),
                replicas=replicas,
                capacity=Capacity(10**9, 10**18),
                owned={one.id: owned_of(one) for one in wanted},
                routes={r.service: ServiceRoute(r.service, (Endpoint(r.id, r.lease.port),)) for r in replicas},
            )
        # A real answer is new every time: nothing may depend on its being the same object.
        copies = tuple(replace(replica) for replica in self._answer.replicas)
        return replace(self._answer, at=time.time(), replicas=copies)

    def preflight(self, wanted: tuple[Desired, ...], observed: Observed) -> Observed:
        return observed

    def perform(self, action: object) -> None:
        self.written += 1

    def close(self) -> None:
        return


def _replica(want: Desired, port: int) -> Replica:
    assert want.spec is not None, want.problems
    return Replica(
        id=ReplicaId(want.id, f"{want.digest[:8]}-0"),
        digest=want.digest,
        spec=want.spec,
        origin=want.origin,
        lease=Lease(port),
        created_at=1.0,
        ready_at=2.0,
        healthy=True,
        routed=Routed.ACTIVE,
    )


def owned_of(want: Desired) -> Owned:
    assert want.spec is not None
    promoted = Promoted(want.digest, want.spec, 1, want.origin, "r", 3.0, want.drain_timeout)
    return Owned(want.id, want.origin, promoted)


def make_snapshot(count: int) -> Snapshot:
    service = (LAYOUT / "demo/tiny.yaml").read_text()
    files = [_file("runtimes/vllm-cpu.yaml", (LAYOUT / "runtimes/vllm-cpu.yaml").read_text())]
    files.append(_file("demo/host.yaml", (LAYOUT / "demo/host.yaml").read_text()))
    files += [_file(f"demo/s{n}.yaml", service.replace("name: tiny\n", f"name: s{n}\n", 1)) for n in range(count)]
    return Snapshot("a" * 40, tuple(files))


def _file(path: str, text: str) -> File:
    return File(path, str(hash((path, text))), text.encode())


def make_reconciler(settings: HostSettings, target: Host, folder: Path) -> tuple[Reconciler, History]:
    history = History(folder / "state.db")
    suspension, cordon = Suspension(folder / "suspended.json"), Cordon(folder / "cordon.json")
    recorder = Recorder("demo", history, Metrics())
    deletions = DeletionGuard(settings.prune.limits, Approvals(folder / "approvals.json"), recorder)
    wing = HostWing(settings, target)
    return Reconciler(settings, wing, history, suspension, cordon, recorder, deletions), history


def measure(count: int) -> dict[str, float]:
    settings = HostSettings.model_validate(
        {
            "name": "demo",
            "paths": ["runtimes", "demo"],
            "engines": [{"image": "vllm/vllm-openai-cpu:*", "python": sys.executable}],
            "volumes": {"models": "/models"},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        target = Synthetic()
        reconciler, history = make_reconciler(settings, target, Path(folder))
        snapshot = make_snapshot(count)
        began, began_cpu = time.perf_counter(), time.process_time()
        reconciler.run_pass(snapshot)
        cold, cold_cpu = time.perf_counter() - began, time.process_time() - began_cpu
        walls, cpus = [], []
        for _ in range(9):
            wall, cpu = time.perf_counter(), time.process_time()
            one_pass = reconciler.run_pass(snapshot)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
            assert not one_pass.plan.actions
        assert target.written == 0
        reconciler.close()
        history.close()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        f"first_pass_{count}_services_ms": round(cold * 1e3, 1),
        f"first_pass_{count}_services_cpu_ms": round(cold_cpu * 1e3, 1),
        f"noop_pass_{count}_services_ms": round(statistics.median(walls) * 1e3, 2),
        f"noop_pass_{count}_services_cpu_ms": round(statistics.median(cpus) * 1e3, 2),
        f"rss_{count}_services_mib": round(rss, 1),
    }


if __name__ == "__main__":
    import structlog

    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    figures: dict[str, float] = {}
    for number in (1_000, 10_000):
        figures |= measure(number)
    print(json.dumps(figures))
