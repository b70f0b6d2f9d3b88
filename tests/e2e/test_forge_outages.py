"""Nothing that is to be said on a commit is lost: a revoked token, a forge that is away, a daemon that is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.forge_rig import ForgeRig, MakeForgeRig

pytestmark = pytest.mark.forge
CRASHING = Path(__file__).with_name("crashing_while_told.py")


@pytest.fixture
def rig(make_forge_rig: MakeForgeRig) -> ForgeRig:
    """A host that has answered its first commit."""
    rig = make_forge_rig(told=False)
    rig.start()
    rig.converge()
    rig.answer(rig.repository.head(), "success")
    return rig


def waiting(rig: ForgeRig) -> int | None:
    """How many messages wait for the forge; None: nobody knows."""
    status = rig.status()
    return sum(each["count"] for each in status["forge"]["waiting"]) if status else None


def test_revoked_token_is_explained_and_a_new_one_sends_all_that_waits(rig: ForgeRig) -> None:
    rig.forge.owner.revoke(rig.token)
    first = rig.roll(1)
    rig.converge()
    second = rig.roll(2)
    rig.converge()
    rig.wait("the refusal to be told", lambda: "401" in rig.ask("status", expect=None).stdout)

    assert waiting(rig)
    assert "token" in rig.ask("status", expect=None).stdout
    assert rig.states(first) == rig.states(second) == []
    rig.secret("forge-token", rig.forge.owner.new_token())
    rig.answer(second, "success")
    rig.wait("the older one to be answered", lambda: rig.states(first))
    rig.wait("the outbox to be empty", lambda: waiting(rig) == 0)


def test_gitea_killed_midway_gets_the_answer_when_it_is_back(rig: ForgeRig) -> None:
    gitea = rig.forge.owner.gitea
    revision = rig.roll(1, load_seconds=8)
    rig.answer(revision, "pending")
    gitea.stop(signal.SIGKILL)
    try:
        rig.converge()
        rig.wait("it to be told that the forge is away", lambda: "no answer" in rig.ask("status", expect=None).stdout)
    finally:
        gitea.start()
    rig.answer(revision, "success")

    assert rig.turns(revision) == ["pending", "success"]


def test_killed_around_every_post_it_repeats_each_at_most_once(make_forge_rig: MakeForgeRig) -> None:
    rig = make_forge_rig(told=False)
    rig.crashing_program = CRASHING
    rig.start(crashing=True)
    rig.converge()
    rig.answer(rig.repository.head(), "success")
    # Slow enough to be pending through all the deaths that come first.
    revision = rig.roll(1, load_seconds=8)
    rig.answer(revision, "success")
    steps = {f"{step} {state} {revision}" for step in ("row", "before", "after") for state in ("pending", "success")}
    died = (rig.folder / "boundaries").read_text
    rig.wait("it to die everywhere", lambda: steps <= {line.partition(": ")[2] for line in died().splitlines()})
    rig.wait("the outbox to be empty", lambda: waiting(rig) == 0)

    assert rig.turns(revision) == ["pending", "success"]
    told = [(each["status"], each["description"]) for each in rig.forge.statuses(revision)]
    assert max(map(told.count, told)) == 2
