"""A daemon with many objects on a control plane of its own: first apply, passes that change nothing, memory. JSON.

usage: bench_cluster_daemon.py [OBJECTS]: as many, and beside 5,000 or more 500 InferenceServices, which nothing serves.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from reconciler.loop.once import _parts
from reconciler.report import log as logs
from tests.cluster.daemon_rig import DaemonRig, running
from tests.cluster.rig import config_map
from tests.controlplane.control_plane import ControlPlane, NoControlPlane, find_programs
from tests.controlplane.kserve.crds import install_crds

SIZES = (1_000, 5_000)
SERVICES, PASSES, A_FILE = 500, 20, 100


def main() -> int:
    try:
        programs = find_programs()
    except NoControlPlane as error:
        print(error, file=sys.stderr)
        return 1
    sizes = [int(each) for each in sys.argv[1:]] or SIZES
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        plane = ControlPlane(Path(name), programs)
        try:
            install_crds(plane.api)
            for size in sizes:
                figures |= {f"objects_{size}_{key}": value for key, value in measure(plane, size).items()}
        finally:
            plane.close()
    print(json.dumps(figures, indent=1))
    return 0


def measure(plane: ControlPlane, size: int) -> dict[str, float]:
    namespace = f"bench-{size}"
    plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    with tempfile.TemporaryDirectory() as name:
        rig = DaemonRig(Path(name) / "rig", plane, namespace, others={"log": {"level": "error"}})
        with running(rig):
            rig.wait("the daemon to lead", lambda: rig.told().get("reachable"))
            figures = first_apply(rig, size)
            figures["push_to_apply_ms"] = one_push(rig)
            figures["daemon_rss_mib"] = memory(rig)
        figures |= passes(rig)
    return figures


def first_apply(rig: DaemonRig, size: int) -> dict[str, float]:
    """From the push to the last object there."""
    services = SERVICES if size >= SIZES[-1] else 0
    maps = [config_map(f"m{number}", x=str(number)) for number in range(size - services)]
    texts = [*maps, *(service(number) for number in range(services))]
    files = {f"prod/f{n}.yaml": "---\n".join(texts[n : n + A_FILE]) for n in range(0, size, A_FILE)}
    began = time.perf_counter()
    rig.push({**files, "prod/runtime.yaml": RUNTIME} if services else files)

    def applied() -> int:
        found = rig.told().get("objects", ())
        return sum(one["sync"] == "Synced" or one["change"] == "none" for one in found)

    rig.wait("all to be applied", lambda: applied() >= size and not rig.asked(), 600)
    seconds = time.perf_counter() - began
    return {"first_apply_s": round(seconds, 1), "applies_per_s": round(size / seconds)}


def one_push(rig: DaemonRig) -> float:
    found = []
    for number in range(5):
        rig.push({"prod/pushed.yaml": config_map("pushed", x=str(number))})
        began = time.perf_counter()
        rig.wait("it to be applied", lambda number=number: rig.data("pushed") == {"x": str(number)})
        found.append(time.perf_counter() - began)
    return round(statistics.median(found) * 1000)


def memory(rig: DaemonRig) -> float:
    assert rig.process is not None
    pages = int(Path(f"/proc/{rig.process.pid}/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 1)


def passes(rig: DaemonRig) -> dict[str, float]:
    """In this process, once nothing is left to do."""
    found = []
    logs.configure(rig.settings.log)
    with _parts(rig.settings) as (source, (place,)):
        snapshot = source.poll()
        while place.reconciler.run_pass(snapshot).results:
            time.sleep(0.1)
        for _ in range(PASSES):
            began = time.perf_counter()
            place.reconciler.run_pass(snapshot)
            found.append(time.perf_counter() - began)
    return {"noop_pass_ms": round(statistics.median(found) * 1000, 1)}


RUNTIME = yaml.safe_dump(
    {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "vllm"},
        "spec": {
            "supportedModelFormats": [{"name": "vLLM", "version": "1", "autoSelect": True}],
            "containers": [{"name": "kserve-container", "image": "vllm/vllm-openai:v0.11.0", "args": ["--port=8080"]}],
        },
    }
)


def service(number: int) -> str:
    model: dict[str, Any] = {
        "modelFormat": {"name": "vLLM"},
        "runtime": "vllm",
        "storageUri": "hf://org/model",
        "resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "1", "memory": "8Gi"}},
    }
    metadata = {"name": f"s{number}"}
    body = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata}
    return yaml.safe_dump({**body, "spec": {"predictor": {"model": model}}})


if __name__ == "__main__":
    sys.exit(main())
