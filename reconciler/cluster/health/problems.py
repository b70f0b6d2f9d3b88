"""What went wrong, whose fault it is and how long is long enough: the words in which pods and services are judged."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.model import ReasonCode


class Phase(StrEnum):
    """How far a replica has come. Each phase has a deadline of its own."""

    SCHEDULING = "Scheduling"
    PULLING = "Pulling"  # its images, and its volumes
    DOWNLOADING = "Downloading"  # its model, in an init container
    LOADING = "Loading"  # its container runs and is not ready
    READY = "Ready"


class Fault(StrEnum):
    """Whose fault a problem is."""

    COMMIT = "Commit"  # what git asks for cannot run: it would fail again
    CLUSTER = (
        "Cluster"  # it may succeed without another commit: no GPU, a Secret that is missing, a registry that is down
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps something from being well.

    `lasting`: nobody expects that it goes away by itself, so it is told at once; else only at the deadline.
    """

    code: ReasonCode
    message: str
    fault: Fault
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """How long is long enough, in seconds.

    `scale_up` counts from when a cluster autoscaler began to add a node. `controller` is how long a controller may take
    to act on what it was told, and `settle` how long its silence after an edit may mean that it has not looked yet.
    `patience` is how long a rollout waits for what only the cluster can mend, such as a Secret that is missing.
    `crashes` is how many crashes of a new version are a failure.
    """

    scheduling: float = 300.0
    scale_up: float = 1200.0
    pulling: float = 1800.0
    downloading: float = 7200.0
    loading: float = 1800.0
    controller: float = 120.0
    settle: float = 5.0
    patience: float = 120.0
    min_ready: float = 30.0
    crashes: int = 1

    def of(self, phase: Phase) -> float:
        """The time that a replica may spend in a phase."""
        return {
            Phase.SCHEDULING: self.scheduling,
            Phase.PULLING: self.pulling,
            Phase.DOWNLOADING: self.downloading,
            Phase.LOADING: self.loading,
            Phase.READY: float("inf"),
        }[phase]
