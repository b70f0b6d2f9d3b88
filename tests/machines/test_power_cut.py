"""What the supervisor does to units survives a power cut: from what serves nothing is missing after the next boot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.machines.conftest import CODE
from tests.machines.machine import Machine

pytestmark = pytest.mark.host


def test_unit_files_are_synced_before_start_and_gone_after_removal(machine: Machine) -> None:
    said = json.loads(
        machine.run("env", "-C", CODE, f"PYTHONPATH={CODE}", sys.executable, "-m", "tests.machines.power_cut")
    )
    for left in said["at_start"]:
        assert all(left.values()), "a file would be empty"
        # The unit as systemd reads it, the link that starts it at a boot, and our copy to compare it with.
        unit = "reconciler-power.default.chat.aaaaaaaa-0.service"
        assert sorted(Path(path).name for path in left) == ["environment", "key", unit, unit, "record.json", "unit"]
    assert said["removed"] == [{}, {}]
