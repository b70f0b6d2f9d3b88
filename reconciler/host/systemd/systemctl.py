"""systemd by `systemctl`, where D-Bus cannot be had: a process for every question, and no signals.

That a main process ended is noticed at once all the same. What else changes is seen by the next pass.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from reconciler.engines.environment import SYSTEM_PATH
from reconciler.errors import Retryable
from reconciler.host.process.exit_watch import ExitWatch
from reconciler.host.systemd.systemd_api import Run, UnitState, run_of
from reconciler.system import procfs

_SECONDS = 30.0
_NUMBERS = ("MainPID", "ExecMainStartTimestampMonotonic", "ExecMainCode", "ExecMainStatus", "NRestarts")
_ASKED = f"--property={','.join(('Id', 'ActiveState', 'SubState', 'Job', *_NUMBERS))}"
# systemd executes itself anew.
_BROKEN = re.compile(r"Connection (reset|refused|timed out)|not connected|disconnected|remote peer|was not provided")
_RECONNECT_SECONDS = 3.0
_RECONNECT_PAUSE = 0.05
_NEVER = Run()
_GONE = re.compile(r"not loaded|not found|does not exist|No such process|No main process")


class _Refused(Retryable):
    """It ended with an error."""


@dataclass(frozen=True, slots=True)
class _Seen(UnitState):
    """A unit and its main process, read at once."""

    run: Run = _NEVER


class SystemctlManager:
    """`command` is how to call it."""

    def __init__(self, command: Sequence[str] = ("systemctl",)) -> None:
        self._command = command
        self._prefix = ""
        self._wake: Callable[[], None] = lambda: None
        self._exits: ExitWatch | None = None
        self._lock = threading.Lock()
        self._closed = False

    def units(self, prefix: str) -> Mapping[str, UnitState]:
        seen = self._show(f"{prefix}*.service")
        self._watch(unit for unit in seen.values() if unit.name.startswith(self._prefix))
        return seen

    def runs(self, units: Iterable[UnitState]) -> Mapping[str, Run]:
        units = tuple(units)
        others = [unit.name for unit in units if not isinstance(unit, _Seen)]
        known = {unit.name: unit for unit in units if isinstance(unit, _Seen)}
        if others:
            known |= self._show(*others)
        return {unit.name: known[unit.name].run if unit.name in known else _NEVER for unit in units}

    def processes(self, name: str) -> tuple[int, ...]:
        group = self._ask("show", "--property=ControlGroup", "--value", "--", name).strip()
        return tuple(_members(group)) if group.strip("/") else ()

    def install(self, name: str) -> None:
        self._ask("enable", "--force", "--no-reload", "--quiet", "--", name)
        self.reload()

    def uninstall(self, name: str) -> None:
        with suppress(_Refused):
            self._ask("disable", "--no-reload", "--quiet", "--", name)

    def reload(self) -> None:
        self._ask("daemon-reload")

    def start(self, name: str) -> None:
        self._ask("start", "--no-block", "--job-mode=replace", "--", name)

    def stop(self, name: str) -> None:
        self._if_loaded("stop", "--no-block", "--job-mode=replace", "--", name)
        self._if_loaded("reset-failed", "--", name)

    def kill(self, name: str) -> None:
        self._if_loaded("kill", "--signal=KILL", "--", name)

    def subscribe(self, prefix: str, wake: Callable[[], None]) -> None:
        self._prefix, self._wake = prefix, wake

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._exits is not None:
                self._exits.close()

    # ------------------------------------------------------------ asking

    def _show(self, *names: str) -> dict[str, _Seen]:
        said = self._ask("show", "--all", _ASKED, "--", *names)
        blocks = [dict(_pairs(block)) for block in said.split("\n\n") if block.strip()]
        # Who is about to change is rare, and only then it matters how.
        jobs = self._jobs() if any(block.get("Job") not in (None, "", "0") for block in blocks) else {}
        return {unit.name: unit for unit in (_unit(block, jobs) for block in blocks)}

    def _jobs(self) -> dict[str, str]:
        """What is about to be done, by unit."""
        rows = [line.split() for line in self._ask("list-jobs", "--plain", "--no-legend").splitlines()]
        return {row[1]: row[2] for row in rows if len(row) >= 3}

    def _if_loaded(self, *words: str) -> None:
        try:
            self._ask(*words)
        except _Refused as error:
            if not _GONE.search(str(error)):
                raise

    def _ask(self, *words: str) -> str:
        """What it printed. Asks again where the connection broke over it: whatever we ask may be asked twice."""
        deadline = time.monotonic() + _RECONNECT_SECONDS
        while True:
            try:
                return self._run(*words)
            except _Refused as error:
                if not _BROKEN.search(str(error)) or time.monotonic() > deadline:
                    raise
                time.sleep(_RECONNECT_PAUSE)

    def _run(self, *words: str) -> str:
        """Raises _Refused, or Retryable when it cannot be run or hangs."""
        command = [*self._command, "--no-pager", "--no-ask-password", *words]
        env = {"PATH": os.environ.get("PATH", SYSTEM_PATH), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False, env=env
            )
        except OSError as error:
            raise Retryable(f"{command[0]} cannot be run: {error.strerror}; is this host run by systemd?") from None
        except subprocess.TimeoutExpired:
            raise Retryable(f"systemctl {words[0]} takes longer than {_SECONDS:g} s; see systemctl status") from None
        if done.returncode:
            why = done.stderr.decode(errors="replace").strip() or f"it ended with {done.returncode}"
            raise _Refused(f"systemctl {words[0]}: {why}")
        return done.stdout.decode(errors="replace")

    # ------------------------------------------------------------ news

    def _watch(self, units: Iterable[_Seen]) -> None:
        with self._lock:
            if self._closed or not self._prefix:
                return
            self._exits = self._exits or ExitWatch(on_exit=lambda _: self._wake(), chore=lambda: None)
            for unit in units:
                if unit.run.pid and (who := procfs.identify(unit.run.pid)) is not None:
                    self._exits.watch(who)


def _pairs(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name, value


def _unit(block: Mapping[str, str], jobs: Mapping[str, str]) -> _Seen:
    name = block.get("Id", "")
    run = run_of(*(int(block.get(word) or 0) for word in _NUMBERS))
    return _Seen(name, block.get("ActiveState", ""), block.get("SubState", ""), jobs.get(name, ""), run)


def _members(group: str) -> Iterator[int]:
    """The processes of a control group and of those below it, whichever hierarchy it is in."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/cgroup") as file:
                paths = [line.rstrip("\n").split(":", 2)[2] for line in file]
                if any(path == group or path.startswith(f"{group}/") for path in paths):
                    yield int(name)
