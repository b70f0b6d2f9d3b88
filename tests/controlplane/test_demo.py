"""The demo of a cluster keeps its promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controlplane.control_plane import NoControlPlane, find_programs

pytestmark = pytest.mark.cluster


def test_demo_of_a_cluster_ends_with_everything_as_promised() -> None:
    try:
        find_programs()
    except NoControlPlane as error:
        pytest.skip(str(error))
    argv = [sys.executable, "-m", "tests.controlplane.demo", "--once"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("RECONCILER_CONFIG")}
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything as promised" in done.stdout
