"""A push to a real Gitea is served and answered on its commit; a bad one with its line and what is live."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.forge_rig import ForgeRig, MakeForgeRig

pytestmark = pytest.mark.forge


@pytest.fixture(params=["https", "ssh"])
def rig(request: pytest.FixtureRequest, make_forge_rig: MakeForgeRig) -> ForgeRig:
    rig = make_forge_rig(ssh=request.param == "ssh")
    rig.start()
    rig.converge()
    return rig


def test_push_is_served_and_answered_by_pending_then_success(rig: ForgeRig) -> None:
    revision = rig.roll(1)
    answer = rig.answer(revision, "success")

    # It polls once an hour: the webhook told of the push.
    assert rig.is_applied(revision)
    assert rig.turns(revision) == ["pending", "success"]
    assert answer["description"] == "1 updated"
    told = rig.forge.statuses(revision)
    rig.ask("sync")
    rig.ask("sync")
    assert rig.forge.statuses(revision) == told


def test_bad_argument_is_answered_with_its_line_and_what_is_live(
    make_forge_rig: MakeForgeRig, engine_python: Path, tiny_model: Path
) -> None:
    rig = make_forge_rig(python=engine_python, model=tiny_model)
    rig.start()
    rig.converge()
    good = rig.repository.head()
    line = rig.edit(rig.manifest, r"--max-model-len\b", "--max-modle-len")
    bad = rig.repository.head()
    answer = rig.answer(bad, "failure")

    assert "--max-modle-len" in answer["description"]
    assert ":".join(line.split(":")[:2]) in answer["description"]
    assert rig.answer(good, "success")
    rig.repository.revert()
    assert rig.answer(rig.repository.head(), "success")


def test_rewritten_history_is_answered_on_the_refused_commit(make_forge_rig: MakeForgeRig) -> None:
    rig = make_forge_rig()
    rig.start()
    rig.converge()
    good = rig.repository.head()
    rig.git_here("-c", "user.name=Eve", "-c", "user.email=eve@example.invalid", "commit", "--amend", "-qm", "Rewrite")
    rig.git_here("push", "--quiet", "--force", "origin", "HEAD:main")
    refused = rig.repository.head()
    answer = rig.answer(refused, "failure", "error")

    assert "rewritten" in answer["description"]
    assert good[:7] in answer["description"]
    assert rig.status()["targets"][0]["revision"]["applied"] == good
    assert rig.answer(good, "success")


def test_pending_commit_is_closed_when_a_newer_one_comes(make_forge_rig: MakeForgeRig) -> None:
    rig = make_forge_rig()
    rig.start()
    rig.converge()
    slow = rig.roll(1, load_seconds=30)
    rig.answer(slow, "pending")
    newest = rig.roll(2)
    rig.answer(newest, "success")
    latest = rig.wait("the older one to be closed", lambda: rig.states(slow)[-1] != "pending" and rig.states(slow))

    assert latest[0] == "pending"
    assert "superseded" in rig.forge.status(slow, rig.context)["description"].lower()
    assert rig.states(newest)[-1] == "success"


def test_each_service_has_a_status_where_that_is_wanted(make_forge_rig: MakeForgeRig) -> None:
    rig = make_forge_rig(answers={"statuses": "service"})
    rig.start()
    rig.converge()
    revision = rig.repository.head()
    rig.answer(revision, "success")

    contexts = {each["context"] for each in rig.forge.statuses(revision)}
    assert contexts == {"reconciler/gpu-1", "reconciler/gpu-1/default/tiny"}


def test_token_is_nowhere_in_what_the_daemon_writes_or_tells(make_forge_rig: MakeForgeRig) -> None:
    rig = make_forge_rig()
    rig.start()
    rig.converge()
    rig.answer(rig.repository.head(), "success")
    told = json.dumps(rig.status()) + rig.words(10_000) + rig.ask("history").stdout

    assert rig.token not in told
    kept = [path for path in rig.state_dir.rglob("*") if path.is_file() and rig.token.encode() in path.read_bytes()]
    assert kept == []
