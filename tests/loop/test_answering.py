"""A daemon that answers commits, and a forge on loopback that hears it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import Settings
from reconciler.forge.messages import CommitState, CommitStatus
from reconciler.forge.outbox import FORGE
from reconciler.loop.answering import Answering
from reconciler.loop.daemon import Daemon
from reconciler.model import Unreachable
from reconciler.report.screen import plain_lines
from reconciler.report.status import RefusedRevision, RevisionInfo
from reconciler.report.text import status_blocks
from tests.forge.local_forge import TOKEN, Asked, LocalForge, Reply, local_forge
from tests.support.git_repository import Repository
from tests.support.report_world import REVISION, report, status_of

HOST = "apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {name: box}\nspec: {}\n"
BROKEN = """apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: tiny, namespace: demo}
spec:
  predictor:
    model:
      runtime: nowhere
      modelFormat: {name: vLLM}
      storageUri: pvc://models/tiny
"""

# Each runs a daemon and a server.
pytestmark = pytest.mark.slow


class Rig:
    """A repository, a forge and the settings of a daemon that knows both. `said`: (revision, state, description)."""

    def __init__(self, folder: Path, forge: LocalForge) -> None:
        self.forge, self.reply = forge, Reply(201, {})
        forge.answer = lambda _: self.reply
        self.repository = Repository(folder / "origin")
        self.repository.write("box/host.yaml", HOST)
        self.first = self.repository.commit()
        (folder / "token").write_text(TOKEN)
        self.settings = Settings.model_validate(
            {
                "source": {"url": str(self.repository.path), "interval": 1},
                "state_dir": str(folder / "state"),
                "web": {"listen": "127.0.0.1:0"},
                "targets": [{"name": "box", "paths": ["box"]}],
                "forge": {
                    "kind": "gitea",
                    "url": forge.url,
                    "repository": "team/models",
                    "token_file": str(folder / "token"),
                    "ca_file": str(forge.ca_file),
                },
            }
        )
        self.daemon = Daemon(self.settings)

    def said(self) -> list[tuple[str, str, str]]:
        return [_said(asked) for asked in self.forge.asked if asked.method == "POST"]

    def restart(self) -> None:
        self.daemon.stop()
        self.daemon = Daemon(self.settings)
        self.daemon.start()


def _said(asked: Asked) -> tuple[str, str, str]:
    assert asked.body["context"] == "reconciler/box"
    return asked.path.rpartition("/")[2], asked.body["state"], asked.body["description"]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with local_forge(tmp_path / "forge", lambda _: Reply()) as forge:
        found = Rig(tmp_path, forge)
        try:
            yield found
        finally:
            found.daemon.stop()


def wait(done: Callable[[], Any], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_commits_are_answered_one_after_the_other(rig: Rig) -> None:
    rig.daemon.start()
    wait(lambda: (rig.first, "success", "0 in sync") in rig.said())
    rig.repository.write("box/tiny.yaml", BROKEN)
    broken = rig.repository.commit("Serve tiny")
    wait(lambda: any(one[:2] == (broken, "failure") for one in rig.said()))
    text = next(one[2] for one in rig.said() if one[:2] == (broken, "failure"))
    assert "1 not usable: tiny: " in text
    assert "(box/tiny.yaml:" in text
    count = len(rig.said())
    rig.restart()
    wait(lambda: rig.daemon.status()["targets"][0]["observedAt"])
    rig.repository.git("rm", "--quiet", "box/tiny.yaml")
    repaired = rig.repository.commit("Serve nothing")
    wait(lambda: any(one[:2] == (repaired, "success") for one in rig.said()))
    assert [one for one in rig.said()[count:] if one[0] != repaired] == []


def test_rewritten_history_is_answered_on_the_commit_it_is_about(rig: Rig) -> None:
    rig.daemon.start()
    wait(lambda: any(one[:2] == (rig.first, "success") for one in rig.said()))
    rig.repository.git("commit", "--quiet", "--amend", "--message", "Rewritten")
    rewritten = rig.repository.git("rev-parse", "HEAD")
    wait(lambda: any(one[:2] == (rewritten, "failure") for one in rig.said()))
    assert rig.daemon.status()["revision"]["refused"]["revision"] == rewritten
    text = next(one[2] for one in rig.said() if one[0] == rewritten)
    assert text.startswith("refused: ")
    assert text.endswith(f"; {rig.first[:8]} is live")


def test_token_that_is_refused_shows_in_the_status_until_there_is_another(rig: Rig, tmp_path: Path) -> None:
    rig.reply = Reply(401, {"message": "bad token"})
    rig.daemon.start()

    def problem() -> str:
        (one,) = rig.daemon.status()["forge"]["waiting"]
        return str(one["error"])

    wait(problem)
    assert "check the token" in problem()
    text = "\n".join(plain_lines(status_blocks(rig.daemon.status())))
    assert "forge: 1 waiting since " in text
    assert b'reconciler_outbox_waiting{destination="forge"} 1.0' in rig.daemon._metrics.text(rig.daemon.status())
    rig.reply = Reply(201, {})
    wait(lambda: not problem() and (rig.first, "success", "0 in sync") in rig.said())


def test_daemon_without_a_token_has_no_outbox(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "origin")
    repository.commit()
    given = {"source": {"url": str(repository.path)}, "state_dir": str(tmp_path / "state")}
    daemon = Daemon(Settings.model_validate(given | {"targets": [{"name": "box", "paths": ["box"]}]}))
    daemon.start()
    daemon.stop()
    assert "forge" not in daemon.status()
    assert not (tmp_path / "state" / "outbox.db").exists()


def test_forge_that_hangs_delays_neither_passes_nor_the_end(rig: Rig) -> None:
    hangs = threading.Event()
    rig.forge.answer = lambda _: Reply(201, {}) if hangs.wait(60) else Reply(500)
    rig.daemon.start()
    try:
        wait(lambda: rig.forge.asked)
        passes = rig.daemon.status()["daemon"]["passes"]
        needed = rig.daemon.request_sync()
        wait(lambda: rig.daemon.status()["daemon"]["passes"] >= needed > passes)
        began = time.monotonic()
        rig.daemon.stop()
        assert time.monotonic() - began < 20
    finally:
        hangs.set()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(302, None, {"Location": "https://example.invalid/"}),
        Reply(429, {"message": "slow down"}, {"Retry-After": "1"}),
        Reply(200, b"x" * (9 << 20)),
        Reply(500, {"message": "down"}),
        Reply(403, {"message": "no"}),
    ],
    ids=["redirect", "busy", "endless", "down", "forbidden"],
)
def test_hostile_forge_is_left_alone_and_costs_no_pass(rig: Rig, reply: Reply) -> None:
    rig.reply = reply
    rig.daemon.start()
    wait(lambda: rig.daemon.status()["forge"]["waiting"][0]["error"] or rig.daemon.status()["forge"]["dead"])
    asked = len(rig.forge.asked)
    for _ in range(5):
        needed = rig.daemon.request_sync()
        wait(lambda needed=needed: rig.daemon.status()["daemon"]["passes"] >= needed)  # type: ignore[misc]
    assert len(rig.forge.asked) <= asked + 6
    assert rig.daemon.status()["targets"][0]["passError"] == ""


def test_revision_that_is_not_answered_yet_is_closed_by_the_next_one(tmp_path: Path, rig: Rig) -> None:
    def at(revision: str, applied: str) -> Any:
        info = RevisionInfo(desired=revision, applied=applied)
        status = status_of(report(), revision=info)
        target = status["targets"][0]
        seen = {"desired": applied, "applied": applied, "fullyApplied": True, "heldUpBy": []}
        return status | {"targets": [target | {"name": "box", "revision": seen}]}

    first, second = "b" * 40, "1a2b3c4d".ljust(40, "0")
    documents = iter([at(first, REVISION), at(second, REVISION), at(second, REVISION)])
    (tmp_path / "other").mkdir()
    answering = Answering(rig.settings.model_copy(update={"state_dir": tmp_path / "other"}), lambda: next(documents))
    said = []
    for now in (1.0, 2.0, 3.0):
        answering.turn(now)
        rows = answering.outbox.due(FORGE, now)
        for row in rows:
            answering.outbox.delivered(row)
        found = (row.message for row in rows)
        said += [(one.revision, one.state, one.description) for one in found if isinstance(one, CommitStatus)]
    answering.stop()
    assert (first, "pending", "seen; not looked at here yet") in said
    assert (first, "superseded", "superseded by 1a2b3c4d") in said
    assert [one for one in said if one[0] == first][-1][1] == "superseded"
    assert len(said) == 3


def test_error_that_lasts_is_told_beside_a_refused_revision(tmp_path: Path, rig: Rig) -> None:
    refused = RefusedRevision("c" * 40, "its history was rewritten")
    info = RevisionInfo(desired=REVISION, applied=REVISION, refused=refused)
    document = status_of(report(observed=Unreachable("a", 9.0, "connection refused")), revision=info)
    (tmp_path / "other").mkdir()
    answering = Answering(rig.settings.model_copy(update={"state_dir": tmp_path / "other"}), lambda: document)
    for now in (1.0, 20.0, 40.0):
        answering.turn(now)
    said = [row.message for row in answering.outbox.due(FORGE, 40.0)]
    answering.stop()
    assert {(one.revision, one.state) for one in said if isinstance(one, CommitStatus)} == {
        (refused.revision, CommitState.FAILURE),
        (REVISION, CommitState.ERROR),
    }
