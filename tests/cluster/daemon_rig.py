"""The real daemon in a process of its own, for a target on the tests' control plane."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.rig import ClusterRig, Document
from tests.controlplane.api import Object
from tests.support.daemon_process import DaemonProcess

_PR_SET_PDEATHSIG = 1
CRASHING = Path(__file__).parent / "crashing.py"


def _end_with_us() -> None:
    """However a test ends, nothing that it started stays."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class DaemonRig(DaemonProcess, ClusterRig):
    """A target whose passes a daemon makes."""

    crashing_program = CRASHING
    before_it_runs = staticmethod(_end_with_us)
    command_seconds = 120
    patience, pause, lines = 60, 0.02, 40

    def twin(self, **target: Any) -> DaemonRig:
        """Another daemon for the same repository and cluster, with a state folder of its own."""
        other = copy.copy(self)
        other.folder = self.folder.with_name("twin")
        other.folder.mkdir()
        other.config, other.process, other.target = other.folder / "config.yaml", None, dict(self.target)
        other.write_config(**target)
        return other

    def told(self, name: str = "prod") -> Document:
        """Of the status, one target; empty before its first pass, and without a daemon."""
        status = self.status() or {"targets": ()}
        return next((each for each in status["targets"] if each["name"] == name), {})

    def head(self) -> str:
        return self._git("rev-parse", "HEAD")

    def is_applied(self) -> bool:
        """Is everything as the latest commit says?"""
        status = self.status()
        if status is None:
            return False
        found = status["revision"]
        return bool(found["applied"] == self.head() and found["fullyApplied"])

    def converge(self, seconds: float = 60) -> None:
        self.wait("the latest commit to be applied", self.is_applied, seconds)

    # ------------------------------------------------------------ the cluster

    def config_map(self, name: str) -> Object:
        """Where it is."""
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": self.namespace}}

    def data(self, name: str) -> Object | None:
        """Of a ConfigMap; None where there is none."""
        found = self.api.find(self.config_map(name))
        return None if found is None else found.get("data") or {}

    @property
    def lease(self) -> Object:
        """Where it is."""
        metadata = {"name": "reconciler-prod", "namespace": self.namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}

    def members(self) -> dict[str, str]:
        """Of the inventory: kind and name → UID."""
        data = self.data("reconciler-prod") or {}
        lines = map(json.loads, data.get("members", "").splitlines())
        return {f"{kind}/{name}": uid for _, kind, _, name, uid, *_ in lines}

    def asked(self) -> list[str]:
        """What the daemon asked since the last call: verb, resource and name; the election is left out."""
        requests = [each for each in self.plane.requests() if each.user_agent.startswith("reconciler")]
        return [f"{each.verb} {each.resource}/{each.name}" for each in requests if each.resource != "leases"]


@contextlib.contextmanager
def running(rig: DaemonRig) -> Iterator[DaemonRig]:
    """With a daemon that is ended afterwards."""
    rig.start()
    try:
        yield rig
    finally:
        rig.kill()
