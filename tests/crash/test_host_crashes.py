"""A daemon that is killed at any moment of a replica's life, and the next one that goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


PARTS = 4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_daemon_killed_before_any_step_starts_nothing_twice(tmp_path: Path, part: int) -> None:
    command = [sys.executable, "-m", "tests.crash.harness", str(tmp_path), str(part), str(PARTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Most actions take several steps; far fewer altogether would mean that the harness does not see them.
    assert int(done.stdout) > 40
