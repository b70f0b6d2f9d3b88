"""What a replica, and the proxy, can reach of the host that they run on."""

from __future__ import annotations

import pytest

from tests.machines.conftest import MakeRig
from tests.machines.installed import InstalledRig
from tests.machines.rig import USER

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

TINY = "demo/tiny.yaml"
MORE = """\
      env:
        - {name: DATABASE, value: postgres://me:hunter2@db}
"""
BUS = "/run/dbus/system_bus_socket"
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def inside(rig: InstalledRig, pid: str, user: str, *command: str) -> str:
    """What a command says in the mounts of a process, as this user."""
    enter = ("nsenter", "-t", pid, "-m", "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    return rig.machine.run(*enter, "--bounding-set=-all", "sh", "-c", '"$@" 2>&1', "sh", *command, expect=None).strip()


def test_replica_sees_its_own_model_and_nothing_of_others_or_of_us(make_rig: MakeRig) -> None:
    rig = make_rig(InstalledRig)
    other = rig.models / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    rig.machine.run("install", "-d", "-m", "0755", "/var/cache/reconciler/of-another-engine")
    rig.write({TINY: rig.read(TINY) + MORE})
    rig.start()
    rig.converge()
    (unit,) = rig.units("active")
    pid = rig.machine.run("systemctl", "show", "-P", "MainPID", unit).strip()

    assert "config.json" in inside(rig, pid, USER, "ls", "/mnt/models").split()
    for hidden in (other.parent, "/var/lib/reconciler", "/etc/reconciler"):
        assert inside(rig, pid, USER, "ls", "-A", str(hidden)) == "", "it looks empty"
    (own,) = inside(rig, pid, USER, "ls", "/var/cache/reconciler").split()
    assert own != "of-another-engine"
    bus = ("/usr/bin/python3", "-c", CONNECT, BUS)
    assert "Permission denied" in inside(rig, pid, USER, *bus)
    assert "unix" not in inside(rig, "1", USER, *bus), "others of that user can reach it"

    shown = rig.machine.run("systemctl", "show", unit) + inside(rig, "1", USER, "systemctl", "cat", unit)
    assert "hunter2" not in shown
    environment = rig.machine.run("cat", f"/proc/{pid}/environ").split("\0")
    assert "DATABASE=postgres://me:hunter2@db" in environment
    rig.machine.reboot()
    rig.wait("it to serve again", rig.serves)


def test_proxy_reaches_no_bus_though_it_is_root(make_rig: MakeRig) -> None:
    rig = make_rig(InstalledRig)
    rig.start()
    rig.converge()
    unit = f"reconciler-proxy-{rig.name}.service"
    pid, memory = rig.machine.run("systemctl", "show", "-P", "MainPID", "-P", "MemoryMax", unit).split()
    assert int(memory) == 2 << 30
    for socket in (BUS, "/run/systemd/private"):
        assert "denied" in inside(rig, pid, "root", "/usr/bin/python3", "-c", CONNECT, socket)
