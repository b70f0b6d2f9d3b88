"""The parts of a status document. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.config.settings import Routing
from reconciler.model import (
    ByHand,
    DesiredState,
    FailedAction,
    Observed,
    Plan,
    Reason,
    Result,
    ServiceId,
    Unreachable,
)
from reconciler.report.redact import scrub_text
from reconciler.report.replicas import (
    timestamp,
)
from reconciler.report.requests import RequestCounts

Document = dict[str, Any]
SCHEMA = "reconciler.status/v2"

DEFAULT_METRICS_PATH = "/metrics"
"""The metrics path of a replica whose service is no longer in git."""


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """The source's state. `error`: why the latest fetch or read failed; empty when it succeeded."""

    desired: str = ""
    applied: str = ""
    subject: str = ""
    error: str = ""
    fetched_at: float | None = None


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """The daemon. `passes` counts the passes completed so far over all targets; with 0 nothing is known yet.

    `fault`: why the state folder is not writable. `config_fault`: why the config that was read last is not
    in force.
    """

    version: str
    started_at: float
    pid: int
    passes: int = 0
    build: str = ""
    fault: str = ""
    config_fault: str = ""


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target after its latest pass. `suspended` holds `namespace/name` of services, or `*` for all of them.

    `applied` is the revision that this target reached; empty means the source's. `suspensions` tell more of what is
    suspended, by the same names; `drained`: who drained the whole host. `requests`: their outcomes.
    `pass_error`: why the latest pass failed; empty when it did not. `closed_paths` counts requests for paths that are
    not open.
    """

    desired: DesiredState | None
    observed: Observed | Unreachable | None
    plan: Plan | None
    routing: Routing
    suspended: frozenset[str] = frozenset()
    last_results: tuple[Result, ...] = ()
    name: str = ""
    applied: str = ""
    suspensions: Mapping[str, ByHand] = field(default_factory=dict)
    drained: ByHand | None = None
    requests: Mapping[ServiceId, RequestCounts] = field(default_factory=dict)
    failures: tuple[FailedAction, ...] = ()
    pass_error: str = ""
    closed_paths: int = 0


@dataclass(frozen=True, slots=True)
class LeftoverInfo:
    """A target that is no longer in the config, though its replicas or state still exist."""

    target: str
    folder: str
    replicas: int
    services: tuple[str, ...]
    message: str
    fix: str


def manual_document(asked: ByHand | None) -> Document | None:
    if asked is None:
        return None
    return {
        "by": asked.by,
        "at": timestamp(asked.at),
        "reason": scrub_text(asked.reason),
        "until": timestamp(asked.until),
    }


def reason_document(reason: Reason) -> Document:
    return {
        "code": reason.code,
        "message": scrub_text(reason.message),
        "file": reason.origin.file if reason.origin else None,
        "line": reason.origin.line if reason.origin else None,
    }


def last_failure(failures: Sequence[FailedAction], service: ServiceId | None) -> Document | None:
    """The latest action that failed and has not succeeded since: of one service, or of the proxy and the host."""
    found = [one for one in failures if service in one.services or (service is None and not one.services)]
    if not found:
        return None
    last = max(found, key=lambda one: (one.at, one.tries))
    return {
        "action": last.action,
        "reason": scrub_text(last.error),
        "at": timestamp(last.at),
        "tries": last.tries,
    }
