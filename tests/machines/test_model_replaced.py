"""A model's folder that another user of the host puts something else in the place of, on a real systemd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.conftest import refuse
from tests.machines.light import LightRig
from tests.machines.machine import NoMachine, check
from tests.machines.rig import USER

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]

ALICE = "alice"


@pytest.fixture
def rig() -> Iterator[LightRig]:
    try:
        check()
        made = LightRig(Path("/run") / f"reconciler-replaced-{os.getpid()}")
    except NoMachine as error:
        refuse(str(error))
        raise
    yield made
    made.close()


def pid_of(rig: LightRig, unit: str) -> str:
    return rig.machine.run("systemctl", "show", "-P", "MainPID", unit).strip()


def test_unit_that_systemd_restarts_never_gets_another_folder_of_that_name(rig: LightRig) -> None:
    """Root mounts it, and could enter what neither she nor the replicas' user may."""
    rig.machine.run("useradd", "--system", ALICE)
    rig.machine.run("chown", ALICE, str(rig.models))
    secret = "/srv/of-root"
    rig.machine.run(
        "sh", "-c", f"mkdir -p {secret}/model && echo '{{}}' >{secret}/model/config.json && chmod 700 {secret}"
    )
    rig.fill(1)
    rig.start()
    rig.wait("it to serve", rig.is_settled)
    unit = rig.unit_of("s0")

    def alice(script: str) -> None:
        rig.machine.run("setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", "sh", "-ec", script)

    alice(f"cd {rig.models} && mv tiny away && ln -s {secret}/model tiny")
    # Without the daemon, nobody but systemd decides.
    rig.kill()
    rig.machine.run("kill", "-KILL", pid_of(rig, unit))
    rig.wait(
        "it to be refused", lambda: "was replaced since it was looked at" in rig.machine.run("journalctl", "-u", unit)
    )
    rig.start()
    rig.wait("it to be said", lambda: f"{secret} cannot be entered by {USER}" in str(rig.status()))

    alice(f"cd {rig.models} && rm tiny && mv away tiny")
    rig.wait("it to serve again", rig.is_settled)
