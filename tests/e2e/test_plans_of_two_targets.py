"""A pull request on a real Gitea gets one comment, in which every target keeps its own part."""

from __future__ import annotations

import pytest

from tests.e2e.forge_rig import ForgeRig, MakeForgeRig
from tests.forge.gitea.account import Document

pytestmark = pytest.mark.forge
ADA = ("-c", "user.name=Ada", "-c", "user.email=ada@example.invalid")


def propose(rigs: tuple[ForgeRig, ForgeRig], before: str, after: str) -> None:
    """Push a change of both targets' services to a branch."""
    clone = rigs[0]
    for rig in rigs:
        path = clone.clone / rig.manifest
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))
    clone.git_here(*ADA, "commit", "--quiet", "--all", "--message", f"Give it {after}")
    clone.git_here("push", "--quiet", "origin", "HEAD:proposal")


def comment(rig: ForgeRig, number: int, text: str) -> Document:
    """The only one, once both targets say this."""

    def found() -> Document | None:
        comments = rig.forge.comments(number)
        return next((each for each in comments if each["body"].count(text) == 2), None)

    latest: Document = rig.wait(f"both targets to say {text}", found, 60)
    assert [each["id"] for each in rig.forge.comments(number)] == [latest["id"]]
    return latest


def test_two_targets_keep_their_parts_of_one_comment(make_forge_rig: MakeForgeRig) -> None:
    plans = {"answers": {"pull_requests": "plan"}}
    rigs = (make_forge_rig(**plans), make_forge_rig(target={"name": "gpu-2"}, **plans))
    one = rigs[0]
    one.git_here("pull", "--quiet", "origin", "main")
    for rig in rigs:
        rig.start()
        rig.converge()
    one.git_here("checkout", "--quiet", "-b", "proposal")
    propose(rigs, "memory: 2Gi", "memory: 3Gi")
    number = one.forge.open_pull_request("proposal")
    first = comment(one, number, "2048Mi → 3072Mi")
    propose(rigs, "memory: 3Gi", "memory: 4Gi")
    second = comment(one, number, "2048Mi → 4096Mi")

    assert first["id"] == second["id"]
    for name in ("gpu-1", "gpu-2"):
        assert second["body"].count(f"reconciler: target {name}") == 1
