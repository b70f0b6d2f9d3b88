"""The supervisor over many units, by whichever socket systemd is asked: what it sees and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.machines.conftest import CODE
from tests.machines.machine import Machine

pytestmark = pytest.mark.host
PRIVATE, BUS = "/run/systemd/private", "/run/dbus/system_bus_socket"
# Whoever looks from outside of the sandbox that we put ourselves into.
SYSTEMCTL = '#!/bin/sh\nexec nsenter --target 1 --mount /bin/systemctl "$@"\n'


@pytest.mark.parametrize(
    ("socket", "hidden", "count"),
    [(PRIVATE, (), 12), (PRIVATE, (BUS,), 4), (BUS, (PRIVATE,), 4)],
    ids=["private", "without a bus", "bus"],
)
def test_many_units_are_seen_in_two_questions_and_none_is_lost(
    machine: Machine, socket: str, hidden: tuple[str, ...], count: int
) -> None:
    script = machine.root / "usr/local/sbin/systemctl"
    script.write_text(SYSTEMCTL)
    script.chmod(0o755)
    hide = "".join(f"mount --bind /dev/null {path} && " for path in hidden)
    run = ("env", "-C", CODE, f"PYTHONPATH={CODE}", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
    command = f"{hide} exec {sys.executable} -m tests.machines.many_units {count}"
    said = json.loads(machine.run(*run, "unshare", "--mount", "sh", "-c", command))
    assert said["socket"] == socket
    assert (said["alive"], said["written"], said["drifted"]) == (count, count, [])
    assert said["trips"] <= 3
    assert (said["environment"], said["secret"], said["shown"]) == (1, "hunter3", 0)
    assert said["woken"]
    assert said["dead"] == [-9, 1]
    assert said["left"] == []
    assert said["woken_by_reexec"]
    assert said["after_reexec"] == count - 1
    assert said["recovered"]
    assert said["alive_again"] == count - 1


ASK = """
from reconciler.host.systemd.bus import PATH, SYSTEM, Bus
bus = Bus(lambda *_: None, SYSTEM)
print("connected", flush=True)
print(bus.properties([(f"{PATH}/unit/dbus_2eservice", "Service", "MainPID")] * 300))
"""


def test_bus_is_not_asked_for_more_than_it_lets_anybody_wait_for(machine: Machine) -> None:
    """The system bus refuses whoever waits for more than 128 answers; and a slow systemd answers none for a while."""
    command = machine.argv("env", "-C", CODE, f"PYTHONPATH={CODE}", sys.executable, "-c", ASK)
    with machine.slow_systemd():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "connected\n"
        time.sleep(0.5)
    said, _ = process.communicate(timeout=60)
    pid = machine.run("systemctl", "show", "-P", "MainPID", "dbus.service").strip()
    assert said == f"{[int(pid)] * 300}\n"
