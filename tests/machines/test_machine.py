"""What the tests on machines rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.machines.conftest import ROOT, refuse
from tests.machines.machine import NoMachine, check
from tests.support.world import eventually

pytestmark = pytest.mark.host
MAKE = """
import sys, time
from pathlib import Path
from tests.machines.machine import Machine, NoMachine
try:
    machine = Machine(Path(sys.argv[1]), "orphan", {})
except NoMachine as error:
    print(error)
else:
    print(machine._leader(), flush=True)
    time.sleep(300)
"""


def test_machine_ends_with_whoever_made_it_however_that_ends(tmp_path: Path) -> None:
    try:
        check()
    except NoMachine as error:
        refuse(str(error))
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        said = maker.stdout.readline().strip()
        if not said.isdigit():
            refuse(said)
        maker.kill()
    eventually(lambda: not Path(f"/proc/{said}").exists())
    eventually(lambda: str(tmp_path) not in Path("/proc/self/mounts").read_text())
