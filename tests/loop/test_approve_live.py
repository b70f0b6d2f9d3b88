"""Much is deleted at once under a running daemon: it is held, and goes once a person or a commit approves it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.light_rig import LightRig

pytestmark = pytest.mark.slow

NAMES = ("one", "two", "three")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    tiny = rig.read("demo/tiny.yaml")
    rig.write({f"demo/{name}.yaml": tiny.replace("name: tiny\n", f"name: {name}\n", 1) for name in NAMES})
    rig.start()
    for name in ("tiny", *NAMES):
        rig.settle(name)
    yield rig
    rig.close()


def held(rig: LightRig) -> dict[str, Any] | None:
    status = rig.status()
    found: dict[str, Any] | None = status["targets"][0]["deletions"]["held"] if status else None
    return found


def delete(rig: LightRig, message: str = "Tidy up") -> None:
    rig.write({f"demo/{name}.yaml": None for name in NAMES}, message)


def test_deletions_are_held_until_a_person_approves_their_hash(rig: LightRig) -> None:
    before = {name: rig.pids(name) for name in NAMES}
    delete(rig)
    found = rig.wait("the deletions to be held", lambda: held(rig))
    assert found["subjects"] == sorted(f"default/{name}" for name in NAMES)
    assert found["hash"] in rig.ask("plan", expect=1).stdout
    assert f"reconciler approve {found['hash']}" in rig.ask("status", expect=1).stdout
    assert "held are" in rig.ask("approve", "0" * 16, expect=1).stderr
    assert {name: rig.pids(name) for name in NAMES} == before
    assert f"{found['hash']}  held" in rig.ask("approve", "--list").stdout
    rig.ask("approve", found["hash"], "--reason", "they are retired")
    rig.wait("them to go", lambda: not any(rig.pids(name) for name in NAMES))
    rig.wait("the rest to be in sync", lambda: rig.is_applied() and rig.is_settled())
    rig.ask("status")
    assert json.loads(rig.ask("approve", "--list", "-o", "json").stdout)["targets"]["demo"] == {
        "held": None,
        "approvals": [],
    }
    (entry,) = [one for one in rig.history() if one["event"] == "deletions_approved"]
    assert entry["message"].endswith("they are retired")


def test_deletions_go_with_the_commit_that_bears_their_hash(rig: LightRig) -> None:
    delete(rig)
    found = rig.wait("the deletions to be held", lambda: held(rig))
    rig.write({"demo/note.txt": "x"}, f"Retire them\n\nReconciler-Approve: {found['hash']}")
    rig.wait("them to go", lambda: not any(rig.pids(name) for name in NAMES))
    (entry,) = [one for one in rig.history() if one["event"] == "deletions_approved"]
    assert "by commit " in entry["message"]
