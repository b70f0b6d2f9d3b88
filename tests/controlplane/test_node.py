"""A real kubelet runs pods of the control plane, and stops them in its order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.api import Api, wait_for
from tests.controlplane.node import THERE, Node
from tests.support.engine.server import SERVICE, SMALL, Stream
from tests.support.ports import free_port

pytestmark = pytest.mark.cluster

SERVER = """
import http.server, signal, sys, time

def stop(*_):
    print("SIGTERM", file=open("/mnt/log", "a"), flush=True)
    time.sleep(1)
    print("end", file=open("/mnt/log", "a"), flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)

class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


def make_pod(namespace: str, node: Node, port: int, *command: str) -> dict[str, Any]:
    """What it says in /mnt/log is in the node's folder."""
    pre_stop = ["/bin/sh", "-c", "echo preStop >>/mnt/log; sleep 1"]
    container = {
        "name": "c",
        "image": node.add_image("acme/server"),
        "command": list(command),
        "ports": [{"containerPort": port}],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "lifecycle": {"preStop": {"exec": {"command": pre_stop}}},
        "readinessProbe": {"httpGet": {"host": "127.0.0.1", "port": port, "path": "/health"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "log", "mountPath": "/mnt"}],
    }
    spec = {
        "nodeName": node.name,
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 150,
        "containers": [container],
        "volumes": [{"name": "log", "hostPath": {"path": str(THERE)}}],
    }
    metadata = {"name": "p", "namespace": namespace, "labels": {"app": "p"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def make_service(namespace: str, port: int) -> dict[str, Any]:
    spec = {"selector": {"app": "p"}, "ports": [{"port": 80, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": namespace}, "spec": spec}


def said(node: Node) -> list[str]:
    log = node.folder / "log"
    return log.read_text().split() if log.exists() else []


def ready_endpoints(api: Api, namespace: str) -> int:
    slices = api.list("discovery.k8s.io/v1", "EndpointSlice", namespace)
    return sum(bool(each["conditions"].get("ready")) for one in slices for each in one.get("endpoints") or ())


def test_kubelet_runs_a_pod_and_stops_it_in_its_order(api: Api, namespace: str, real_node: Node) -> None:
    port = free_port()
    api.create(make_service(namespace, port))
    pod = api.create(make_pod(namespace, real_node, port, "/usr/bin/python3", "-c", SERVER, str(port)))
    wait_for(lambda: ready_endpoints(api, namespace) == 1, what="the pod is ready")
    api.delete(pod)
    wait_for(lambda: ready_endpoints(api, namespace) == 0)
    assert "end" not in said(real_node)
    wait_for(lambda: api.find(pod) is None)
    assert said(real_node) == ["preStop", "SIGTERM", "end"]


def test_vllm_in_a_deleted_pod_ends_its_stream_complete(
    api: Api, namespace: str, real_node: Node, engine_python: Path, tiny_model: Path
) -> None:
    port = free_port()
    flags = [*SMALL, "--shutdown-timeout=120", f"--served-model-name={SERVICE}", f"--port={port}", "--host=127.0.0.1"]
    engine = [str(engine_python), "-m", "vllm.entrypoints.openai.api_server", *flags, f"--model={tiny_model}"]
    api.create(make_service(namespace, port))
    pod = api.create(make_pod(namespace, real_node, port, *engine))
    wait_for(lambda: ready_endpoints(api, namespace) == 1, 120, "the engine is ready")
    stream = Stream(port, str(SERVICE), 2500)
    api.delete(pod)
    wait_for(lambda: ready_endpoints(api, namespace) == 0)
    assert stream.is_complete()
    wait_for(lambda: api.find(pod) is None, 120)
    assert said(real_node) == ["preStop"]
