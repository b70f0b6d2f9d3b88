"""What a webhook does to a real daemon: git is asked, once for many, and once more for what comes meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.config.settings import Settings
from reconciler.loop.daemon import Daemon
from reconciler.model import Snapshot
from reconciler.source import LocalWatch
from tests.support.git_repository import Repository
from tests.support.world import eventually
from tests.web.webhook_senders import configured, push, send

pytestmark = pytest.mark.slow

ENDLESS = 1_000_000


class Polled:
    """A daemon that nothing but webhooks wakes; how often git was asked is counted, and asking may be held up."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(folder / "origin")
        self.first = self.push("one")
        settings = configured(folder, url=str(self.repository.path), interval=ENDLESS)
        settings = Settings(**(dict(settings) | {"resync": ENDLESS}))
        self.daemon = Daemon(settings)
        self.begun, self.ended = 0, 0
        self.go_on = threading.Event()
        self.go_on.set()
        self._poll = self.daemon._follower.source.poll
        self.daemon._follower.source.poll = self._asking  # type: ignore[method-assign]
        self.daemon.start()

    def push(self, text: str) -> str:
        self.repository.write("hosts/a/x.yaml", f"# {text}\n")
        return self.repository.commit(text)

    def _asking(self) -> Snapshot:
        self.begun += 1
        assert self.go_on.wait(30)
        try:
            return self._poll()
        finally:
            self.ended += 1

    def webhook(self) -> None:
        assert send(self.daemon._web.address, "gitea", push("gitea")) == 202

    @property
    def revision(self) -> str:
        return str(self.daemon.status()["revision"]["desired"])


@pytest.fixture
def polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Polled]:
    monkeypatch.setattr(LocalWatch, "start", lambda _: None)
    made = Polled(tmp_path)
    eventually(lambda: made.revision == made.first and made.ended == 1)
    yield made
    made.go_on.set()
    made.daemon.stop()


def test_webhook_brings_what_was_pushed_before_the_next_poll(polled: Polled) -> None:
    pushed = polled.push("two")
    polled.webhook()
    eventually(lambda: polled.revision == pushed)
    assert polled.ended == 2


def test_webhooks_during_a_fetch_cause_one_more_look_after_it(polled: Polled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.web.webhooks.routes._LEAST_SECONDS", 0.0)
    polled.go_on.clear()
    polled.webhook()
    eventually(lambda: polled.begun == 2)
    for _ in range(20):
        polled.webhook()
    assert polled.begun == 2
    polled.go_on.set()
    eventually(lambda: polled.ended == 3)
    polled.webhook()
    eventually(lambda: polled.ended == 4)
    assert polled.begun == 4


def test_replayed_webhooks_ask_git_once_a_second_at_most(polled: Polled) -> None:
    for _ in range(50):
        polled.webhook()
    assert polled.begun <= 2
    eventually(lambda: polled.ended == 3)
    assert polled.revision == polled.first
