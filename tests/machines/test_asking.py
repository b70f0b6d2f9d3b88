"""Preflights as units: who they are, what they see, and that none is left behind."""

from __future__ import annotations

import json
import sys

import pytest

from tests.machines.asking import ODD
from tests.machines.conftest import CODE
from tests.machines.machine import Machine

pytestmark = pytest.mark.host


def test_engine_is_asked_as_the_replicas_user_and_leaves_nothing_behind(machine: Machine) -> None:
    run = ("env", "-C", CODE, f"PYTHONPATH={CODE}", sys.executable, "-m", "tests.machines.asking")
    said = json.loads(machine.run(*run))
    seen = json.loads(said["seen"])
    assert (seen["odd"], [name for name in seen["names"] if name != "LC_CTYPE"]) == (
        ODD,
        ["HOME", "ODD", "strange-name"],
    )
    assert (seen["request"]["argv"], seen["request"]["paths"]) == (["--x"], {})
    assert seen["script"].endswith("/preflight_probe.py")
    assert (seen["user"], seen["model"], seen["closed"]) == (1, ["config.json"], False)
    assert (seen["oom"], seen["nice"]) == ("1000\n", 10)
    status = dict(line.split(":\t") for line in seen["status"].splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == ("1", "2", 0)
    assert "took longer than 1.5 s" in said["slow"]
    assert "No such file or directory; see journalctl -u reconciler-preflight-box-" in said["missing"]
    assert "is not possible: it ended with 217 and no result" in said["stranger"]
    assert (said["left"], said["files"]) == ("", "")
