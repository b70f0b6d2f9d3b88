"""The real daemon in a process of its own, its command line, and what it tells."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from reconciler.config.settings import Settings
from reconciler.web.client import DaemonClient, NoDaemon

ROOT = Path(__file__).parents[2]


class DaemonProcess:
    """A base of rigs. `crashing_program` dies at every boundary of an action; `before_it_runs` is called in the new
    process; `patience` and `pause` are the seconds that a claim is waited for, and between two looks; `lines` of the
    log are shown."""

    folder: Path
    config: Path
    process: subprocess.Popen[bytes] | None = None
    crashing_program: ClassVar[Path]
    before_it_runs: ClassVar[Callable[[], None] | None] = None
    command_seconds: ClassVar[float] = 180
    patience: ClassVar[float] = 120
    pause: ClassVar[float] = 0.05
    lines: ClassVar[int] = 60

    @property
    def settings(self) -> Settings:
        return Settings.load(self.config)

    def start(self, *, crashing: bool = False) -> None:
        """Start the daemon; `crashing`: one that dies at every boundary of an action, and comes back."""
        argv = [sys.executable, "-m", "reconciler"]
        if crashing:
            argv = [sys.executable, str(self.crashing_program)]
        env = {k: v for k, v in os.environ.items() if not k.startswith("RECONCILER_")}
        env["PYTHONPATH"] = str(ROOT)
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, "run", "--config", str(self.config)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self.before_it_runs,
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the daemon alone; what it started is not touched."""
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
            timeout=self.command_seconds,
        )
        assert expect is None or done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def status(self) -> dict[str, Any] | None:
        try:
            return DaemonClient(self.settings.socket_path, timeout=5).status()
        except (NoDaemon, OSError):
            return None

    def wait(self, what: str, claim: Callable[[], object], seconds: float | None = None) -> Any:
        """Until the claim holds; fails with the last status and the daemon's last log lines."""
        seconds = self.patience if seconds is None else seconds
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := claim():
                return found
            time.sleep(self.pause)
        raise AssertionError(f"waited {seconds:g} s for: {what}\n{json.dumps(self.status(), indent=1)}\n{self.words()}")

    def words(self, lines: int | None = None) -> str:
        log = self.folder / "daemon.log"
        last = -(self.lines if lines is None else lines)
        return "\n".join(log.read_text(errors="replace").splitlines()[last:]) if log.exists() else ""
