"""Cold and warm reading of many services for a host, up to what git wants there. Prints JSON; asserts nothing."""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from reconciler.config.settings import EngineSettings, HostSettings
from reconciler.desired import DesiredCache, build_desired
from reconciler.manifests import ManifestCache, read_manifests
from reconciler.model import DesiredState, File, Snapshot

PAIR = Path(__file__).parent.parent / "data" / "example_pair.yaml"
HOST = "apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {name: box}\nspec: {}\n"
TARGET = HostSettings(
    name="box",
    paths=("runtimes", "hosts/box"),
    engines=(EngineSettings(image="quay.io/modh/vllm@*", python=Path("/opt/vllm/bin/python")),),
)


def tree(count: int, replicas_of_first: int = 1) -> Snapshot:
    """Services like the documented one, each in a file of its own."""
    runtime, service = PAIR.read_text().split("\n---\n")
    service = service.replace("vLLM ServingRuntime for KServe", "vllm-runtime")
    texts = {"runtimes/vllm.yaml": runtime, "hosts/box/host.yaml": HOST}
    for number in range(count):
        text = service.replace("name: granite\n", f"name: granite-{number}\n")
        texts[f"hosts/box/{number}.yaml"] = text
    first = texts["hosts/box/0.yaml"]
    texts["hosts/box/0.yaml"] = first.replace("minReplicas: 1", f"minReplicas: {replicas_of_first}")
    files = [(path, text.encode()) for path, text in texts.items()]
    return Snapshot("r", tuple(File(p, hashlib.sha1(d, usedforsecurity=False).hexdigest(), d) for p, d in files))


def seconds(call: Callable[[], object], times: int = 5) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken), 4)


def main() -> None:
    figures: dict[str, float] = {}
    for count in (1_000, 10_000):
        snapshot, changed = tree(count), tree(count, replicas_of_first=2)
        manifests = read_manifests(snapshot)
        figures[f"parse_cold_{count}_s"] = seconds(lambda s=snapshot: read_manifests(s), 3)
        figures[f"build_cold_{count}_s"] = seconds(lambda m=manifests, s=snapshot: build_desired(m, TARGET, s), 3)
        files, services = ManifestCache(), DesiredCache()

        def look(at: Snapshot, files: ManifestCache = files, services: DesiredCache = services) -> DesiredState:
            return build_desired(read_manifests(at, files), TARGET, at, services)

        assert sum(1 for service in look(snapshot).services if service.spec) == count
        figures[f"unchanged_{count}_s"] = seconds(lambda s=snapshot, look=look: look(s))
        figures[f"one_file_changed_{count}_s"] = (
            seconds(lambda a=snapshot, b=changed, look=look: (look(a), look(b))) / 2
        )
        figures[f"rss_{count}_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
