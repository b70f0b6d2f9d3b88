"""The demo's daemon: started as a user would start it, and ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from reconciler.config.settings import Settings
from reconciler.demo.place import DemoFolder
from reconciler.errors import ReconcileError, Terminal
from reconciler.report.status import Document
from reconciler.system import procfs
from reconciler.system.files import write_atomically
from reconciler.system.procfs import Identity
from reconciler.web.client import DaemonClient

_STOP_SECONDS = 30.0


class DemoDaemon:
    """At most one per place. Its pid is written down with its start time, so that no other process is taken for it."""

    def __init__(self, place: DemoFolder) -> None:
        self._place = place

    def is_running(self) -> bool:
        return self._identity() is not None

    def start(self) -> None:
        """Start it in a session of its own, so that it outlives us and the terminal."""
        argv = (sys.executable, "-m", "reconciler", "run", "--config", str(self._place.config))
        # The log starts empty: what is shown from it is then about this run.
        with open(self._place.log, "wb") as log:
            child = subprocess.Popen(
                argv,
                cwd=self._place.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        who = procfs.identify(child.pid)
        if who is None:
            raise Terminal(f"the daemon ended at once:\n{self.last_words()}")
        write_atomically(self._place.pid_file, json.dumps([who.pid, who.started, who.boot]).encode())

    def status(self) -> Document | None:
        """Its status document, or None while it does not answer."""
        try:
            return self._client().status()
        except ReconcileError:
            return None

    def logs(self, service: str) -> str:
        """The last lines of a service's replicas; empty where there are none."""
        try:
            return "\n".join(self._client().logs(service, 15))
        except ReconcileError:
            return ""

    def last_words(self) -> str:
        """The end of its own log."""
        with contextlib.suppress(OSError):
            return "\n".join(self._place.log.read_text(errors="replace").splitlines()[-15:])
        return ""

    def stop(self) -> None:
        """End the daemon, and nothing that it started. Raises Terminal if it will not end."""
        who = self._identity()
        if who is not None:
            procfs.send_signal(who, signal.SIGTERM)
            if not _gone(who, _STOP_SECONDS):
                procfs.send_signal(who, signal.SIGKILL)
                if not _gone(who, _STOP_SECONDS):
                    raise Terminal(f"the daemon (pid {who.pid}) survives SIGKILL; it hangs in the kernel")
        self._place.pid_file.unlink(missing_ok=True)

    def _client(self) -> DaemonClient:
        return DaemonClient(Settings.load(self._place.config).socket_path)

    def _identity(self) -> Identity | None:
        """The running daemon, if the demo started it."""
        try:
            pid, started, boot = json.loads(self._place.pid_file.read_bytes())
        except (OSError, ValueError):
            return None
        who = Identity(pid, started, boot)
        _reap(pid)
        return who if procfs.is_running(who) else None


def command_line(place: DemoFolder, *arguments: str) -> str:
    """What a user types to ask this daemon."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "reconciler" else f"{sys.executable} -m reconciler"
    return shlex.join([*program.split(), *arguments, "--config", str(place.config)])


def _environment() -> dict[str, str]:
    """The environment, without what would point the command elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RECONCILER_")}


def _gone(who: Identity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _reap(who.pid)
        if not procfs.is_running(who):
            return True
        time.sleep(0.05)
    return False


def _reap(pid: int) -> None:
    """It is our child if this very run started it."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
