"""Sync and health: what is said of a service or an object, in the words of Argo CD."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.model.names import Reason


class Sync(StrEnum):
    """About spec: does what runs equal what git says?"""

    SYNCED = "Synced"
    OUT_OF_SYNC = "OutOfSync"
    UNKNOWN = "Unknown"


class HealthStatus(StrEnum):
    """About serving."""

    HEALTHY = "Healthy"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SUSPENDED = "Suspended"
    MISSING = "Missing"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Health:
    """How a service serves, and why we say so."""

    phase: HealthStatus
    reason: Reason
