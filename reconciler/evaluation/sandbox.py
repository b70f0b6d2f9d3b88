"""The daemon's end of the worker: starts it, sends it revisions, ends it at its limits, and keeps its results.

A revision that takes the worker more than its limits is *not understood*. A worker that something else ended, or that
got too little of a busy machine, says nothing about the revision: that is tried again.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from reconciler.build import RESTART, build_id
from reconciler.config.settings import TargetSettings
from reconciler.errors import NotUnderstood, ReconcileError, Retryable, Stopping, Superseded
from reconciler.evaluation.evaluator import Evaluated
from reconciler.evaluation.wire import LONGEST_ANSWER, TooLongError, dump_request, load_answers, receive, send
from reconciler.evaluation.worker import OUT_OF_MEMORY, WorkerArguments
from reconciler.model import DesiredState, Snapshot
from reconciler.secrets import NO_SECRETS, SecretSources, SecretStore
from reconciler.secrets.folder import Stamp
from reconciler.system.process_limits import CPU_SECONDS, MEMORY_BYTES
from reconciler.system.procfs import cpu_seconds

log = structlog.get_logger()

_TRIES = 2
_BLINK = 0.2
_HELP = "split what is large, or remove what was added last"
_LONGEST_GREETING = 1000
# Longer than what the worker lets pass before it tries again.
_AGAIN_SECONDS = 60.0
_KILLED = "was killed, most likely out of memory (see `journalctl -k`, and MemoryMax of the daemon's unit)"
_HUNG = "it did not move any more"


@dataclass(frozen=True, slots=True)
class EvaluationLimits:
    """Of one evaluation. `seconds` of waiting come first only where the machine gives the worker too little."""

    memory_bytes: int = MEMORY_BYTES
    cpu_seconds: float = CPU_SECONDS
    seconds: float = 4 * CPU_SECONDS
    # A worker that computes nothing for so long while it is asked hangs: it is stopped, or waits for a dead disk.
    stalled: float = 30.0
    answer_bytes: int = LONGEST_ANSWER
    # After so long it is asked whether a newer revision is there, every so often.
    patience: float = 10.0
    look_every: float = 5.0


def _never() -> bool:
    return False


class _Died(Exception):
    """The worker ended, and none of our limits was why."""


@dataclass
class _Worker:
    """One process, its output, and the files that it has cached."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    lifeline: int
    is_ready: bool = False
    files: frozenset[tuple[str, str]] = frozenset()
    results: dict[str, Evaluated] = field(default_factory=dict)

    def progress(self) -> float:
        """Changes while it works."""
        return cpu_seconds(self.process.pid)

    def end(self) -> int:
        """Kill it. Returns how it ended, by itself or by this."""
        self.process.kill()
        status = self.process.wait()
        self.socket.close()
        with suppress(OSError):
            os.close(self.lifeline)
        return status


class Sandbox:
    """Evaluates revisions for all targets at once. Safe to call from several threads."""

    def __init__(
        self, targets: Sequence[TargetSettings], limits: EvaluationLimits | None = None, *, is_sealed: bool = False
    ) -> None:
        """With `is_sealed` no Secret is opened: for revisions that nobody has accepted."""
        self._targets = tuple(targets)
        self._is_sealed = is_sealed
        self._limits = limits or EvaluationLimits()
        self._sources = {target.name: SecretSources(target) for target in targets}
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._is_closed = False
        self._look_now = threading.Event()
        self._patience = self._limits.patience
        self._known: tuple[Snapshot, dict[str, Evaluated]] | None = None
        self._failed: tuple[Snapshot, dict[str, tuple[Stamp, ...]], NotUnderstood] | None = None

    def start(self) -> None:
        """Have a worker ready before it is needed."""
        with self._lock, suppress(ReconcileError):
            self._ready_worker()

    def target(self, name: str) -> SandboxedTarget:
        """The requests of passes over one target."""
        return SandboxedTarget(self, name, self._sources[name])

    def check(self, snapshot: Snapshot, is_outdated: Callable[[], bool] = _never) -> None:
        """Can this revision be understood? Raises NotUnderstood; Retryable where only this machine is to blame.

        One that takes long is given up, with Superseded, when it is outdated.
        """
        self.evaluate(snapshot, is_outdated=is_outdated)

    def forget(self) -> None:
        """Try again what was not understood."""
        with self._lock:
            self._failed = None

    def look_now(self) -> None:
        """Cancel reading the current revision if a newer one exists.

        The same one is read on: starting from scratch would take longer and give the same result.
        """
        self._look_now.set()

    def latest(self, snapshot: Snapshot) -> dict[str, Evaluated] | None:
        """The last result, if it was of the last revision that was read successfully."""
        known = self._known
        return known[1] if known and known[0] is snapshot else None

    def evaluate(
        self, snapshot: Snapshot, not_as: Evaluated | None = None, is_outdated: Callable[[], bool] = _never
    ) -> dict[str, Evaluated]:
        """The desired state of a revision, by target. `not_as`: what is out of date by now. Raises as `check`."""
        with self._lock:
            known = self.latest(snapshot)
            if known is not None and all(each is not not_as for each in known.values()):
                return known
            stamps = {name: sources.stamps() for name, sources in self._sources.items()}
            if self._failed and self._failed[0] is snapshot and self._failed[1] == stamps:
                raise self._failed[2]
            try:
                found = self._ask(snapshot, is_outdated)
            except Superseded:
                # Revisions that come faster than they can be read get more time each, so that one is read at last.
                self._patience *= 2
                raise
            except NotUnderstood as error:
                self._failed = (snapshot, stamps, error)
                raise
            self._patience = self._limits.patience
            self._known, self._failed = (snapshot, found), None
            return found

    def is_busy(self) -> bool:
        return self._lock.locked()

    def close(self) -> None:
        """End the worker, and every wait for it."""
        self._is_closed = True
        if (worker := self._worker) is not None:
            worker.process.kill()
        with self._lock:
            self._end()

    # ------------------------------------------------------------ the worker

    def _ask(self, snapshot: Snapshot, is_outdated: Callable[[], bool]) -> dict[str, Evaluated]:
        for tried in range(1, _TRIES + 1):
            try:
                return self._ask_once(snapshot, is_outdated)
            except _Died as error:
                log.warning("evaluation_worker_died", revision=snapshot.revision, how=str(error), tried=tried)
                last = error
        if last.args[0] in (-signal.SIGKILL, _HUNG):
            how = _KILLED if last.args[0] != _HUNG else f"hangs: {_HUNG}"
            raise Retryable(f"the process that reads revision {snapshot.revision[:12]} {how}; it is tried again")
        text = f"the process that reads it ended {_TRIES} times ({last}); please report this revision"
        raise NotUnderstood(_sentence(snapshot, text))

    def _ask_once(self, snapshot: Snapshot, is_outdated: Callable[[], bool]) -> dict[str, Evaluated]:
        worker = self._ready_worker()
        deadline = time.monotonic() + self._limits.seconds
        try:
            if not worker.is_ready:
                self._await_answer(worker, snapshot, deadline, is_outdated)
                self._greet(worker, receive(worker.socket, _LONGEST_GREETING, deadline, self._limits.stalled))
            worker.socket.settimeout(self._limits.stalled)
            send(worker.socket, dump_request(snapshot, worker.files))
            self._await_answer(worker, snapshot, deadline, is_outdated)
            payload = receive(worker.socket, self._limits.answer_bytes, deadline, self._limits.stalled)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._why_it_ended(snapshot) from None
        except TimeoutError:
            self._end()
            if time.monotonic() < deadline:
                raise _Died(_HUNG) from None
            raise Retryable(
                f"reading revision {snapshot.revision[:12]} took longer than {self._limits.seconds:g} s on this busy "
                "machine; it is tried again"
            ) from None
        except TooLongError:
            self._end()
            text = f"its desired state is larger than {self._limits.answer_bytes >> 20} MiB in all; {_HELP}"
            raise NotUnderstood(_sentence(snapshot, text)) from None
        if payload[:1] == b"?":
            self._end()
            words = payload[1:].decode("utf-8", "replace")
            raise Retryable(
                f"reading revision {snapshot.revision[:12]} failed on this host: {words}; it is tried again"
            )
        if payload[:1] != b"+":
            self._end()
            text = payload[1:].decode("utf-8", "replace")
            if payload[:1] != b"!":
                text = f"unexpected {text}; this is a bug, please report it"
            raise NotUnderstood(_sentence(snapshot, text))
        return self._understood(worker, snapshot, payload[1:])

    def _await_answer(
        self, worker: _Worker, snapshot: Snapshot, deadline: float, is_outdated: Callable[[], bool]
    ) -> None:
        """Until there is something to receive. Raises TimeoutError, also where it stopped moving, and Superseded."""
        ready = select.poll()
        ready.register(worker.socket, select.POLLIN)
        moved, moved_at = worker.progress(), time.monotonic()
        look_at = moved_at + self._patience
        while not ready.poll(1000 * min(_BLINK, max(0.0, min(look_at, deadline) - time.monotonic()))):
            if (progress := worker.progress()) != moved:
                moved, moved_at = progress, time.monotonic()
            if time.monotonic() >= min(deadline, moved_at + self._limits.stalled):
                raise TimeoutError
            if time.monotonic() < look_at and not self._look_now.is_set():
                continue
            self._look_now.clear()
            if is_outdated():
                self._end()
                raise Superseded(f"revision {snapshot.revision[:12]} takes long to read, and a newer one is there")
            look_at = time.monotonic() + self._limits.look_every

    def _greet(self, worker: _Worker, build: bytes) -> None:
        """Raises Retryable for a worker of another build: the two would not understand each other."""
        if build.decode("utf-8", "replace") != build_id():
            self._end()
            raise Retryable(
                "this daemon can no longer read revisions: another build was installed since it started; "
                f"`{RESTART}` (models keep serving)"
            )
        worker.is_ready = True

    def _understood(self, worker: _Worker, snapshot: Snapshot, payload: bytes) -> dict[str, Evaluated]:
        try:
            found, unread = load_answers(payload, snapshot.revision, worker.results)
        except Exception as error:
            # Only a worker that is not itself any more says such a thing.
            self._end()
            raise NotUnderstood(_sentence(snapshot, f"its result is invalid: {error}")) from None
        worker.results = found
        worker.files = frozenset((each.path, each.oid) for each in snapshot.files) - unread
        return found

    def _why_it_ended(self, snapshot: Snapshot) -> Exception:
        worker = self._worker
        if worker is not None:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(1.0)
        is_ready = worker is not None and worker.is_ready
        status = self._end()
        if self._is_closed:
            return Stopping("reading was ended, because we end")
        if not is_ready and status != -signal.SIGKILL:
            return Retryable(
                f"the process that reads revisions does not start ({status}): see the daemon's log. It is "
                "retried; a half installed package, or a limit of this host (memory, open files), may be the cause"
            )
        if status == -signal.SIGXCPU:
            text = f"reading it takes more than {self._limits.cpu_seconds:g} s of computing; {_HELP}"
            return NotUnderstood(_sentence(snapshot, text))
        if status == OUT_OF_MEMORY:
            text = f"reading it takes more than {self._limits.memory_bytes >> 20} MiB of memory; {_HELP}"
            return NotUnderstood(_sentence(snapshot, text))
        return _Died(status)

    def _ready_worker(self) -> _Worker:
        if self._worker is not None and self._worker.process.poll() is not None:
            self._end()
        if self._worker is None:
            self._worker = self._start()
        return self._worker

    def _start(self) -> _Worker:
        if self._is_closed:
            raise Stopping("nothing is read any more, because we end")
        ours, theirs = socket.socketpair()
        theirs_alive, alive = os.pipe2(os.O_CLOEXEC)
        argv = [sys.executable, "-P", "-m", "reconciler.evaluation.worker", str(theirs.fileno()), str(theirs_alive)]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), theirs_alive),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(alive)
            raise Retryable(f"cannot start {argv[0]} to read manifests: {error.strerror}") from None
        finally:
            theirs.close()
            os.close(theirs_alive)
        ours.settimeout(self._limits.stalled)
        worker = _Worker(process, ours, alive)
        arguments = WorkerArguments(self._targets, self._limits.memory_bytes, self._limits.cpu_seconds, self._is_sealed)
        with suppress(OSError):
            # One that is gone already is found out about when it is asked.
            send(ours, pickle.dumps(arguments, 5))
        return worker

    def _end(self) -> int:
        worker, self._worker = self._worker, None
        return worker.end() if worker is not None else 0


class SandboxedTarget:
    """The `Evaluation` of one target, performed in the sandbox."""

    def __init__(self, sandbox: Sandbox, name: str, sources: SecretSources) -> None:
        self._sandbox = sandbox
        self._name = name
        self._sources = sources
        self._mine: tuple[Snapshot, Evaluated] | None = None
        self._look_again_at = 0.0

    @property
    def store(self) -> SecretStore:
        return self._mine[1].secrets if self._mine else NO_SECRETS

    def evaluate(self, snapshot: Snapshot) -> DesiredState:
        known = self._mine if self._mine and self._mine[0] is snapshot else None
        if known is None:
            found = self._sandbox.evaluate(snapshot)[self._name]
        elif self._sources.stamps() == known[1].stamps and not self._is_due(known[1]):
            return known[1].desired
        else:
            found = self._renewed(snapshot, known[1])
        self._look_again_at = time.monotonic() + _AGAIN_SECONDS
        self._mine = (snapshot, found)
        return found.desired

    def _is_due(self, known: Evaluated) -> bool:
        """A key service that was away may be back."""
        return known.secrets.is_provisional and time.monotonic() >= self._look_again_at

    def _renewed(self, snapshot: Snapshot, known: Evaluated) -> Evaluated:
        """With Secrets as they are now. No pass waits for that while another revision is read."""
        if self._sandbox.is_busy():
            return known
        try:
            return self._sandbox.evaluate(snapshot, not_as=known)[self._name]
        except ReconcileError as error:
            log.error("secrets_watch_failed", target=self._name, error=str(error), kept="what was read before")
            return known


def _sentence(snapshot: Snapshot, why: str) -> str:
    return f"revision {snapshot.revision[:12]} cannot be read: {why}"
