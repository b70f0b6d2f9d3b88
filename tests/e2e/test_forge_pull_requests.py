"""A pull request on a real Gitea is told what it would change, and nothing of it comes true before it is merged."""

from __future__ import annotations

import pytest

from tests.e2e.forge_rig import ForgeRig, MakeForgeRig
from tests.forge.gitea.account import Document

pytestmark = pytest.mark.forge
CONTEXT = "reconciler/gpu-1/plan"


@pytest.fixture
def rig(make_forge_rig: MakeForgeRig) -> ForgeRig:
    rig = make_forge_rig(told=False, answers={"pull_requests": "plan"})
    rig.start()
    rig.converge()
    return rig


def propose(rig: ForgeRig, before: str, after: str) -> str:
    """The commit of a branch with this change of the one service."""
    rig.git_here("checkout", "--quiet", "-B", "proposal")
    path = rig.clone / rig.manifest
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.invalid")
    rig.git_here(*who, "commit", "--quiet", "--all", "--message", "Propose")
    rig.git_here("push", "--quiet", "origin", "proposal")
    return rig.git_here("rev-parse", "HEAD").strip()


def the_comment(rig: ForgeRig, number: int) -> Document:
    (found,) = rig.forge.comments(number)
    return found


def test_pull_request_gets_one_comment_that_follows_its_head(rig: ForgeRig) -> None:
    accepted = (rig.state_dir / "git" / "accepted.json").read_text()
    records = rig.records()
    head = propose(rig, "memory: 2Gi", "memory: 3Gi")
    number = rig.forge.open_pull_request("proposal")
    told = rig.answer(head, "success", context=CONTEXT)
    assert told["description"].startswith("1 restart")
    first = rig.wait("the comment", lambda: rig.forge.comments(number))[0]
    assert "memory: 2048Mi → 3072Mi (gpu-1/tiny.yaml:" in first["body"]
    assert "restart, surge" in first["body"]

    # Any CI says the same in the same comment.
    said = rig.ask("plan", "--revision", head, "--comment", "--pull-request", str(number))
    assert "1 change" in said.stdout
    assert the_comment(rig, number)["body"] == first["body"]

    worse = propose(rig, "name: vLLM", "name: unheard-of")
    assert rig.answer(worse, "failure", context=CONTEXT)["description"]
    edited = rig.wait("the comment to follow", lambda: rig.forge.comments(number)[0]["body"] != first["body"])
    assert edited
    assert the_comment(rig, number)["id"] == first["id"]
    assert "gpu-1/tiny.yaml:" in the_comment(rig, number)["body"]

    assert (rig.state_dir / "git" / "accepted.json").read_text() == accepted
    assert rig.records() == records
