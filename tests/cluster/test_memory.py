"""What is remembered of applied objects: a cache, whose loss or damage costs one apply each."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cluster.memory import Memory
from reconciler.cluster.objects.compare import Applied
from reconciler.cluster.observed import Remembered
from reconciler.cluster.rollout.additions import Additions
from reconciler.model import ObjectId

ONE = ObjectId("serving.kserve.io", "InferenceService", "default", "chat")
KNOWN = Remembered(Applied("body", "uid", "projection", "7"), Additions(arguments=("--a=1",), grace_seconds=9), 12.5)


def test_memory_is_the_same_after_a_restart(tmp_path: Path):
    memory = Memory(tmp_path / "applied.json")
    memory.note(ONE, KNOWN)
    memory.save()

    again = Memory(tmp_path / "applied.json")
    assert again.now() == {ONE: KNOWN}
    assert again.key == memory.key
    assert (tmp_path / "applied.json").stat().st_mode & 0o077 == 0


def test_pass_that_applied_nothing_writes_nothing(tmp_path: Path):
    memory = Memory(tmp_path / "applied.json")
    memory.confirm({ONE: KNOWN.applied})
    memory.keep(frozenset())
    memory.save()

    assert not (tmp_path / "applied.json").exists()
    assert memory.now() is memory.now()


def test_object_that_is_ours_no_more_is_forgotten(tmp_path: Path):
    memory = Memory(tmp_path / "applied.json")
    memory.note(ONE, KNOWN)
    memory.keep(frozenset())

    assert memory.now() == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 9}', '{"version": 1, "objects": [[1]]}', "\x00"])
def test_damaged_file_is_as_good_as_none(tmp_path: Path, text: str):
    (tmp_path / "applied.json").write_text(text)

    assert Memory(tmp_path / "applied.json").now() == {}
