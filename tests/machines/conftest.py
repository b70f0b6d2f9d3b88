"""Machines for tests, skipped with a reason where none can be made."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tests.machines.machine import Machine, NoMachine, check
from tests.machines.network import Switch
from tests.machines.rig import MachineRig
from tests.support.engine.fixtures import find_place

ROOT = Path(__file__).parents[2]
CODE = "/srv/reconciler"
AnyRig = TypeVar("AnyRig", bound=MachineRig)


class MakeRig(Protocol):
    """Makes a rig of this class, with these options."""

    def __call__(self, kind: type[AnyRig] = ..., /, **options: Any) -> AnyRig: ...


def binds() -> dict[str, str | Path]:
    """This checkout at `CODE`, and the interpreter that runs us where it lies out here."""
    ours = {Path(sys.prefix), Path(sys.base_prefix)}
    return {f"{CODE}:ro": ROOT} | {f"{path}:ro": path for path in ours if not path.is_relative_to("/usr")}


def refuse(reason: str) -> None:
    pytest.skip(reason)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Sees this checkout at `CODE`, whatever folders lead to it out here."""
    try:
        made = Machine(tmp_path_factory.mktemp("machine"), "unit-tests", binds())
    except NoMachine as error:
        refuse(str(error))
        raise
    yield made
    made.close()


@pytest.fixture
def make_rig(engine_python: Path, tiny_model: Path) -> Iterator[MakeRig]:
    """Rigs on machines of their own; all of it ends with the test."""
    try:
        check()
    except NoMachine as error:
        refuse(str(error))
    rigs: list[MachineRig] = []

    def make(kind: type[MachineRig] = MachineRig, /, **options: Any) -> MachineRig:
        # Not below /tmp: units have one of their own.
        folder = Path("/run") / f"reconciler-tests-{os.getpid()}-{len(rigs)}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            rigs.append(kind(folder, python=engine_python, model=tiny_model, place=find_place(), **options))
        except NoMachine as error:
            shutil.rmtree(folder, ignore_errors=True)
            refuse(str(error))
        return rigs[-1]

    yield make  # type: ignore[misc]
    for rig in rigs:
        rig.close()


@pytest.fixture
def switch() -> Iterator[Switch]:
    """What machines with a network of their own are plugged into."""
    try:
        made = Switch()
        # Where there are bridges, there may still be no cables.
        made.plug()
    except NoMachine as error:
        refuse(str(error))
        raise
    yield made
    made.close()
