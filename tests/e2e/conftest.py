"""Rigs for end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rig import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(tmp_path: Path, engine_python: Path, tiny_model: Path) -> Iterator[MakeRig]:
    """Rigs whose engines start from a preloaded interpreter; what they started ends with the test."""
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        options.setdefault("python", engine_python)
        rigs.append(Rig(tmp_path / f"r{len(rigs)}", model=tiny_model, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A rig with room for many replicas, whose daemon already serves `tiny`."""
    rig = make_rig()
    rig.start()
    rig.converge()
    return rig
