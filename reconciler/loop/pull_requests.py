"""Plans on pull requests: a thread that looks at the open ones, has each planned once, and says what would happen.

Nothing of a pull request is accepted, applied or run: see `proposed_plans`, which plans in a process of its own, from a
mirror of its own. One from another repository is left alone altogether: anybody could write it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from reconciler.config.settings import Settings
from reconciler.errors import ReconcileError, Retryable
from reconciler.fault_isolation import unexpected
from reconciler.forge.http import ForgeBusy
from reconciler.forge.messages import CommentSection, Message, PullRequest
from reconciler.forge.port import Forge
from reconciler.forge.pull_requests import answers_to, answers_without_plan, group_of
from reconciler.loop.proposed_plans import ProposedPlansArguments
from reconciler.loop.pull_request_plan import followed_branch
from reconciler.model.backoff import backoff
from reconciler.report.redact import one_line, scrub_text
from reconciler.report.status import Document
from reconciler.system.programs import kill_group

log = structlog.get_logger()

FOLDER = "pull_requests"
"""In state_dir: a mirror of git, and what engines said of arguments."""
MOST_OPEN = 100
MOST_AT_ONCE = 10
_SOON = 1.0
_FIRST_LOOK = 10.0
# Webhooks cut no pause shorter than that: strangers may cause as many as they like.
_LEAST = 2.0
# Each host of a fleet asks for the same list.
_SELDOM = 600.0
# Where git is asked less often, webhooks are relied on; but they tell nothing of a target that changes.
_OFTEN_ENOUGH = 300.0
# A plan is made anew when the branch or the target has changed, but not while they go on changing.
_SETTLED = 120.0
# So many times as long as plans took, nothing is planned.
_SHARE = 4
_TRIES_IN_SILENCE = 3
_LONGEST = 1_200.0
_LONGEST_LINE = 64 << 20


@dataclass(frozen=True, slots=True)
class _Basis:
    """What a plan follows from."""

    head: str
    accepted: str
    live: str


@dataclass(frozen=True, slots=True)
class _Answered:
    basis: _Basis
    at: float


class PullRequestPlans:
    """A part beside the passes: see `Beside`."""

    def __init__(
        self,
        settings: Settings,
        status: Callable[[], Document],
        forge: Forge,
        put: Callable[[Iterable[Message]], object],
        said: Callable[[], Iterable[CommentSection]],
    ) -> None:
        """`put`: into the outbox; `said`: what comments were given by it."""
        self._settings, self._status, self._forge, self._put = settings, status, forge, put
        self._said = said
        self._branch = followed_branch(settings.source)
        self._group = group_of(settings.forge)
        interval = settings.source.interval
        self._interval = max(interval, _SELDOM) if self._group else min(interval, _OFTEN_ENOUGH)
        self._process = PlanningProcess(settings)
        self._stop, self._bell = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="pull requests", daemon=True)
        self._answered: dict[int, _Answered] = {}
        self._failed: dict[tuple[int, str], int] = {}
        self._strangers = 0
        self._error = ""

    def start(self) -> None:
        if self._branch is None:
            log.warning("pull_requests_ignored", why="source follows no branch, so that none goes into it")
            return
        self._thread.start()

    def wake(self) -> None:
        """Each plan is looked at again by the next look anyway."""

    def look_at_pull_requests(self) -> None:
        """Do it now: a webhook said that one changed."""
        self._bell.set()

    def stop(self) -> None:
        self._stop.set()
        self._bell.set()
        self._process.end()
        if self._thread.is_alive():
            self._thread.join(3.0)

    def document(self) -> Document:
        """How many open ones were answered, how many are from other repositories, and why none can be looked at."""
        told = {"answered": len(self._answered), "notTrusted": self._strangers, "error": self._error}
        return {"pullRequests": told}

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        # Not all hosts of a fleet that was restarted ask at once.
        self._bell.wait(random.uniform(0, min(self._interval, _FIRST_LOOK)))  # noqa: S311
        failures = 0
        while not self._stop.is_set():
            self._bell.clear()
            began, hold = time.monotonic(), _LEAST
            try:
                is_done = self._look()
                failures, self._error = 0, ""
                pause = self._interval * random.uniform(0.9, 1.1) if is_done else _SOON  # noqa: S311
            except Exception as error:
                failures += 1
                self._note(error)
                hold = error.retry_after if isinstance(error, ForgeBusy) else backoff(failures, 5.0, 600.0)
                pause = max(self._interval, hold)
            pause = max(pause, _SHARE * (time.monotonic() - began))
            # The bell may have been rung for our end before it was cleared.
            if not self._stop.wait(min(hold, pause)):
                self._bell.wait(max(0.0, pause - hold))

    def _note(self, error: Exception) -> None:
        is_known = isinstance(error, ReconcileError)
        text = one_line(scrub_text(str(error) if is_known else unexpected(error)))
        if text != self._error and not self._stop.is_set():
            if is_known:
                log.warning("pull_requests_not_seen", error=text)
            else:
                log.exception("pull_requests_raised")
        self._error = text

    def _look(self) -> bool:
        """One look at all. False: some are left for the next one. Raises as the port."""
        status = self._status()
        accepted = str(status["revision"]["desired"])
        if not accepted or self._branch is None:
            # Compared with nothing, everything would seem to be new.
            return True
        pulls = self._forge.pull_requests(self._branch)
        # However many strangers open, they take no place of ours.
        trusted = [one for one in pulls if one.is_trusted][:MOST_OPEN]
        self._strangers = sum(not one.is_trusted for one in pulls)
        self._forget({one.number for one in trusted})
        self._take_out({one.number for one in trusted})
        live = live_digest(status)
        due = [one for one in trusted if self._is_due(one, _Basis(one.head, accepted, live))]
        # What may have ended the process comes last, so that it keeps no other from its plan; what is new comes first.
        due.sort(key=lambda one: (self._failed.get((one.number, one.head), 0), self._is_known(one)))
        self._plan(due[:MOST_AT_ONCE], accepted, live)
        return len(due) <= MOST_AT_ONCE

    def _forget(self, open_ones: set[int]) -> None:
        self._answered = {number: known for number, known in self._answered.items() if number in open_ones}
        self._failed = {key: count for key, count in self._failed.items() if key[0] in open_ones}

    def _take_out(self, open_ones: set[int]) -> None:
        """The sections of targets that have another name now, or are gone from the config."""
        names = {target.name for target in self._settings.targets}
        old = (one for one in self._said() if one.text and one.pull_request in open_ones and one.target not in names)
        self._put([replace(one, text="") for one in old])

    def _is_due(self, pull: PullRequest, basis: _Basis) -> bool:
        known = self._answered.get(pull.number)
        if known is None or known.basis.head != basis.head:
            return True
        return known.basis != basis and time.monotonic() >= known.at + _SETTLED

    def _is_known(self, pull: PullRequest) -> bool:
        """Was this head answered before?"""
        known = self._answered.get(pull.number)
        return known is not None and known.basis.head == pull.head

    def _plan(self, pulls: Sequence[PullRequest], accepted: str, live: str) -> None:
        """Raises Retryable where some were not planned."""
        by_head: dict[str, list[PullRequest]] = {}
        for pull in pulls:
            by_head.setdefault(pull.head, []).append(pull)
        for found in self._process.plan(tuple(by_head)) if by_head else ():
            self._take(by_head.pop(found["revision"], ()), found, accepted, live)
        if by_head and not self._stop.is_set():
            count, first = len(by_head), next(iter(by_head.values()))
            self._take(first, self._blamed(first[0]), accepted, live)
            raise Retryable(f"{count} pull requests were not planned: the process that plans ended early")

    def _take(self, pulls: Iterable[PullRequest], found: Document, accepted: str, live: str) -> None:
        for pull in pulls:
            if self._answer(pull, found):
                basis = _Basis(pull.head, accepted, live)
                self._answered[pull.number] = _Answered(basis, time.monotonic())

    def _blamed(self, pull: PullRequest) -> Document:
        """The first that was not answered was being planned."""
        tries = self._failed.get((pull.number, pull.head), 0) + 1
        text = f"the process that plans ended early {tries} times; see the daemon's log"
        return {"error": text, "lasting": tries >= _TRIES_IN_SILENCE}

    def _answer(self, pull: PullRequest, found: Document) -> bool:
        """Into the outbox. False: nothing is said yet, and it is planned again."""
        if "plan" in found:
            url = self._settings.web.url or ""
            self._put(answers_to(found["plan"], pull.number, group=self._group, url=url))
            return True
        key = (pull.number, pull.head)
        self._failed[key] = self._failed.get(key, 0) + 1
        if not found["lasting"] and self._failed[key] < _TRIES_IN_SILENCE:
            return False
        names = [target.name for target in self._settings.targets]
        self._put(answers_without_plan(pull.head, names, pull.number, str(found["error"]), group=self._group))
        return bool(found["lasting"])


def live_digest(status: Document) -> str:
    """Changes with what a plan follows from, and not with every sign of life. Pure."""
    parts = [
        [
            *(target[key] for key in ("name", "reachable", "suspended")),
            bool(target["drained"]),
            target["cordoned"] and target["cordoned"]["code"],
            target["gpus"]["total"],
            target["gpus"]["leased"],
            [
                [
                    *(one[key] for key in ("namespace", "name", "digest", "liveDigest", "suspended", "gpus")),
                    one["rejected"] and one["rejected"]["digest"],
                ]
                for one in target["services"]
            ],
        ]
        for target in status["targets"]
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class PlanningProcess:
    """`proposed_plans`, started for each round and ended with us."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.state_dir / FOLDER
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._is_ended = False

    def plan(self, revisions: tuple[str, ...]) -> Iterator[Document]:
        """What it says of each, as soon as it says so. Raises Retryable."""
        _prepare(self._folder)
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        try:
            process = self._start(theirs)
            timer = threading.Timer(_LONGEST, self._kill)
            timer.daemon = True
            timer.start()
            try:
                yield from self._exchange(process, revisions)
            finally:
                timer.cancel()
                self._reap()
        finally:
            os.close(theirs)
            os.close(ours)

    def end(self) -> None:
        """End what is going on, and begin nothing more."""
        self._is_ended = True
        self._kill()

    def _kill(self) -> None:
        with self._lock:
            if self._running is not None:
                kill_group(self._running)

    def _reap(self) -> None:
        with self._lock:
            process, self._running = self._running, None
            if process is not None:
                kill_group(process)
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    with suppress(OSError):
                        if pipe is not None:
                            pipe.close()

    def _start(self, lifeline: int) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-P", "-m", "reconciler.loop.proposed_plans", str(lifeline)]
        with self._lock:
            if self._is_ended:
                raise Retryable("the daemon is ending")
            try:
                self._running = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=(lifeline,),
                    start_new_session=True,
                )
            except OSError as error:
                raise Retryable(f"cannot start {argv[0]} to plan pull requests: {error.strerror}") from None
            return self._running

    def _exchange(self, process: subprocess.Popen[bytes], revisions: tuple[str, ...]) -> Iterator[Document]:
        if process.stdin is None or process.stdout is None:
            raise TypeError("it was started without pipes")
        with suppress(BrokenPipeError):
            process.stdin.write(pickle.dumps(ProposedPlansArguments(self._settings, revisions, self._folder)))
            process.stdin.close()
        while line := process.stdout.readline(_LONGEST_LINE):
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)


def _prepare(folder: Path) -> None:
    """Raises Retryable."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Retryable(f"cannot make {folder}: {error.strerror}") from None
