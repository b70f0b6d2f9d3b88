"""New objects a second beside Flux's kustomize-controller, on one control plane, from the same files. Prints JSON.

usage: bench_cluster_flux.py [OBJECTS [ROUNDS]]; figures are medians of the rounds.

Ours starts with a push, and has git to read. Flux starts when its source's status names a tarball, which is ready. Both
run already and have applied one object, and end when a watch of ours has told of the last of them. Both have the
parallelism that they come with. `equal_qps` is without API Priority and Fairness: where the server has it, Flux
limits nothing. The controller is built on first use, with one dependency replaced: see flux/controller.py.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import yaml

from tests.bench.flux.controller import SECONDS, Files, Flux, find_controller, flux, install_crds, version
from tests.cluster.daemon_rig import DaemonRig, running
from tests.controlplane.control_plane import ControlPlane, NoControlPlane, find_programs

QPS, BURST, A_FILE = 50, 100, 100
Figures = dict[str, float]


def main() -> int:
    size, rounds = ([int(each) for each in sys.argv[1:]] + [1_000, 3][len(sys.argv) - 1 :])[:2]
    try:
        programs, controller = find_programs(), find_controller()
    except NoControlPlane as error:
        print(json.dumps({"skipped": str(error)}))
        return 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = ControlPlane(folder, programs)
        stack.callback(plane.close)
        install_crds(plane)
        found = {"unlimited": compare(plane, controller, size, rounds, 0, 0)}
        with plane.api_server_with("--enable-priority-and-fairness=false"):
            found["equal_qps"] = compare(plane, controller, size, rounds, QPS, BURST)
    print(json.dumps({"flux": version(), "load": os.getloadavg()[0], **found}, indent=1))
    return 0


class Ours:
    """The daemon, with a repository on this disk."""

    agent = "reconciler"

    def __init__(self, rig: DaemonRig) -> None:
        self.rig = rig

    @property
    def pid(self) -> int:
        assert self.rig.process is not None
        return self.rig.process.pid

    def prepare(self, files: Files) -> Callable[[], object]:
        # git makes no commit of nothing.
        return partial(self.rig.push, {**files, "note": os.urandom(8).hex()})

    def settle(self) -> None:
        self.rig.converge(SECONDS)


@contextmanager
def ours(plane: ControlPlane, namespace: str, qps: int, burst: int) -> Iterator[Ours]:
    with tempfile.TemporaryDirectory() as name:
        limits = {"qps": qps, "burst": burst or 100}
        rig = DaemonRig(Path(name) / "rig", plane, namespace, limits, {"log": {"level": "error"}})
        with running(rig):
            yield Ours(rig)


def compare(
    plane: ControlPlane, controller: Path, size: int, rounds: int, qps: int, burst: int
) -> dict[str, Figures | float]:
    found: dict[str, list[Figures]] = {"flux": [], "ours": []}
    for number in range(rounds):
        for who, figures in found.items():
            namespace = f"{who}-{qps}-{number}"
            plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            start = partial(flux, controller) if who == "flux" else ours
            with start(plane, namespace, qps, burst) as one:
                figures.append(measure(plane, one, namespace, size))
            print(f"    {who} {qps or 'unlimited'}: {figures[-1]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    middle = {who: {key: statistics.median(f[key] for f in all) for key in all[0]} for who, all in found.items()}
    ratio = round(middle["flux"]["new_objects_s"] / middle["ours"]["new_objects_s"], 2)
    return {**middle, "times_the_rate_of_flux": ratio}


def measure(plane: ControlPlane, one: Flux | Ours, namespace: str, size: int) -> Figures:
    texts = [config_map(f"m{number}", namespace, number) for number in range(size)]
    some: Files = {"prod/first.yaml": config_map("first", namespace, 0)}
    files = some | {f"prod/f{n}.yaml": "---\n".join(texts[n : n + A_FILE]) for n in range(0, size, A_FILE)}
    one.prepare(some)()
    one.settle()
    time.sleep(BURST / QPS + 1)
    plane.requests()
    begin = one.prepare(files)
    with ThreadPoolExecutor(1) as threads:
        last = threads.submit(seen_last, plane, namespace, size)
        time.sleep(0.2)
        began = time.perf_counter()
        begin()
        seconds = last.result() - began
    one.settle()
    asked = requests(plane, one.agent)
    figures = {"new_objects_s": round(seconds, 2), "objects_a_second": round(size / seconds, 1), "requests": asked}
    time.sleep(BURST / QPS + 1)
    plane.requests()
    begin = one.prepare(files)
    began = time.perf_counter()
    begin()
    one.settle()
    figures |= {"noop_s": round(time.perf_counter() - began, 2), "noop_requests": requests(plane, one.agent)}
    return {**figures, "peak_rss_mib": peak_rss(one.pid)}


def config_map(name: str, namespace: str, number: int) -> str:
    metadata = {"name": name, "namespace": namespace}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"x": str(number)}})


def seen_last(plane: ControlPlane, namespace: str, size: int) -> float:
    """When a watch had told of so many."""
    names = set()
    for event in plane.api.watch("v1", "ConfigMap", namespace, seconds=SECONDS):
        name = event["object"]["metadata"]["name"]
        if name.startswith("m"):
            names.add(name)
        if len(names) == size:
            return time.perf_counter()
    raise AssertionError(f"{len(names)} of {size} objects after {SECONDS} s")


def requests(plane: ControlPlane, agent: str) -> int:
    """Since they were last asked for; those for the election and watches that are renewed are left out."""
    found = [each for each in plane.requests() if each.user_agent.startswith(agent)]
    return sum(each.resource != "leases" and each.verb != "watch" for each in found)


def peak_rss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)


if __name__ == "__main__":
    sys.exit(main())
