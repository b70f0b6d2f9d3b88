"""A machine for the tests of one module, skipped with a reason where none can be made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.machine import Machine, NoMachine

ROOT = Path(__file__).parents[2]
CODE = "/srv/reconciler"


def refuse(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Sees this checkout at `CODE`, whatever folders lead to it out here."""
    try:
        made = Machine(tmp_path_factory.mktemp("machine"), "unit-tests", {f"{CODE}:ro": ROOT})
    except NoMachine as error:
        refuse(str(error))
        raise
    yield made
    made.close()
