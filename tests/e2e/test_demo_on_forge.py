"""The demo on a real Gitea: it fills an empty repository, its commits are answered, and no other is touched."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.forge.gitea.account import ForgeRepository
from tests.forge.gitea.demo import DEMO, forge_options
from tests.support.git_repository import Repository

pytestmark = [pytest.mark.forge, pytest.mark.timeout(600)]


def demo(folder: Path, forge: ForgeRepository, python: Path) -> subprocess.CompletedProcess[str]:
    place = ("--python", str(python), "--dir", str(folder / "demo"))
    argv = [*DEMO, "--once", *forge_options(folder, forge), *place]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_demo_on_a_forge_is_answered_on_every_commit(
    forge_repository: ForgeRepository, engine_python: Path, tmp_path: Path
) -> None:
    done = demo(tmp_path, forge_repository, engine_python)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"on commit \w{8}: reconciler/demo failure: .*--max-modle-len.*demo/tiny\.yaml:\d+", done.stdout)
    states = []
    for commit in reversed(forge_repository.ask("GET", "/commits?stat=false")):
        states.append(forge_repository.status(commit["sha"], "reconciler/demo")["status"])
    assert states == ["success", "success", "failure", "success"]


def test_demo_leaves_a_repository_alone_that_it_did_not_make(
    forge_repository: ForgeRepository, engine_python: Path, tmp_path: Path
) -> None:
    clone = Repository(tmp_path / "clone")
    clone.git("config", "http.sslCAInfo", str(forge_repository.owner.gitea.ca_file))
    clone.write("mine.yaml")
    revision = clone.commit("Mine")
    clone.git("push", "--quiet", forge_repository.push_url, "HEAD:trunk")
    done = demo(tmp_path, forge_repository, engine_python)

    assert done.returncode != 0
    assert "is not empty, and the demo did not make it" in done.stdout + done.stderr
    assert clone.git("ls-remote", forge_repository.push_url, "refs/heads/*") == f"{revision}\trefs/heads/trunk"
