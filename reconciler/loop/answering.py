"""The thread that answers: after each pass and each look at git it works out what is to be said, and puts that into the
outbox. From there other threads deliver it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import structlog

from reconciler.config.settings import Settings
from reconciler.errors import ReconcileError
from reconciler.forge.baseline import Baseline, Digests, turned
from reconciler.forge.commit_status import (
    answers,
    closing,
    context_of,
    digests,
    is_answer,
    is_news,
    subject_of,
)
from reconciler.forge.delivery import Delivery, Send, to_forge, to_forge_of_fleet, to_receiver
from reconciler.forge.fleet import fleet_answer, is_news_of_group
from reconciler.forge.messages import CommentSection, CommitState, CommitStatus, Deployment, Message
from reconciler.forge.notifications import Notifier
from reconciler.forge.open import open_forge
from reconciler.forge.outbox import FORGE, OUTBOX, Outbox, receiver_destination
from reconciler.forge.receiver import Receiver
from reconciler.forge.remote import find_remote
from reconciler.report.status import Document
from reconciler.report.status_parts import timestamp

log = structlog.get_logger()

_SHORTEST, _MOST_REST, _LONGEST = 0.25, 5.0, 30.0
# Of the time that working out takes, so many times as long others have the interpreter to themselves.
_SHARE = 10
_MOST_DEAD_SHOWN = 20


class Answering:
    """One of the parts beside the passes."""

    def __init__(self, settings: Settings, status: Callable[[], Document]) -> None:
        """Raises ReconcileError where the config says too little, or the disk does not give the outbox."""
        self._followed: frozenset[str] = frozenset()
        sends = _sends(settings, self._is_past)
        self.outbox = Outbox(settings.state_dir / OUTBOX)
        self._delivery = Delivery(self.outbox, sends, settings.forge.give_up_after)
        self._settings, self._status, self._url = settings.forge, status, settings.web.url or ""
        receivers = settings.notifications
        self._notifier = Notifier(receivers, socket.gethostname(), self._url) if receivers else None
        self._since: dict[tuple[str, str], tuple[CommitState, float]] = {}
        self._baselines = self.outbox.baselines()
        self._pause = _LONGEST
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answering")
        self._error = ""
        self._addresses = _addresses(settings)
        self._is_begun = False

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._bell.set()

    def put(self, messages: Iterable[Message]) -> None:
        """What another part has to say. Of many hosts, only faults and their end are told. Raises Retryable."""
        self.outbox.put([one for one in messages if self._is_worth_it(one)], time.time())
        self._delivery.wake()

    def _is_worth_it(self, one: Message) -> bool:
        if isinstance(one, CommentSection) and not one.text:
            # Most of many hosts never had one, and would only look for it.
            return self.outbox.last(one) is not None
        if self._settings.statuses != "aggregate" or not isinstance(one, CommitStatus):
            return True
        return is_news_of_group(one, self._last(one))

    def stop(self) -> None:
        self._stop.set()
        self._bell.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._delivery.stop()
        self.outbox.close()

    def document(self) -> Document:
        return {"forge": self._document()}

    def _document(self) -> Document:
        try:
            waiting, dead = self.outbox.waiting(), self.outbox.dead()
        except ReconcileError as error:
            return {"waiting": [], "dead": [], "deadCount": 0, "error": str(error)}
        counts = {one.destination: one for one in waiting}
        return {
            "waiting": [
                {
                    "destination": name,
                    "count": counts[name].count if name in counts else 0,
                    "since": timestamp(counts[name].since) if name in counts else None,
                    "error": problem,
                }
                for name, problem in self._delivery.problems().items()
            ],
            "dead": [
                {"destination": one.destination, "message": one.key, "at": timestamp(one.at), "error": one.error}
                for one in dead[:_MOST_DEAD_SHOWN]
            ],
            "deadCount": len(dead),
            "error": self._error,
        }

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._begin()
                self.turn(time.time())
                self._error = ""
            except ReconcileError as error:
                self._note(error)
            except Exception as error:
                self._note_bug(error)
            # Wake-ups in a row become one turn.
            self._stop.wait(min(_MOST_REST, max(_SHORTEST, _SHARE * (time.monotonic() - began))))
            self._bell.wait(self._pause)
            self._bell.clear()

    def _begin(self) -> None:
        """What others were to be told goes before anything is delivered. A full disk must not keep the daemon from its
        start: it is tried again."""
        if not self._is_begun:
            self.outbox.forget(self._addresses, time.time())
            self._delivery.start()
            self._is_begun = True

    def turn(self, now: float) -> int:
        """Work out what is to be said, and put what is new of it into the outbox. Returns how much that is."""
        self._pause = _LONGEST
        status = self._status()
        count, errors = 0, list[Exception]()
        # What goes wrong with one kind must not keep the other from being told.
        for work in (self._commit_answers, self._notifications):
            try:
                count += self.outbox.put(work(status, now), now)
            except Exception as error:
                errors.append(error)
        # Also for what others have put there.
        self._delivery.wake()
        if errors:
            raise errors[0]
        return count

    def _commit_answers(self, status: Document, now: float) -> list[Message]:
        return list(self._answers(status, now)) if self._settings.is_used else []

    def _notifications(self, status: Document, now: float) -> Sequence[Message]:
        return self._notifier.due(status, self.outbox.notifications(), now) if self._notifier else ()

    def _answers(self, status: Document, now: float) -> Iterator[Message]:
        if self._settings.statuses == "none":
            yield from self._closings(status, set())
            return
        for target in status["targets"]:
            self._turn_baseline(status, target)
        before = {name: one.before for name, one in self._baselines.items() if one.before is not None}
        if self._settings.statuses == "aggregate":
            yield from self._of_fleet(status, before, now)
            yield from self._closings(status, set())
            return
        per_service = self._settings.statuses == "service"
        wanted = list(answers(status, before, per_service=per_service, url=self._url))
        self._forget_others(one for one, _ in wanted)
        for one, lasting in wanted:
            if self._lasts(one, lasting, now):
                yield from self._news(one)
        yield from self._closings(status, {one.revision for one, _ in wanted})

    def _closings(self, status: Document, wanted: Collection[str]) -> Iterator[Message]:
        """The end of what is pending and would stay so: `wanted` are the revisions that are told now."""
        names = {target["name"] for target in status["targets"]}
        for open_ in self.outbox.pending() if status["revision"]["desired"] else ():
            if not isinstance(open_, CommitStatus) or not is_answer(open_.context):
                continue
            if open_.revision not in wanted or not self._is_told(open_.context, names):
                yield from self._with_deployment(closing(open_, status["revision"]["desired"], _was(status, open_)))

    def _is_told(self, context: str, names: Collection[str]) -> bool:
        """Is that context still ours? A target may have another name now, or the config wants fewer statuses."""
        target, _, service = subject_of(context).partition("/")
        kinds = {"target": not service, "service": True}
        return target in names and kinds.get(self._settings.statuses, False)

    def _news(self, one: CommitStatus) -> Iterator[Message]:
        last = self._last(one)
        if is_news(one, last):
            yield from self._with_deployment(one)
        elif last:
            # Only after one of another revision: this one is back.
            yield from self._deployment(last)
        self._note_answer(one)

    def _last(self, one: CommitStatus) -> CommitStatus | None:
        said = self.outbox.last(one)
        return said if isinstance(said, CommitStatus) else None

    def _is_past(self, revision: str) -> bool:
        """False as long as it is not known which one is followed."""
        return bool(self._followed) and revision not in self._followed

    def _of_fleet(self, status: Document, before: Mapping[str, Digests], now: float) -> Iterator[Message]:
        refused = status["revision"].get("refused")
        revisions = (status["revision"]["desired"], refused["revision"] if refused else "")
        self._followed = frozenset(filter(None, revisions))
        group, url = self._settings.group, self._url
        newest = CommitStatus(status["revision"]["desired"], context_of(group), CommitState.PENDING, "")
        found = fleet_answer(status, before, group, self._last(newest), url)
        self._forget_others([found[0]] if found else [])
        if found and self._lasts(*found, now) and is_news(found[0], self._last(found[0])):
            yield found[0]
        # Most hosts say nothing, and have looked at the revision all the same.
        for one, _ in answers(status, before):
            self._note_answer(one)

    def _note_answer(self, one: CommitStatus) -> None:
        target = subject_of(one.context)
        known = self._baselines.get(target)
        is_due = known and known.revision == one.revision and not known.is_answered
        if known and is_due and one.state is not CommitState.PENDING:
            self._keep(target, replace(known, is_answered=True))

    def _with_deployment(self, one: CommitStatus) -> Iterator[Message]:
        yield one
        yield from self._deployment(one)

    def _deployment(self, one: CommitStatus) -> Iterator[Deployment]:
        target = subject_of(one.context)
        if self._settings.deployments and one.context == context_of(target) and "/" not in target:
            yield Deployment(one.revision, target, one.state, one.description, one.url)

    def _lasts(self, one: CommitStatus, lasting: float, now: float) -> bool:
        key = (one.revision, one.context)
        state, since = self._since.get(key, (None, now))
        if state is not one.state or since > now:
            # Or the clock was ahead.
            since = now
            self._since[key] = (one.state, now)
        if (left := lasting - (now - since)) <= 0:
            return True
        self._pause = min(self._pause, left)
        return False

    def _forget_others(self, wanted: Iterable[CommitStatus]) -> None:
        """A refused revision is told beside the desired one: neither cuts short how long the other has been so."""
        keys = {(one.revision, one.context) for one in wanted}
        self._since = {key: known for key, known in self._since.items() if key in keys}

    def _turn_baseline(self, status: Document, target: Document) -> None:
        revision = target["revision"]["desired"]
        if not target["reachable"] or not revision or revision != status["revision"]["desired"]:
            return
        known = self._baselines.get(target["name"])
        now = turned(known, revision, digests(target))
        if now != known:
            self._keep(target["name"], now)

    def _keep(self, target: str, baseline: Baseline) -> None:
        self.outbox.keep_baseline(target, baseline)
        self._baselines[target] = baseline

    def _note_bug(self, error: Exception) -> None:
        text = f"a bug; see the log: {type(error).__name__}"
        if text != self._error:
            log.exception("answering_raised")
        self._error = text

    def _note(self, error: ReconcileError) -> None:
        if str(error) != self._error and not self._stop.is_set():
            log.error("answering_failed", error=str(error), meanwhile="passes go on; it is tried again")
        self._error = str(error)


def _sends(settings: Settings, is_past: Callable[[str], bool]) -> dict[str, Send]:
    sends: dict[str, Send] = {}
    if settings.forge.is_used:
        forge = open_forge(settings)
        is_fleet = settings.forge.statuses == "aggregate"
        sends[FORGE] = to_forge_of_fleet(forge, settings.forge.group, is_past) if is_fleet else to_forge(forge)
    for index, one in enumerate(settings.notifications):
        sends[receiver_destination(one.name)] = to_receiver(Receiver(one, f"notifications[{index}]"))
    return sends


def _addresses(settings: Settings) -> dict[str, str]:
    """By destination, what must not get what another one was to be told. A receiver may move: its name counts."""
    receivers = {receiver_destination(one.name): "" for one in settings.notifications}
    if not settings.forge.is_used:
        return receivers
    remote = find_remote(settings.source.url, settings.forge)
    return receivers | {FORGE: f"{remote.api} {remote.repository}"}


def _was(status: Document, open_: CommitStatus) -> bool:
    """Was it applied, though not answered?"""
    return any(
        open_.context == context_of(target["name"]) and target["revision"]["applied"] == open_.revision
        for target in status["targets"]
    )
