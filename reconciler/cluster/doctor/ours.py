"""What is ours on a cluster: namespace, inventory, lease, and Jobs of preflights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.errors import NamespaceEnding, NotFound
from reconciler.cluster.api.lease import GROUP, KIND
from reconciler.cluster.objects.inventory import ClusterInventory, inventory_id, inventory_name, read_inventory
from reconciler.cluster.preflight_job import JobSettings, PreflightRequest, job_of
from reconciler.config.settings import ClusterSettings
from reconciler.engines.launch import PreflightQuestion
from reconciler.model import ObjectId
from reconciler.report.findings import CheckResult, ok, problem, warning

TRIAL: Final = "reconciler-doctor"
"""Name of the objects that are tried; none is made."""
# Its holder renews it every two seconds.
_LEASE_IS_OLD: Final = 60.0


def check_namespace(client: Client, settings: ClusterSettings) -> Iterator[CheckResult]:
    """Rights on namespaces are not needed to learn whether there is one: an object in it is tried."""
    metadata = {"name": TRIAL, "namespace": settings.namespace}
    try:
        client.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}, dry_run=True)
    except (NotFound, NamespaceEnding) as error:
        fix = f"kubectl create namespace {settings.namespace}, or set targets[].namespace"
        yield problem("namespace", str(error).partition("; ")[0].partition(": ")[2], fix)
        return
    yield ok("namespace", f"{settings.namespace} takes our own objects")


def read(client: Client, settings: ClusterSettings) -> ClusterInventory:
    """The inventory of a target. Raises InventoryError and ApiError."""
    one = inventory_id(settings.namespace, settings.name)
    return read_inventory(one.name, one.namespace, settings.name, client.get(one))


def check_inventory(client: Client, settings: ClusterSettings) -> Iterator[CheckResult]:
    found = read(client, settings)
    if not found.resource_version:
        yield ok("inventory", f"there is no {found} yet: nothing was applied")
    else:
        yield ok("inventory", f"{found} lists {len(found.members):,} objects as ours")


def check_lease(client: Client, settings: ClusterSettings) -> Iterator[CheckResult]:
    id = ObjectId(GROUP, KIND, settings.namespace, inventory_name(settings.name))
    spec: Mapping[str, Any] = (client.get(id) or {}).get("spec") or {}
    if not (holder := spec.get("holderIdentity")):
        yield ok("lease", "nobody leads: no daemon acts for this target now")
        return
    age = _age(str(spec.get("renewTime") or ""))
    if age is not None and age > _LEASE_IS_OLD:
        fix = "see whether a daemon runs; one that starts takes it over by itself"
        yield warning("lease", f"{holder} leads, but renewed it {age:.0f} s ago", fix)
        return
    yield ok("lease", f"{holder} leads")


def _age(moment: str) -> float | None:
    """Seconds, by our clock."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return None


def check_preflight(client: Client, settings: ClusterSettings) -> Iterator[CheckResult]:
    place = settings.default_namespace
    question = PreflightQuestion(Path("python3"), (), {}, {})
    job = job_of(PreflightRequest(question, place, f"example.com/{TRIAL}", {}), JobSettings())
    client.apply(job, dry_run=True)
    yield ok("preflight", f"{place} takes its Jobs")
