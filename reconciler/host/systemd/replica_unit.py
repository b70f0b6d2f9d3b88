"""One replica's unit: from its record and what to run, to the plan of a unit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from reconciler.engines.launch import Launch
from reconciler.host.inventory import ReplicaRecord, dump_record
from reconciler.host.systemd.concealed import NOTHING_CONCEALED, Concealed
from reconciler.host.systemd.unit import CACHES, CREDENTIAL, UnitPlan, credential_of
from reconciler.secrets.store import is_secret_name

# systemd, or podman, gives each unit a /tmp of its own.
TMP = "/tmp"  # noqa: S108
# Mounted Secrets, in every unit its own.
PRIVATE = "/run/reconciler-secrets"
RECORD = "Record"
SECRETS = "secrets"


def plan_unit(
    target: str,
    record: ReplicaRecord,
    launch: Launch,
    user: str,
    devices: tuple[str, ...],
    folder: Path,
    owner: str = "",
    concealed: Concealed = NOTHING_CONCEALED,
    proxy_group: int = 0,
) -> UnitPlan:
    """`devices` are the nodes of the GPUs it leases; `folder` is the replica's own: it will hold what is secret.

    `owner` is `user` by numbers, `UID:GID`: a container knows no other names. `proxy_group` may connect to it.
    """
    plan = UnitPlan(
        target=target,
        replica=record.id,
        argv=launch.argv,
        env=launch.env,
        user=user,
        cache=launch.env["HOME"].removeprefix(f"{CACHES}/"),
        drain_timeout=record.drain_timeout,
        address=launch.socket or record.lease.port,
        resources=record.spec.resources,
        mounts=launch.mounts,
        pins=launch.pins,
        devices=devices,
        hidden=launch.hidden | {name for name in launch.env if is_secret_name(name)},
        credential=f"{PRIVATE}/{CREDENTIAL}" if launch.image else str(folder.absolute() / CREDENTIAL),
        facts=_facts(record),
        image=launch.image,
        gpus=record.lease.gpus,
        owner=owner,
        concealed=concealed,
        proxy_group=proxy_group,
    )
    # A container cannot read systemd credentials, so its variables are next to mounted Secrets.
    if launch.files or (launch.image and credential_of(plan) is not None):
        return replace(plan, mounts={**launch.mounts, PRIVATE: str(folder.absolute() / SECRETS)})
    return plan


def _facts(record: ReplicaRecord) -> Mapping[str, str]:
    return {
        "Service": str(record.id.service),
        "Digest": record.digest,
        "Revision": record.revision,
        "Origin": str(record.origin),
        **({"Socket": record.socket} if record.socket else {"Port": str(record.lease.port)}),
        "GPUs": " ".join(record.lease.gpus),
        **({"Image": record.image} if record.image else {}),
        RECORD: dump_record(record),
    }
