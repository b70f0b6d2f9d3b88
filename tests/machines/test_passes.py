"""What a whole pass of the daemon costs on a real systemd while nothing has to be done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.conftest import refuse
from tests.machines.light import LightRig
from tests.machines.machine import NoMachine, check

pytestmark = pytest.mark.host


@pytest.fixture
def rig() -> Iterator[LightRig]:
    try:
        check()
        made = LightRig(Path("/run") / f"reconciler-light-{os.getpid()}")
    except NoMachine as error:
        refuse(str(error))
        raise
    yield made
    made.close()


def test_noop_pass_asks_systemd_little_and_loads_no_cluster_library(rig: LightRig) -> None:
    rig.fill(3)
    rig.start()
    rig.converge()
    rig.kill()
    said = rig.passes(5)
    assert (said["actions"], said["strangers"]) == (0, [])
    assert said["trips"] <= 3
