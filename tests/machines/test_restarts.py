"""What the supervisor makes of processes that it did not start: whose are they, and may they go on?"""

from __future__ import annotations

import json
import sys

import pytest

from tests.machines.conftest import CODE
from tests.machines.machine import Machine

pytestmark = pytest.mark.host


def test_restart_of_a_unit_is_attributed_and_drift_is_noticed(machine: Machine) -> None:
    run = ("env", "-C", CODE, f"PYTHONPATH={CODE}", sys.executable, "-m", "tests.machines.restarts")
    said = json.loads(machine.run(*run))
    by_hand, fine, replaced = "restarted manually", [True, None, False, 0], [False, None, False, 1]
    assert said == {
        "crashed": [True, "crashed, and started again without us", False, 0],
        "crash adopted": fine,
        "restarted": [True, by_hand, False, 0],
        "restart adopted": fine,
        "ending": [True, "stopped or restarted manually", True, 0],
        "noted": [True, None, True, 0],
        "ended": [True, by_hand, False, 0],
        # It may have been started in another way than git says.
        "edited": replaced,
        "put back": replaced,
        "restarted as it was": [True, by_hand, False, 0],
        "held": "EADDRINUSE",
        "back": [True, "crashed, and started again without us", False, 0],
    }
