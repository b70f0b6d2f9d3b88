"""Small worlds for the tests of report, web and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reconciler.config.settings import HostSettings, Routing, Settings, SourceSettings, Web
from reconciler.model import (
    NO_ORIGIN,
    Capacity,
    ClusterView,
    Desired,
    DesiredState,
    EffectiveSpec,
    Gpu,
    Health,
    HealthStatus,
    Lease,
    ObjectId,
    ObjectPlan,
    Observed,
    Origin,
    Owned,
    Plan,
    Promoted,
    Quarantine,
    Reason,
    ReasonCode,
    Replica,
    ReplicaId,
    Routed,
    ServiceId,
    ServicePlan,
    Sync,
)
from reconciler.report.status import DaemonInfo, Document, RevisionInfo, TargetReport, build_status
from tests.support.arguments import written

OLD, NEW = "a" * 64, "b" * 64
REVISION = "4f1c2ab" + "0" * 33
SPEC = EffectiveSpec("quay.io/vllm:1", written("python", "-m", "vllm"), written("--port=8080", "--max-model-len=128"))
TINY = ServiceId("demo", "tiny")
HEALTHY = Health(HealthStatus.HEALTHY, Reason(ReasonCode.SERVING, "1 of 1 replicas serve", NO_ORIGIN))
SETTINGS = ObjectPlan(ObjectId("", "ConfigMap", "team", "settings"), Sync.SYNCED, HEALTHY, origin=Origin("a.yaml", 1))


def desired(service: ServiceId = TINY, digest: str = OLD, **fields: Any) -> Desired:
    return Desired(
        **(
            {"id": service, "origin": Origin(f"hosts/a/{service.name}.yaml", 7), "spec": SPEC, "digest": digest}
            | fields
        )
    )


def replica(service: ServiceId = TINY, digest: str = OLD, number: int = 1, **fields: Any) -> Replica:
    ready = {"ready_at": 110.0, "ready_now": True, "healthy": True, "routed": Routed.ACTIVE, "in_flight": 0}
    identity = ReplicaId(service, f"{digest[:8]}-{number}")
    known = {
        "spec": SPEC,
        "origin": Origin("hosts/a/tiny.yaml", 7),
        "lease": Lease(20000 + number),
        "created_at": 100.0,
    }
    return Replica(**({"id": identity, "digest": digest} | known | ready | fields))


def state(*services: Desired, **fields: Any) -> DesiredState:
    return DesiredState("a", REVISION, services, **fields)


def observed(*replicas: Replica, owned: Mapping[ServiceId, Owned] | None = None, gpus: int = 0) -> Observed:
    capacity = Capacity(8000, 64 << 30, tuple(Gpu(f"GPU-{n}") for n in range(gpus)))
    return Observed("a", 200.0, replicas, capacity, owned or {})


def owned(service: ServiceId = TINY, replicas: int = 1) -> Owned:
    origin = Origin(f"hosts/a/{service.name}.yaml", 3)
    return Owned(service, origin, Promoted(OLD, SPEC, replicas, origin, REVISION, 150.0))


def verdict(
    service: ServiceId = TINY, sync: Sync = Sync.SYNCED, health: Health = HEALTHY, **fields: Any
) -> ServicePlan:
    return ServicePlan(service, sync, health, **fields)


def planned(*verdicts: ServicePlan, actions: tuple[Any, ...] = ()) -> Plan:
    return Plan("a", REVISION, 200.0, actions, {one.service: one for one in verdicts})


def rejection(service: ServiceId = TINY, digest: str = NEW) -> Quarantine:
    why = Reason(ReasonCode.INVALID_ARGUMENT, "unrecognized argument --max-modle-len", Origin("hosts/a/tiny.yaml", 12))
    return Quarantine(service, digest, why, REVISION, 190.0, ("usage: vllm", "error: HF_TOKEN=hf_abcdefghijklmnopqrst"))


def report(**fields: Any) -> TargetReport:
    known = {
        "desired": state(desired()),
        "observed": observed(replica()),
        "plan": planned(verdict()),
        "routing": Routing(),
    }
    return TargetReport(**(known | fields))


def cluster(*objects: ObjectPlan, **fields: Any) -> TargetReport:
    """One with these objects, and no services."""
    plan = replace(planned(), objects={one.object: one for one in objects})
    known = {"desired": state(), "observed": ClusterView("a", 190.0, "v1.36.3"), "plan": plan, "routing": None}
    return TargetReport(**(known | fields))


def status_of(*reports: TargetReport, revision: RevisionInfo | None = None, passes: int = 1) -> Document:
    """The status document of these targets, all of them at the wanted revision."""
    known = revision or RevisionInfo(desired=REVISION, applied=REVISION, subject="Serve tiny", fetched_at=180.0)
    return build_status(revision=known, targets=reports, daemon=DaemonInfo("1.2.3", 50.0, 42, passes))


def service_in(status: Document, name: str = "tiny") -> Document:
    return next(one for target in status["targets"] for one in target["services"] if one["name"] == name)


def with_service(status: Document, **fields: Any) -> Document:
    """The document with its first service changed."""
    target = status["targets"][0]
    first, *others = target["services"]
    return status | {"targets": [target | {"services": [first | fields, *others]}, *status["targets"][1:]]}


def settings(folder: Any, **fields: Any) -> Settings:
    target = HostSettings(name="a", paths=("runtimes", "hosts/a"))
    known = {
        "source": SourceSettings(url="/nowhere"),
        "targets": (target,),
        "state_dir": folder,
        "web": Web(listen="127.0.0.1:0"),
    }
    return Settings(**(known | fields))
