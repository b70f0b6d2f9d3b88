"""A daemon that answers commits, and a forge on loopback that hears it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import Settings
from reconciler.loop.daemon import Daemon
from reconciler.report.screen import plain_lines
from reconciler.report.text import status_blocks
from tests.forge.local_forge import TOKEN, Asked, LocalForge, Reply, local_forge
from tests.support.git_repository import Repository

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
