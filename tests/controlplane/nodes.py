"""Nodes with GPUs that do not exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLAYED = "kwok.x-k8s.io/node=fake"
"""The annotation of nodes that kwok takes care of: a node with a kubelet has none."""
H100 = "NVIDIA-H100-80GB-HBM3"


def make_node(
    name: str,
    gpus: int = 8,
    *,
    resources: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """A node with so many `nvidia.com/gpu`; `resources` adds others, such as `nvidia.com/mig-1g.10gb`."""
    offered = {"cpu": "128", "memory": "1Ti", "pods": "256", "nvidia.com/gpu": str(gpus), **(resources or {})}
    offered = {resource: amount for resource, amount in offered.items() if amount != "0"}
    system = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {**system, "nvidia.com/gpu.product": H100, **(labels or {})},
            "annotations": dict([PLAYED.split("=")]),
        },
        "spec": {"taints": [dict(taint) for taint in taints]},
        "status": {"allocatable": offered, "capacity": offered},
    }
