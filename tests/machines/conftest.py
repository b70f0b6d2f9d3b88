"""A machine for the tests of one module, skipped with a reason where none can be made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.machine import Machine, NoMachine

ROOT = Path(__file__).parents[2]
CODE = "/srv/reconciler"


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
