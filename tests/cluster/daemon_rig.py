"""The real daemon in a process of its own, for a target on the tests' control plane."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reconciler.web.client import DaemonClient, NoDaemon
from tests.cluster.rig import ClusterRig, Document
from tests.controlplane.api import Object

_PR_SET_PDEATHSIG = 1
CRASHING = Path(__file__).parent / "crashing.py"


class DaemonRig(ClusterRig):
    """A target whose passes a daemon makes."""

    process: subprocess.Popen[bytes] | None = None

    def twin(self, **target: Any) -> DaemonRig:
        """Another daemon for the same repository and cluster, with a state folder of its own."""
        other = copy.copy(self)
        other.folder = self.folder.with_name("twin")
        other.folder.mkdir()
        other.config, other.process, other.target = other.folder / "config.yaml", None, dict(self.target)
        other.write_config(**target)
        return other

    def start(self, *, crashing: bool = False) -> None:
        """Start the daemon; `crashing`: one that dies at every boundary of an action, and comes back."""
        argv = [sys.executable, str(CRASHING)] if crashing else [sys.executable, "-m", "reconciler"]
        env = {k: v for k, v in os.environ.items() if not k.startswith("RECONCILER_")}
        env["PYTHONPATH"] = str(Path(__file__).parents[2])
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, "run", "--config", str(self.config)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_us,
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def ask(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run the command line, as a user does."""
        done = subprocess.run(
            [sys.executable, "-m", "reconciler", *arguments, "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert expect is None or done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def status(self) -> Document | None:
        try:
            return DaemonClient(self.settings.socket_path, timeout=5).status()
        except (NoDaemon, OSError):
            return None

    def told(self, name: str = "prod") -> Document:
        """Of the status, one target; empty before its first pass, and without a daemon."""
        status = self.status() or {"targets": ()}
        return next((each for each in status["targets"] if each["name"] == name), {})

    def wait(self, what: str, claim: Callable[[], object], seconds: float = 60) -> Any:
        """Until the claim holds; fails with the last status and the daemon's last log lines."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := claim():
                return found
            time.sleep(0.02)
        raise AssertionError(f"waited {seconds:g} s for: {what}\n{json.dumps(self.status(), indent=1)}\n{self.words()}")

    def words(self, lines: int = 40) -> str:
        log = self.folder / "daemon.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

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


def _end_with_us() -> None:
    """However a test ends, nothing that it started stays."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def running(rig: DaemonRig) -> Iterator[DaemonRig]:
    """With a daemon that is ended afterwards."""
    rig.start()
    try:
        yield rig
    finally:
        rig.kill()
