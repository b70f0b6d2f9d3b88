"""The story that the demo tells: a push serves, a second push replaces without loss, a bad third one is refused."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reconciler.config.listen import reachable
from reconciler.config.settings import Settings
from reconciler.demo.daemon import DemoDaemon
from reconciler.demo.judge import Caller, Question, Verdict, ways_to
from reconciler.demo.load import Load, Tally
from reconciler.demo.narrator import Narrator
from reconciler.demo.repository import Repository
from reconciler.errors import Terminal
from reconciler.report.convergence import convergence_of, fault, place
from reconciler.report.status import Document

_MANIFEST = "demo/tiny.yaml"
_SERVICE = "default/tiny"
_TYPO = "--max-modle-len"
_POLL_SECONDS = 1.0
# Far above what is expected, even where a CPU is busy: a demo that hangs must end too.
_LONGEST_WAIT = 1800.0


class StoryFailed(Exception):
    """Something was not as promised."""


@dataclass(slots=True)
class Figures:
    """What was measured. Times are seconds, except where a name ends in `_ms`."""

    ready_s: float = 0.0
    rollout_s: float = 0.0
    rejected_s: float = 0.0
    tally: Tally = field(default_factory=Tally)
    rejected: dict[str, Any] = field(default_factory=dict)

    def as_json(self, ok: bool) -> dict[str, Any]:
        """For `-o json`."""
        tally = self.tally
        return {
            "ok": ok,
            "requests": tally.requests,
            "lost": tally.lost,
            "refused": tally.refused,
            "reasons": dict(tally.reasons),
            "p50_ms": tally.p50_ms,
            "p99_ms": tally.p99_ms,
            "first_token_p50_ms": tally.first_token_p50_ms,
            "first_token_p99_ms": tally.first_token_p99_ms,
            "ready_s": round(self.ready_s, 1),
            "rollout_s": round(self.rollout_s, 1),
            "rejected_s": round(self.rejected_s, 1),
            "rejected": self.rejected,
        }


@dataclass(slots=True)
class Story:
    """Needs a running daemon that follows the repository."""

    settings: Settings
    daemon: DemoDaemon
    repository: Repository
    say: Narrator
    figures: Figures = field(default_factory=Figures)

    @property
    def url(self) -> str:
        return f"http://{reachable(self.settings.targets[0].routing.listen)}"

    def tell(self, revision: str) -> None:
        """All acts, from the revision that is pushed already. Raises StoryFailed or Terminal."""
        self._serve(revision)
        self._replace_under_load()
        bad = self._push_a_mistake()
        self._take_it_back(bad)

    def _serve(self, revision: str) -> None:
        self.say.act(f"A commit becomes a served model ({_MANIFEST})")
        begun = time.monotonic()
        self._wait_for("the model to serve", lambda status: _has_arrived(status, revision))
        self.figures.ready_s = time.monotonic() - begun
        self._ask_each_way()
        self.say.tell(f"GET /v1/models lists {', '.join(self._models())}")

    def _replace_under_load(self) -> None:
        self.say.act("A change is pushed while requests keep coming")
        load = Load(self.url, self._ways(), streams=2, posts=2, stream_tokens=200, post_tokens=16, pause=0.3).start()
        try:
            self._await_load(load, 20)
            begun = time.monotonic()
            revision = self._push_change()
            self._wait_for("the change to be live", lambda status: _has_arrived(status, revision), load)
            self.figures.rollout_s = time.monotonic() - begun
            self._await_load(load, load.tally().requests + 20)
        finally:
            self.figures.tally = load.stop()
        self.say.tell(str(self.figures.tally))
        if self.figures.tally.lost or not self.figures.tally.ok:
            raise StoryFailed("requests were lost during the change")

    def _push_change(self) -> str:
        few = self.repository.holds(_MANIFEST, r"--max-num-seqs=4\b")
        line = self.repository.edit(_MANIFEST, r"--max-num-seqs=\d+", f"--max-num-seqs={8 if few else 4}")
        self.say.tell(f"git push: {line}")
        return self.repository.push("Change how many requests run at once")

    def _push_a_mistake(self) -> str:
        self.say.act("A commit with a misspelt argument is refused")
        line = self.repository.edit(_MANIFEST, r"--max-model-len\b", _TYPO)
        self.say.tell(f"git push: {line}")
        begun = time.monotonic()
        revision = self.repository.push("Misspell an argument")
        self._wait_for("the commit to be refused", lambda status: _is_rejected(status, revision))
        self.figures.rejected_s = time.monotonic() - begun
        self._check_rejection(line)
        self._ask_each_way()
        return revision

    def _check_rejection(self, line: str) -> None:
        rejected = _service(self.daemon.status())["rejected"]
        self.figures.rejected = {key: rejected[key] for key in ("code", "reason", "file", "line")}
        self.say.tell("refused: " + place({"message": rejected["reason"], **rejected}))
        if not line.startswith(f"{rejected['file']}:{rejected['line']}:"):
            raise StoryFailed(f"the rejection should name {line}")
        if "--max-model-len" not in rejected["reason"]:
            raise StoryFailed("the rejection should suggest --max-model-len")

    def _take_it_back(self, bad: str) -> None:
        self.say.act("git revert puts everything in order")
        revision = self.repository.revert()
        self.say.tell(f"git revert {bad[:8]}; git push")
        self._wait_for("git and the machine to agree", lambda status: _has_arrived(status, revision))
        self.say.tell(f"git and the machine agree at {revision[:8]}")

    def fix_what_an_earlier_run_left(self) -> None:
        """A run that was interrupted between mistake and revert leaves the mistake behind."""
        if self.repository.holds(_MANIFEST, _TYPO):
            self.repository.edit(_MANIFEST, _TYPO, "--max-model-len")
            self.repository.push("Spell the argument right")

    def _ways(self) -> tuple[Any, ...]:
        return ways_to("default", "tiny", self.settings.targets[0].routing.domain)

    def _ask_each_way(self) -> None:
        caller = Caller(self.url, 60.0)
        for way in self._ways():
            answer = caller.ask(Question(way, 12, stream=False))
            if answer.verdict is not Verdict.OK:
                raise StoryFailed(f"a completion by {way.name}: {answer.verdict}: {answer.reason}")
            self.say.tell(f"a completion by {way.name:5} answers in {answer.seconds * 1000:.0f} ms: {answer.text!r}")
        caller.close()

    def _models(self) -> list[str]:
        connection = http.client.HTTPConnection(reachable(self.settings.targets[0].routing.listen), timeout=30)
        connection.request("GET", "/v1/models")
        listed = [model["id"] for model in json.loads(connection.getresponse().read())["data"]]
        connection.close()
        if "tiny" not in listed:
            raise StoryFailed(f"GET /v1/models lists {listed}, expected tiny")
        return listed

    def _await_load(self, load: Load, requests: int) -> None:
        deadline = time.monotonic() + 300
        while load.tally().requests < requests:
            if time.monotonic() > deadline:
                raise StoryFailed(f"the load makes no progress: {load.tally()}")
            time.sleep(0.1)

    def _wait_for(self, what: str, is_so: Callable[[Document], bool], load: Load | None = None) -> None:
        """Tell the progress until it is so. Raises StoryFailed when it cannot become so any more."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < deadline:
            status = self.daemon.status()
            if status is not None:
                if is_so(status):
                    return
                self._show(status, load)
                self._fail_if_settled(what, status, is_so)
            if not self.daemon.is_running():
                raise Terminal(f"the daemon ended while waiting for {what}:\n{self.daemon.last_words()}")
            time.sleep(_POLL_SECONDS)
        raise StoryFailed(f"no end of waiting for {what}")

    def _show(self, status: Document, load: Load | None) -> None:
        self.say.progress(_step(status), str(load.tally()) if load else "")

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
            if (service["namespace"], service["name"]) == ("default", "tiny"):
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
