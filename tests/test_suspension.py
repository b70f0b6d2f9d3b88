"""What a person suspended stays suspended, over restarts too."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.suspension import Suspension


def test_it_outlives_the_daemon(tmp_path: Path):
    Suspension(tmp_path / "s.json").add("default/a")
    again = Suspension(tmp_path / "s.json")
    assert again.names() == {"default/a"}
    again.lift("default/a")
    assert again.names() == frozenset()


def test_everything_is_lifted_by_naming_nothing(tmp_path: Path):
    suspension = Suspension(tmp_path / "s.json")
    suspension.add(None)
    suspension.add("default/a")
    with pytest.raises(Retryable, match="whole target"):
        suspension.lift("default/a")
    suspension.lift(None)
    assert suspension.names() == frozenset()


def test_a_file_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path):
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(Retryable, match="cannot be read"):
        Suspension(tmp_path / "s.json").names()
