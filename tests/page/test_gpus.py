"""The page of GPUs as a document: leases, MIG parts below their GPU, memory, and processes that are not ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reconciler.model import (
    Capacity,
    ClusterView,
    ForeignProcess,
    Gpu,
    GpuUse,
    Lease,
    NodeGpus,
    PodFacts,
    ServiceFacts,
    Unreachable,
)
from reconciler.model.desired import Resources
from reconciler.page.gpus import gpus_document
from reconciler.report.status import Document
from reconciler.report.status_parts import gpu_use_document
from tests.support.report_world import SPEC, TINY, cluster, observed, replica, report, status_of

GIB = 1 << 30
WHOLE = Gpu("GPU-0", "NVIDIA H200", 140 * GIB)
PART = Gpu("MIG-0", "NVIDIA H200 MIG 1g.18gb", 16 * GIB, "1g.18gb", "GPU-1")


def target(*gpus: Gpu, use: dict[str, GpuUse] | None = None, **fields: Any) -> Document:
    seen = replace(observed(), capacity=Capacity(1, 1, gpus, (), use or {}))
    return gpus_document(status_of(report(observed=replace(seen, **fields))), {})["targets"][0]


def test_keys_that_scripts_may_rely_on() -> None:
    found = target(WHOLE)
    assert set(found) == {
        "name", "kind", "reachable", "isKnown", "passFailed", "reason", "observedAt", "awaySince", "total",
        "leased", "devices", "nodes",
    }  # fmt: skip
    assert set(found["devices"][0]) == {
        "uuid", "shortName", "name", "kind", "profile", "memoryBytes", "leased", "leases", "usableBytes", "freeBytes",
        "strangers", "strangersBytes", "fault", "parts",
    }  # fmt: skip


def test_device_names_who_leases_how_much_of_it() -> None:
    part = replace(SPEC, resources=Resources(gpus=1, gpu_share_millis=400))
    sharing = tuple(replica(number=n, spec=part, lease=Lease(20000 + n, ("GPU-0",))) for n in range(2))
    (device,) = target(WHOLE, replicas=sharing)["devices"]
    assert device["leased"] == 0.8
    assert device["leases"][0] == {
        "replica": "demo.tiny.aaaaaaaa-0",
        "service": "demo/tiny",
        "address": "/services/a/demo/tiny",
        "fraction": 0.4,
    }


def test_memory_that_was_not_read_is_unknown() -> None:
    (device,) = target(WHOLE)["devices"]
    assert (device["freeBytes"], device["strangersBytes"]) == (None, None)


def test_memory_that_was_read_now_is_newer_than_a_pass() -> None:
    seen = replace(observed(), capacity=Capacity(1, 1, (WHOLE,), (), {"GPU-0": GpuUse(9, 8)}))
    now = {"a": {"GPU-0": gpu_use_document(GpuUse(9, 2))}}
    assert gpus_document(status_of(report(observed=seen)), now)["targets"][0]["devices"][0]["freeBytes"] == 2
    taken = replace(
        seen, capacity=replace(seen.capacity, gpu_use={"GPU-0": GpuUse(0, 0, fault="another target has it")})
    )
    (device,) = gpus_document(status_of(report(observed=taken)), now)["targets"][0]["devices"]
    assert (device["freeBytes"], device["fault"]) == (None, "another target has it")


def test_processes_that_are_not_ours_are_named_with_their_memory() -> None:
    strangers = (ForeignProcess(7, "python", 3 * GIB), ForeignProcess(8, "train", 1 * GIB))
    (device,) = target(WHOLE, use={"GPU-0": GpuUse(139 * GIB, 100 * GIB, strangers)})["devices"]
    assert (device["usableBytes"], device["freeBytes"], device["strangersBytes"]) == (139 * GIB, 100 * GIB, 4 * GIB)
    assert device["strangers"][0] == {"pid": 7, "name": "python", "memoryBytes": 3 * GIB}


def test_memory_of_others_is_unknown_where_the_driver_does_not_say() -> None:
    use = GpuUse(9, 5, (ForeignProcess(7, "python", 3), ForeignProcess(8, "x", None)))
    assert target(WHOLE, use={"GPU-0": use})["devices"][0]["strangersBytes"] is None


def test_gpu_that_is_lost_has_no_memory_but_a_fault() -> None:
    (device,) = target(WHOLE, use={"GPU-0": GpuUse(0, 0, fault="GPU is lost")})["devices"]
    assert (device["fault"], device["usableBytes"], device["freeBytes"]) == ("GPU is lost", None, None)


def test_mig_parts_stand_below_their_gpu_though_it_is_no_device_itself() -> None:
    first, second = target(WHOLE, PART)["devices"]
    assert (first["uuid"], first["parts"]) == ("GPU-0", [])
    assert (second["uuid"], second["kind"]) == ("GPU-1", "")
    assert [(one["uuid"], one["kind"], one["profile"]) for one in second["parts"]] == [
        ("MIG-0", "mig-1g.18gb", "1g.18gb")
    ]


def test_cluster_names_its_nodes_and_our_pods_that_hold_their_gpus() -> None:
    nodes = {"node-a": NodeGpus(4), "node-b": NodeGpus(8, 5)}
    pods = (
        PodFacts("tiny-1", "Running", "node-b", True, 2),
        PodFacts("tiny-2", "Pending"),
        PodFacts("x", "Running", "c"),
    )
    view = ClusterView(
        "a", 190.0, "1.36", gpus=12, free_gpus=7, node_gpus=nodes, services={TINY: ServiceFacts(pods=pods)}
    )
    found = gpus_document(status_of(cluster(observed=view)), {})["targets"][0]
    assert (found["total"], found["leased"], found["devices"]) == (12, 5, [])
    assert found["nodes"] == [
        {"name": "node-a", "total": 4, "leased": 0, "ours": 0, "pods": []},
        {
            "name": "node-b",
            "total": 8,
            "leased": 5,
            "ours": 2,
            "pods": [{"replica": "tiny-1", "service": "demo/tiny", "address": "/services/a/demo/tiny", "gpus": 2}],
        },
    ]


def test_target_that_is_away_tells_nothing_of_its_gpus() -> None:
    away = gpus_document(status_of(report(observed=Unreachable("a", 9.0, "no route"), reached_at=5.0)), {})["targets"][
        0
    ]
    assert (away["total"], away["devices"], away["reason"]) == (None, [], "no route")
    assert away["awaySince"] == "1970-01-01T00:00:05.000Z"
