"""The supervisor over many units: what it sees, what that costs, and that it loses no news."""

from __future__ import annotations

import json
import sys

import pytest

from tests.machines.conftest import CODE
from tests.machines.machine import Machine

pytestmark = pytest.mark.host


def test_many_units_are_seen_in_two_questions_and_none_is_lost(machine: Machine) -> None:
    said = json.loads(
        machine.run("env", "-C", CODE, f"PYTHONPATH={CODE}", sys.executable, "-m", "tests.machines.many_units", "12")
    )
    assert (said["alive"], said["written"], said["drifted"]) == (12, 12, [])
    assert said["trips"] <= 3
    assert (said["environment"], said["secret"], said["shown"]) == (1, "hunter3", 0)
    assert said["woken"]
    assert said["dead"] == [-9, 1]
    assert said["left"] == []
    assert said["woken_by_reexec"]
    assert said["after_reexec"] == 11
    assert said["recovered"]
    assert said["alive_again"] == 11
