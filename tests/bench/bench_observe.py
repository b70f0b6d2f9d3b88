"""What a real host target reads in a pass in which nothing changed, for many services. Prints JSON.

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

from reconciler.config import HostTarget as Settings
from reconciler.desired import build_desired, part_of
from reconciler.engines.preflight import key_of
from reconciler.inventory import Inventory, ReplicaRecord
from reconciler.manifests import ManifestCache, read_manifests
from reconciler.model import Desired, Lease, Observed, ReplicaId, Routed
from reconciler.routing.admin import EndpointState
from reconciler.routing.envoy import ProxyState
from reconciler.targets.host import HostTarget
from reconciler.targets.probing import Sight, Subject
from reconciler.targets.supervisor import ProcessState
from tests.bench.bench_pass import make_snapshot, owned_of
from tests.world import record

VERDICT = {"parsed": "as it is", "gpus": 0, "errors": [], "warnings": []}


class Steady(HostTarget):
    """All that is on record runs and serves."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(settings, folder, lambda: None)
        self._ports: dict[int, EndpointState] = {}
        self._supervisor.list = _all_alive  # type: ignore[method-assign]
        self._proxy.observe = self._all_routed  # type: ignore[method-assign]
        self._probes.watch = _nobody  # type: ignore[method-assign]
        self._probes.sight = lambda _: Sight(ready=True, healthy=True)  # type: ignore[method-assign]

    def _all_routed(self) -> ProxyState:
        if not self._ports:
            self._ports = {each.lease.port: EndpointState(Routed.ACTIVE, 0) for each in self._inventory.replicas()}
        return ProxyState(True, True, self._ports, {})


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
        snapshot = part_of(make_snapshot(count), settings)
        wanted = build_desired(read_manifests(snapshot, ManifestCache()), settings, snapshot).services
        target = Steady(settings, folder / "state")
        fill(target, folder / "state", wanted)
        walls, cpus = [], []
        for _ in range(10):
            wall, cpu = time.perf_counter(), time.process_time()
            seen = target.observe(wanted)
            walls.append(1000 * (time.perf_counter() - wall))
            cpus.append(1000 * (time.process_time() - cpu))
            assert isinstance(seen, Observed), seen
            assert (len(seen.replicas), len(seen.preflights)) == (count, count)
        target.close()
    return {
        f"first_observe_{count}_services_ms": round(walls[0], 1),
        f"observe_{count}_services_ms": round(statistics.median(walls[1:]), 1),
        f"observe_{count}_services_cpu_ms": round(statistics.median(cpus[1:]), 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure(1_000)))
