"""Programs that end with us, however we end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType


class Processes:
    """Programs in one process group. Its leader kills it when our end of a pipe closes, as happens when we die."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._leader = subprocess.Popen(["sh", "-c", "read _; kill -KILL 0"], stdin=subprocess.PIPE, process_group=0)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, name: str, *command: str | os.PathLike[str]) -> None:
        """What it prints is in `name`.log, after what earlier ones of this name printed."""
        with open(self.logs / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=self._leader.pid
            )

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self._running.pop(name)
        process.send_signal(number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def dead(self) -> str | None:
        """The first one that ended by itself, and the end of what it printed."""
        for name, process in self._running.items():
            if process.poll() is not None:
                end = (self.logs / f"{name}.log").read_text(errors="replace")[-3000:]
                return f"{name} ended with {process.returncode}:\n{end}"
        return None

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._leader.pid, signal.SIGKILL)
        for process in (self._leader, *self._running.values()):
            process.wait()
        if self._leader.stdin:
            self._leader.stdin.close()
        self._running.clear()
