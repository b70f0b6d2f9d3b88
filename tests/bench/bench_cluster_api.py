"""Applies a second, memory of watches and the time until a change is seen, on a control plane of its own. Prints JSON.

Beside ours, the same applies by the package `kubernetes`: through its `ApiClient`, and through its dynamic client.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.watch import WatchedKind, Watches
from reconciler.model.objects import ObjectId
from tests.controlplane.control_plane import ControlPlane, NoControlPlane, find_programs
from tests.controlplane.kserve.crds import install_crds

OBJECTS, THREADS, SERVICES = 1_000, 8, 5_000
Apply = Callable[[Mapping[str, Any]], Any]
# Prints the memory of a process in MiB: before it imports anything, with a connection, and with all services watched.
WATCHER = """
import sys, time
rss = lambda: round(int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20, 1)
bare = rss()
from pathlib import Path
from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.watch import WatchedKind, Watches
client = Client(ClusterConnection(Path(sys.argv[1])))
client.server_version()
connected = rss()
watches = Watches(client, lambda: None)
began = time.perf_counter()
watches.watch([WatchedKind("serving.kserve.io", "InferenceService")])
assert watches.wait_until_known(60)
seconds = time.perf_counter() - began
assert len(watches.snapshot()) == int(sys.argv[2])
print(bare, connected, rss(), round(seconds, 2))
"""
KUBERNETES = 'import kubernetes; print(round(int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20, 1))'


def config_map(index: int, value: str, prefix: str) -> dict[str, Any]:
    metadata = {"name": f"{prefix}-{index}", "namespace": "bench"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}}


def service(index: int) -> dict[str, Any]:
    arguments = [f"--max-model-len={4096 + index}", "--gpu-memory-utilization=0.9", "--enable-prefix-caching"]
    resources = {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": "1"}}
    model = {
        "modelFormat": {"name": "vLLM"},
        "runtime": "vllm",
        "storageUri": f"hf://meta-llama/Llama-3.1-8B-{index}",
        "args": arguments,
        "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}, {"name": "VLLM_LOGGING_LEVEL", "value": "INFO"}],
        "resources": resources,
    }
    labels = {"app.kubernetes.io/part-of": "models", "team": f"team-{index % 20}"}
    annotations = {"serving.kserve.io/deploymentMode": "Standard", "example.com/owner": f"owner-{index}"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": f"s-{index}", "namespace": "bench", "labels": labels, "annotations": annotations},
        "spec": {"predictor": {"minReplicas": 1, "maxReplicas": 2, "model": model}},
    }


def through_api_client(kubeconfig: Path) -> Apply:
    from kubernetes import client, config

    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings)
    settings.connection_pool_maxsize = THREADS
    api = client.ApiClient(settings)
    headers = {"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"}

    def apply(body: Mapping[str, Any]) -> Any:
        path = f"/api/v1/namespaces/bench/configmaps/{body['metadata']['name']}?fieldManager=b&fieldValidation=Strict"
        answer = api.call_api("PATCH", settings.host + path, dict(headers), body, _request_timeout=(3, 10))
        return json.loads(answer.read())

    return apply


def through_dynamic_client(kubeconfig: Path) -> Apply:
    from kubernetes import client, config, dynamic

    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings)
    settings.connection_pool_maxsize = THREADS
    maps = dynamic.DynamicClient(client.ApiClient(settings), cache_file=str(kubeconfig) + ".cache").resources.get(
        api_version="v1", kind="ConfigMap"
    )
    return lambda body: maps.server_side_apply(
        namespace="bench", name=body["metadata"]["name"], body=body, field_manager="b"
    )


def apply_all(apply: Apply, prefix: str) -> dict[str, int]:
    """Applies a second: of new objects, of the same again, and of changed ones."""
    figures = {}
    for what, value in (("new", "a"), ("unchanged", "a"), ("changed", "b")):
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda index, value=value: apply(config_map(index, value, prefix)), range(OBJECTS)))
        figures[what] = round(OBJECTS / (time.perf_counter() - began))
    return figures


def seen_after_ms(client: Client) -> float:
    """From the answer to a write until a watch of another connection has told of it: the longest of 50."""
    changed = threading.Event()
    watches = Watches(client, changed.set)
    watches.watch([WatchedKind("", "ConfigMap", namespace="bench")])
    assert watches.wait_until_known(60)
    longest = 0.0
    for turn in range(50):
        changed.clear()
        body = client.apply(config_map(0, str(turn), "seen"))
        began = time.perf_counter()
        while watches.snapshot().get(ObjectId.of(body)) != body:
            assert changed.wait(10)
            changed.clear()
        longest = max(longest, time.perf_counter() - began)
    watches.close()
    return round(longest * 1e3, 1)


def memory(kubeconfig: Path) -> dict[str, float]:
    argv = [sys.executable, "-c", WATCHER, str(kubeconfig), str(SERVICES)]
    words = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
    bare, connected, watching, seconds = map(float, words)
    package = subprocess.run([sys.executable, "-c", KUBERNETES], check=True, capture_output=True, text=True).stdout
    return {
        "bare": bare,
        "connected": connected,
        f"watching_{SERVICES}_services": watching,
        "package_kubernetes_imported": float(package),
        "listed_after_seconds": seconds,
    }


def main() -> None:
    try:
        programs = find_programs()
    except NoControlPlane as error:
        print(json.dumps({"skipped": str(error)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        plane = ControlPlane(Path(folder), programs)
        try:
            install_crds(plane.api)
            client = Client(ClusterConnection(plane.kubeconfig))
            client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}})
            ways = {
                "ours": client.apply,
                "api_client": through_api_client(plane.kubeconfig),
                "dynamic_client": through_dynamic_client(plane.kubeconfig),
            }
            figures: dict[str, Any] = {
                "applies_a_second": {name: apply_all(ways[name], f"c{len(name)}") for name in ways}
            }
            figures["seen_after_ms"] = seen_after_ms(client)
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(lambda index: client.apply(service(index)), range(SERVICES)))
            figures["memory_mib"] = memory(plane.kubeconfig)
            print(json.dumps(figures))
        finally:
            plane.close()


if __name__ == "__main__":
    main()
