"""Rights: what the daemon does on a cluster must be allowed to whom the config names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from reconciler.cluster.api.client import Client
from reconciler.cluster.doctor.ours import read
from reconciler.cluster.doctor.serving import KINDS
from reconciler.cluster.observed import SERVICE
from reconciler.config.settings import ClusterSettings
from reconciler.errors import ReconcileError
from reconciler.report.findings import CheckResult, Level, ok

_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "patch", "delete")
_LOOKED_AT: Final = (("apps", "deployments"), ("apps", "replicasets"), ("", "pods"), ("", "events"), ("", "nodes"))


@dataclass(frozen=True, slots=True)
class _Right:
    """What must be allowed: everywhere, or in each of `spaces`, if there are any."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    spaces: tuple[str, ...] = ()
    only_there: bool = False
    level: Level = Level.PROBLEM

    @property
    def name(self) -> str:
        return f"{self.resource}.{self.group}".rstrip(".")


def check_rights(client: Client, settings: ClusterSettings, user: str) -> Iterator[CheckResult]:
    missing = 0
    for right in _rights(client, settings):
        lacks = _lacks(client, right)
        missing += len(lacks)
        for space, verbs in lacks.items():
            where = f"in the namespace {space}" if space else "in the whole cluster"
            rule = {"apiGroups": [right.group], "resources": [right.resource], "verbs": verbs}
            kind = "Role" if space else "ClusterRole"
            fix = f"see deploy/kubernetes and its components, or add to its {kind}: {json.dumps(rule)}"
            message = f"{user} cannot {', '.join(verbs)} {right.name} {where}"
            yield CheckResult("rights", right.level, message, fix)
    if not missing:
        yield ok("rights", "all that is needed is allowed")


def _lacks(client: Client, right: _Right) -> dict[str, list[str]]:
    """The verbs that are missing, by namespace; "" is the whole cluster."""
    if not right.only_there:
        everywhere = [verb for verb in right.verbs if not _may(client, right, verb, "")]
        if not everywhere or not right.spaces:
            return {"": everywhere} if everywhere else {}
    found = {space: [verb for verb in right.verbs if not _may(client, right, verb, space)] for space in right.spaces}
    return {space: verbs for space, verbs in found.items() if verbs}


def _may(client: Client, right: _Right, verb: str, space: str) -> bool:
    resource, _, subresource = right.resource.partition("/")
    asked = {"verb": verb, "group": right.group, "resource": resource, "subresource": subresource, "namespace": space}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "metadata": {},
        "spec": {"resourceAttributes": asked},
    }
    status: Mapping[str, Any] = client.create(review).get("status") or {}
    return status.get("allowed") is True


def _rights(client: Client, settings: ClusterSettings) -> Iterator[_Right]:
    """As deploy/kubernetes gives them."""
    yield from _of_git(client, settings)
    for group, resource in _LOOKED_AT:
        yield _Right(group, resource, _READ)
    yield _Right("", "pods/log", ("get",))
    own = (settings.namespace,)
    yield _Right("", "configmaps", ("get", "create", "patch"), own, only_there=True)
    yield _Right("", "secrets", (*_READ, *_WRITE), own, only_there=True)
    yield _Right("coordination.k8s.io", "leases", ("get", "create", "update"), own, only_there=True)


def _of_git(client: Client, settings: ClusterSettings) -> Iterator[_Right]:
    """On KServe's kinds, and on those that were applied before, where they were."""
    used = _applied_before(client, settings)
    kinds = {kind: set(spaces) for kind, spaces in used.items()}
    for kind, _ in KINDS:
        kinds.setdefault((SERVICE[0], kind), set()).update(_places(kind, settings))
    if settings.preflight:
        kinds.setdefault(("batch", "Job"), set()).update(kinds[SERVICE])
    for one, spaces in sorted(kinds.items()):
        if resource := _plural(client, *one):
            # Git may well have none of them.
            level = Level.WARNING if one[1] == "ClusterServingRuntime" and one not in used else Level.PROBLEM
            yield _Right(one[0], resource, _READ)
            yield _Right(one[0], resource, _WRITE, tuple(sorted(spaces)), level=level)


def _places(kind: str, settings: ClusterSettings) -> set[str]:
    return set() if kind.startswith("Cluster") else {settings.default_namespace}


def _applied_before(client: Client, settings: ClusterSettings) -> dict[tuple[str, str], set[str]]:
    """The namespaces of each kind; without any, its objects have none."""
    found: dict[tuple[str, str], set[str]] = {}
    try:
        for one in read(client, settings).members:
            found.setdefault((one.group, one.kind), set()).update({one.namespace} - {""})
    except ReconcileError:
        # A topic of its own.
        return {}
    return found


def _plural(client: Client, group: str, kind: str) -> str:
    """Empty: no such kind is served."""
    known = {name: plural for (name, _), plural in KINDS.items()} if group == SERVICE[0] else {}
    if kind in known:
        return known[kind]
    resource = client.resource(group, kind)
    return resource.plural if resource else ""
