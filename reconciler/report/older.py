"""The status of a daemon that is older than its reader: keys get their present names, missing ones are unknown. Pure.

After an upgrade of the package the daemon keeps its old code until it is restarted, and must stay readable.
"""

from __future__ import annotations

from typing import Any

from reconciler.report.status import SCHEMA, Document

_V1 = "reconciler.status/v1"
# What v2 calls the keys of v1.
_RENAMED = {
    "wanted": "desired",
    "wantedPercent": "desiredPercent",
    "lastWords": "logTail",
    "proxyBreak": "proxyFault",
    "silence": "unresponsive",
}
_COUNTS = {"drained": 0, "lost": 0, "refused": 0}
_ROOT: Document = {"leftovers": []}
_REVISION: Document = {"fullyApplied": None, "heldUpBy": []}
_TARGET: Document = {
    "suspension": None,
    "drained": None,
    "proxyFault": "",
    "lastFailure": None,
    "passError": "",
    "closedPathRequests": 0,
    "kind": "host",
    "objects": [],
    "deletions": {"held": None, "approvals": []},
    "awaySince": None,
}
_DEVICE: Document = {"profile": "", "use": None}
_SERVICE: Document = {
    "suspension": None,
    "outdated": [],
    "canary": None,
    "liveRevision": "",
    "kept": None,
    "lastFailure": None,
    "promoted": None,
    "desiredReplicas": 0,
    "crashes": [],
    "stages": [],
    "requests": _COUNTS | {"rollout": _COUNTS | {"revision": ""}},
}
_REPLICA: Document = {
    "canary": False,
    "unresponsive": "",
    "socket": "",
    "outdated": False,
    "gpuCount": None,
    "createdAt": None,
    "startedAt": None,
    "readyAt": None,
    "drainingAt": None,
    "stoppingAt": None,
}


def completed(status: Document) -> Document:
    """The document with every key that newer ones have. Raises KeyError for what was never a status."""
    if status["schema"] == _V1:
        status = _renamed(status) | {"schema": SCHEMA}
    targets = [_target(one) for one in status["targets"]]
    revision = {**_REVISION, "refused": None, **status["revision"]}
    return {**_ROOT, **status, "revision": revision, "targets": targets}


def _renamed(value: Any) -> Any:
    """Every key of v1 by its name in v2, at any depth: none of them means something else elsewhere."""
    if isinstance(value, dict):
        return {_RENAMED.get(key, key): _renamed(each) for key, each in value.items()}
    return [_renamed(each) for each in value] if isinstance(value, list) else value


def _target(target: Document) -> Document:
    services = [_service(one) for one in target["services"]]
    gpus = {"nodes": []} | target["gpus"]
    gpus["devices"] = [{**_DEVICE, **one} for one in gpus["devices"]]
    revision = {**_REVISION, **target["revision"]}
    return {**_TARGET, **target, "revision": revision, "gpus": gpus, "services": services}


def _service(service: dict[str, Any]) -> Document:
    return {**_SERVICE, **service, "replicas": [{**_REPLICA, **one} for one in service["replicas"]]}
