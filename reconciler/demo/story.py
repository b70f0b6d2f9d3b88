"""The story that the demo tells: a push serves, a second push replaces without loss, a bad third one is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection

from reconciler.config.settings import Settings
from reconciler.config.values import reachable
from reconciler.demo.answers import CommitStatusWatcher
from reconciler.demo.daemon import DemoDaemon
from reconciler.demo.narrator import Narrator
from reconciler.demo.repository import Repository
from reconciler.demo.requests import Lost, Requests, complete
from reconciler.errors import Terminal
from reconciler.forge.messages import CommitState
from reconciler.report.convergence import convergence_of, fault, place
from reconciler.report.status import Document

_MANIFEST = "demo/tiny.yaml"
_SERVICE = "default/tiny"
_PATH = f"/{_SERVICE}/v1/completions"
_TYPO = "--max-modle-len"
_POLL_SECONDS = 1.0
_ENOUGH_REQUESTS = 20
# Far above what is expected, even where a CPU is busy: a demo that hangs must end too.
_LONGEST_WAIT = 1800.0


class StoryFailed(Exception):
    """Something was not as promised."""


@dataclass(slots=True)
class Story:
    """Needs a running daemon that follows the repository; `answers`: where that answers its commits."""

    settings: Settings
    daemon: DemoDaemon
    repository: Repository
    say: Narrator
    answers: CommitStatusWatcher | None = None

    @property
    def address(self) -> str:
        return reachable(self.settings.hosts[0].routing.listen)

    def tell(self, revision: str) -> None:
        """All acts, from the revision that is pushed already. Raises StoryFailed or Terminal."""
        self._serve(revision)
        self._replace_under_load()
        bad = self._push_a_mistake()
        self._take_it_back(bad)

    def fix_what_an_earlier_run_left(self) -> None:
        """A run that was interrupted between mistake and revert leaves the mistake behind."""
        if self.repository.holds(_MANIFEST, _TYPO):
            self.repository.edit(_MANIFEST, _TYPO, "--max-model-len")
            self.repository.push("Spell the argument right")

    def _serve(self, revision: str) -> None:
        self.say.act(f"A commit becomes a served model ({_MANIFEST})")
        self._wait_for("the model to serve", lambda status: _has_arrived(status, revision))
        self._hear(revision, CommitState.SUCCESS)
        self._ask()

    def _replace_under_load(self) -> None:
        self.say.act("A change is pushed while requests keep coming")
        with Requests(self.address, _PATH, "tiny") as requests:
            keeps_coming = requests.await_answers(_ENOUGH_REQUESTS)
            revision = self._push_change()
            self._wait_for("the change to be live", lambda status: _has_arrived(status, revision), requests)
            keeps_coming = requests.await_answers(_ENOUGH_REQUESTS) and keeps_coming
        self.say.tell(str(requests))
        if requests.lost or not keeps_coming:
            raise StoryFailed("requests were lost during the change\n" + "\n".join(requests.lost[:5]))
        self._hear(revision, CommitState.SUCCESS)

    def _push_change(self) -> str:
        few = self.repository.holds(_MANIFEST, r"--max-num-seqs=4\b")
        line = self.repository.edit(_MANIFEST, r"--max-num-seqs=\d+", f"--max-num-seqs={8 if few else 4}")
        self.say.tell(f"git push: {line}")
        return self.repository.push("Change how many requests run at once")

    def _push_a_mistake(self) -> str:
        self.say.act("A commit with a misspelt argument is refused")
        line = self.repository.edit(_MANIFEST, r"--max-model-len\b", _TYPO)
        self.say.tell(f"git push: {line}")
        revision = self.repository.push("Misspell an argument")
        self._wait_for("the commit to be refused", lambda status: _is_rejected(status, revision))
        rejected = _service(self.daemon.status())["rejected"]
        self.say.tell("refused: " + place({"message": rejected["reason"], **rejected}))
        if not line.startswith(f"{rejected['file']}:{rejected['line']}:"):
            raise StoryFailed(f"the rejection should name {line}")
        self._hear(revision, CommitState.FAILURE)
        self._ask()
        return revision

    def _take_it_back(self, bad: str) -> None:
        self.say.act("git revert puts everything in order")
        revision = self.repository.revert()
        self.say.tell(f"git revert {bad[:8]}; git push")
        self._wait_for("git and the machine to agree", lambda status: _has_arrived(status, revision))
        self.say.tell(f"git and the machine agree at {revision[:8]}")
        self._hear(revision, CommitState.SUCCESS)

    def _hear(self, revision: str, state: CommitState) -> None:
        if self.answers:
            self.answers.await_state(revision, state)

    def _ask(self) -> None:
        begun = time.monotonic()
        try:
            text = complete(HTTPConnection(self.address, timeout=60), _PATH, "tiny")
        except Lost as error:
            raise StoryFailed(f"a completion was lost: {error}") from None
        if text is None:
            raise StoryFailed("the model is not there: the proxy says to come back later")
        self.say.tell(f"a completion answers in {1000 * (time.monotonic() - begun):.0f} ms: {text!r}")

    def _wait_for(self, what: str, is_so: Callable[[Document], bool], requests: Requests | None = None) -> None:
        """Tell the progress until it is so. Raises StoryFailed when it cannot become so any more."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < deadline:
            status = self.daemon.status()
            if status is not None:
                if is_so(status):
                    return
                self.say.progress(_step(status), str(requests or ""))
                if self.answers:
                    self.answers.tell(self.repository.head())
                self._fail_if_settled(what, status, is_so)
            if not self.daemon.is_running():
                raise Terminal(f"the daemon ended while waiting for {what}:\n{self.daemon.last_words()}")
            time.sleep(_POLL_SECONDS)
        raise StoryFailed(f"no end of waiting for {what}")

    def _fail_if_settled(self, what: str, status: Document, is_so: Callable[[Document], bool]) -> None:
        """A verdict counts only when it is about the newest commit, and twice: the first may be of a moment ago."""
        if not convergence_of(status).failed:
            return
        time.sleep(5 * _POLL_SECONDS)
        again = self.daemon.status()
        if again is None or is_so(again) or not convergence_of(again).failed:
            return
        if again["revision"]["desired"] != self.repository.head():
            return
        raise StoryFailed(
            f"waiting for {what}: {'; '.join(convergence_of(again).faults)}\n{self.daemon.logs(_SERVICE)}"
        )


def _service(status: Document | None) -> Document:
    for target in status["targets"] if status else ():
        for service in target["services"]:
            if f"{service['namespace']}/{service['name']}" == _SERVICE:
                found: Document = service
                return found
    return {}


def _has_arrived(status: Document, revision: str) -> bool:
    """Is this very commit live everywhere?"""
    applied = {target["revision"]["applied"] for target in status["targets"]}
    return convergence_of(status).converged and applied == {revision} and bool(_service(status))


def _is_rejected(status: Document, revision: str) -> bool:
    rejected = _service(status).get("rejected")
    return bool(rejected and rejected["revision"] == revision)


def _step(status: Document) -> str:
    service = _service(status)
    if not service:
        return status["revision"]["error"] or "the daemon reads the repository"
    return str(service.get("step") or fault(service))
