"""Passes over a real host target in which nothing changed, for many services. Prints JSON.

Its records, verdicts and models are real files; only processes, proxy and probes are taken as given, because so many do
not fit on one machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from reconciler.config.settings import HostSettings as Settings
from reconciler.desired import build_desired
from reconciler.engines.preflight import key_of
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.probing.probing import ProbeState, Subject
from reconciler.host.routing.admin import EndpointState
from reconciler.host.routing.envoy import ProxyState
from reconciler.host.supervisor import ProcessState
from reconciler.host.target import HostTarget
from reconciler.manifests import ManifestCache, narrow, read_manifests
from reconciler.model import Action, Desired, Endpoint, Lease, Observed, ReplicaId, Routed, ServiceRoute, Unreachable
from tests.bench.bench_pass import make_reconciler, make_snapshot, owned_of
from tests.support.world import record

VERDICT = {"parsed": "as it is", "gpus": 0, "errors": [], "warnings": []}


class Steady(HostTarget):
    """All that is on record runs and serves."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(settings, folder, lambda: None)
        self._routed: ProxyState | None = None
        self.observing: list[float] = []
        self._supervisor.list = _all_alive  # type: ignore[method-assign]
        self._proxy.observe = self._all_routed  # type: ignore[method-assign]
        self._probes.watch = _nobody  # type: ignore[method-assign]
        self._probes.probe_state = lambda _: ProbeState(ready=True, healthy=True)  # type: ignore[method-assign]

    def observe(self, wanted: tuple[Desired, ...]) -> Observed | Unreachable:
        began = time.process_time()
        try:
            return super().observe(wanted)
        finally:
            self.observing.append(1000 * (time.process_time() - began))

    def preflight(self, wanted: tuple[Desired, ...], observed: Observed) -> Observed | Unreachable:
        began = time.process_time()
        try:
            return super().preflight(wanted, observed)
        finally:
            self.observing[-1] += 1000 * (time.process_time() - began)

    def perform(self, action: Action) -> None:
        raise AssertionError(f"there is nothing to do, but it wants {action}")

    def _all_routed(self) -> ProxyState:
        if self._routed is None:
            records = self._inventory.replicas()
            ports = {each.lease.port: EndpointState(Routed.ACTIVE, 0) for each in records}
            routes = {each.id.service: _route(each) for each in records}
            self._routed = ProxyState(True, True, ports, routes)
        return self._routed


def _route(record: ReplicaRecord) -> ServiceRoute:
    return ServiceRoute(record.id.service, (Endpoint(record.id, record.lease.port),))


def _all_alive(records: Iterable[ReplicaRecord]) -> Mapping[ReplicaId, ProcessState]:
    return {each.id: ProcessState(alive=True) for each in records}


def _nobody(_: Iterable[Subject]) -> None:
    return


def fill(target: Steady, folder: Path, wanted: tuple[Desired, ...]) -> None:
    """A record for every service, and the verdict on its arguments."""
    inventory, one = Inventory(folder), record()
    (folder / "preflight").mkdir(parents=True)
    for n, want in enumerate(wanted):
        assert want.spec is not None, want.problems
        replica = ReplicaId(want.id, f"{want.digest[:8]}-0")
        lease = Lease(20000 + n)
        inventory.write(
            replace(one, id=replica, digest=want.digest, spec=want.spec, origin=want.origin, lease=lease, ready_at=2.0)
        )
        inventory.remember_service(owned_of(want))
        asked = target._workloads.question(want.id, want.spec)
        (folder / "preflight" / f"{key_of(asked)}.json").write_text(json.dumps(VERDICT))


def measure(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "models" / "tiny"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        settings = Settings.model_validate(
            {
                "name": "demo",
                "paths": ["runtimes", "demo"],
                "engines": [{"image": "vllm/vllm-openai-cpu:*", "python": sys.executable}],
                "volumes": {"models": str(folder / "models")},
                "gpus": [],
            }
        )
        snapshot = make_snapshot(count)
        own = narrow(snapshot, settings.paths)
        wanted = build_desired(read_manifests(own, ManifestCache()), settings, own).services
        target = Steady(settings, folder / "state")
        fill(target, folder / "state", wanted)
        reconciler, history = make_reconciler(settings, target, folder)
        walls, cpus = [], []
        for _ in range(10):
            wall, cpu = time.perf_counter(), time.process_time()
            one_pass = reconciler.run_pass(snapshot)
            walls.append(1000 * (time.perf_counter() - wall))
            cpus.append(1000 * (time.process_time() - cpu))
            assert isinstance(one_pass.observed, Observed), one_pass.observed
            assert (len(one_pass.observed.replicas), len(one_pass.observed.preflights)) == (count, count)
        reconciler.close()
        history.close()
    return {
        f"first_host_pass_{count}_services_ms": round(walls[0], 1),
        f"noop_host_pass_{count}_services_ms": round(statistics.median(walls[1:]), 1),
        f"noop_host_pass_{count}_services_cpu_ms": round(statistics.median(cpus[1:]), 1),
        f"noop_observe_{count}_services_cpu_ms": round(statistics.median(target.observing[1:]), 1),
    }


if __name__ == "__main__":
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    print(json.dumps(measure(1_000)))
