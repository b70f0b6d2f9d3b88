"""A real kubelet runs pods of the control plane, and stops them in its order."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.api import Api, wait_for
from tests.controlplane.node import Node
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
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def make_pod(namespace: str, node: Node, port: int, folder: Path) -> dict[str, Any]:
    pre_stop = ["/bin/sh", "-c", "echo preStop >>/mnt/log; sleep 1"]
    container = {
        "name": "c",
        "image": node.add_image("acme/server"),
        "command": ["/usr/bin/python3", "-c", SERVER, str(port)],
        "ports": [{"containerPort": port}],
        "lifecycle": {"preStop": {"exec": {"command": pre_stop}}},
        "readinessProbe": {"httpGet": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1},
        "volumeMounts": [{"name": "log", "mountPath": "/mnt"}],
    }
    spec = {
        "nodeName": node.name,
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 20,
        "containers": [container],
        "volumes": [{"name": "log", "hostPath": {"path": str(folder)}}],
    }
    metadata = {"name": "p", "namespace": namespace, "labels": {"app": "p"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def said(node: Node) -> list[str]:
    log = node.folder / "log"
    return log.read_text().split() if log.exists() else []


def ready_endpoints(api: Api, namespace: str) -> int:
    slices = api.list("discovery.k8s.io/v1", "EndpointSlice", namespace)
    return sum(bool(each["conditions"].get("ready")) for one in slices for each in one.get("endpoints") or ())


def test_kubelet_runs_a_pod_and_stops_it_in_its_order(api: Api, namespace: str, real_node: Node) -> None:
    port, folder = free_port(), Path("/srv/node")
    service = {"selector": {"app": "p"}, "ports": [{"port": 80, "targetPort": port}]}
    metadata = {"name": "s", "namespace": namespace}
    api.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    pod = api.create(make_pod(namespace, real_node, port, folder))
    wait_for(lambda: ready_endpoints(api, namespace) == 1, what=real_node.log())
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).status == 200
    api.delete(pod)
    wait_for(lambda: ready_endpoints(api, namespace) == 0)
    assert "end" not in said(real_node)
    wait_for(lambda: api.find(pod) is None)
    assert said(real_node) == ["preStop", "SIGTERM", "end"]
