"""Rigs for end-to-end tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.host.workload import home_of
from tests.e2e.forge_rig import MakeForgeRig, forge_rigs
from tests.e2e.rig import Rig
from tests.forge.gitea.account import ForgeRepository
from tests.support.engine.fixtures import find_place

MakeRig = Callable[..., Rig]


def share_cache(rig: Rig) -> None:
    """vLLM looks at each model class once, for 8 s, and keeps what it saw."""
    (target,) = rig.settings.targets
    known, state = find_place().folder / "vllm-cache", rig.folder / "state"
    for folder in (state, state / target.name):
        folder.mkdir(mode=0o700)
    for engine in target.engines:
        if known.is_dir():
            shutil.copytree(known, Path(home_of(state / target.name, engine)) / ".cache" / "vllm")


@pytest.fixture
def make_rig(tmp_path: Path, engine_python: Path, tiny_model: Path) -> Iterator[MakeRig]:
    """Rigs whose engines start from a preloaded interpreter; what they started ends with the test."""
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        options.setdefault("python", engine_python)
        rigs.append(Rig(tmp_path / f"r{len(rigs)}", model=tiny_model, **options))
        share_cache(rigs[-1])
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def make_forge_rig(tmp_path: Path, forge_repository: ForgeRepository) -> Iterator[MakeForgeRig]:
    """Hosts that follow one repository on a Gitea; their engines are engines in name only."""
    yield from forge_rigs(tmp_path, forge_repository)


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A rig with room for many replicas, whose daemon already serves `tiny`."""
    rig = make_rig()
    rig.start()
    rig.converge()
    return rig
