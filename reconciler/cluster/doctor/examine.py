"""All checks of a cluster, one after the other, and those of its API server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Final

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.errors import Forbidden, NotFound
from reconciler.cluster.doctor import clock, ours, rights, serving
from reconciler.cluster.target import connection_of
from reconciler.config.settings import ClusterSettings
from reconciler.errors import ReconcileError
from reconciler.report.findings import Check, CheckResult, made, ok, raised, warning

_PATIENCE: Final = 10.0
_OLDEST: Final = (1, 30)


def examine(settings: ClusterSettings) -> Iterator[CheckResult]:
    """Findings about one cluster, prerequisites first; without an answer of its API server, that alone."""
    for one in _examine(settings):
        yield replace(one, target=settings.name)


def _examine(settings: ClusterSettings) -> Iterator[CheckResult]:
    connection = replace(connection_of(settings), timeout=min(settings.timeout, _PATIENCE))
    try:
        client = Client(connection)
    except ReconcileError as error:
        yield raised("api", error)
        return
    with closing(client):
        try:
            yield _judged_version(client.server_version(), client.transport.server)
            user = _user(client)
        except ReconcileError as error:
            yield raised("api", error)
            return
        yield ok("user", user)
        for topic, check in _checks(client, settings, user):
            yield from made(topic, partial(_possible, topic, check))


def _checks(client: Client, settings: ClusterSettings, user: str) -> Iterator[tuple[str, Check]]:
    yield "clock", partial(clock.check_clock, client)
    yield "rights", partial(rights.check_rights, client, settings, user)
    yield "namespace", partial(ours.check_namespace, client, settings)
    yield "kserve", partial(serving.check_kserve, client)
    yield "webhooks", partial(serving.check_webhooks, client, settings)
    yield "gpus", partial(serving.check_gpus, client)
    yield "inventory", partial(ours.check_inventory, client, settings)
    yield "lease", partial(ours.check_lease, client, settings)
    if settings.preflight:
        yield "preflight", partial(ours.check_preflight, client, settings)


def _possible(topic: str, check: Check) -> Iterator[CheckResult]:
    """What keeps a check from being made is not wrong itself: rights that are missing are a topic of their own."""
    try:
        yield from check()
    except Forbidden as error:
        fix = "give the rights that are missing, then run this again"
        yield warning(topic, f"cannot be checked: {_without_advice(error)}", fix)
    except NotFound as error:
        yield warning(topic, f"cannot be checked: {_without_advice(error)}", "create it, or have git do so")


def _without_advice(error: ReconcileError) -> str:
    return str(error).partition("; ")[0]


def _judged_version(version: str, server: str) -> CheckResult:
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found is None:
        return warning("api", f'{server} answers, with "{version}" as its version', "see whether it is Kubernetes")
    if (int(found[1]), int(found[2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        message = f"{server} is Kubernetes {version}, older than {oldest}"
        return warning("api", message, f"use Kubernetes {oldest} or newer")
    return ok("api", f"{server} is Kubernetes {version}")


def _user(client: Client) -> str:
    """Who the API server says that we are."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
    status: Mapping[str, Any] = client.create(review).get("status") or {}
    return str((status.get("userInfo") or {}).get("username") or "unknown")
