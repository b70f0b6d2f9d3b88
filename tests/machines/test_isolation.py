"""What a replica, and the proxy, can reach of the host that they run on."""

from __future__ import annotations

import pytest

from reconciler.host.install import CONFIG
from tests.machines.conftest import MakeRig
from tests.machines.installed import UNIT, InstalledRig
from tests.machines.network import Switch
from tests.machines.rig import USER

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

TINY = "demo/tiny.yaml"
MORE = """\
      env:
        - {name: DATABASE, value: postgres://me:hunter2@db}
"""
PROXY = "reconciler-proxy"
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


def proxy_of(rig: InstalledRig, *names: str) -> str:
    """What systemd says of the proxy's unit."""
    unit = f"reconciler-proxy-{rig.name}.service"
    return rig.machine.run("systemctl", "show", "--value", *(f"--property={name}" for name in names), unit).strip()


def status_of(rig: InstalledRig, pid: str) -> dict[str, list[str]]:
    lines = rig.machine.run("cat", f"/proc/{pid}/status").splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}


def test_proxy_runs_as_its_user_and_reaches_nothing_of_ours(make_rig: MakeRig) -> None:
    rig = make_rig(InstalledRig)
    rig.start()
    rig.converge()
    pid = proxy_of(rig, "MainPID")
    assert int(proxy_of(rig, "MemoryMax")) == 2 << 30
    user = rig.machine.run("id", "-u", PROXY).strip()
    said = status_of(rig, pid)
    assert said["Uid"] == [user] * 4
    assert said["CapBnd"] == said["CapEff"] == [f"{1 << 10:016x}"], "to listen on a port below 1024"
    for socket in (BUS, "/run/systemd/private"):
        assert "denied" in inside(rig, pid, PROXY, "/usr/bin/python3", "-c", CONNECT, socket)
    for closed in ("/var/lib/reconciler", "/etc/reconciler/config.yaml", str(rig.state)):
        assert "denied" in inside(rig, pid, PROXY, "cat", closed.removeprefix(str(rig.machine.root)))
    folder = "/mnt/proxy"
    assert "bootstrap.json" in inside(rig, pid, PROXY, "ls", folder).split()
    for name in ("x", "log", "log.1", "kept/x", "bootstrap.json"):
        assert inside(rig, pid, PROXY, "touch", f"{folder}/{name}"), f"{name} is not the proxy's to write"
    proxy = rig.state / "proxy"
    assert {path.lstat().st_uid for path in proxy.iterdir() if path.name != "admin"} == {0}


def test_proxy_of_an_older_release_is_not_cut_and_starts_as_its_user(make_rig: MakeRig) -> None:
    rig = make_rig(InstalledRig)
    rig.machine.run("userdel", PROXY)
    (rig.machine.root / CONFIG.lstrip("/")).write_text(rig.config.read_text())
    rig.machine.run("systemctl", "start", UNIT)
    rig.converge()
    before = proxy_of(rig, "MainPID", "InvocationID")
    assert status_of(rig, proxy_of(rig, "MainPID"))["Uid"] == ["0"] * 4

    rig.kill()
    rig.start()
    rig.converge()
    assert proxy_of(rig, "MainPID", "InvocationID") == before, "nothing is cut"
    assert rig.serves()

    rig.machine.run("systemctl", "restart", f"reconciler-proxy-{rig.name}.service")
    rig.wait("it to serve again", rig.serves)
    user = rig.machine.run("id", "-u", PROXY).strip()
    assert status_of(rig, proxy_of(rig, "MainPID"))["Uid"] == [user] * 4
    rig.wait("it to be told again", lambda: rig.ask("status", expect=None).returncode == 0)


def test_proxy_moves_to_port_80_while_it_runs(make_rig: MakeRig, switch: Switch) -> None:
    rig = make_rig(InstalledRig, network=switch.plug())
    rig.port = 8080
    rig.write_config()
    rig.start()
    rig.converge()
    before = proxy_of(rig, "InvocationID")
    rig.kill()
    rig.port = 80
    rig.write_config()
    rig.start()
    rig.wait("it to serve on port 80", rig.serves)
    assert proxy_of(rig, "InvocationID") == before
    rig.machine.run("systemctl", "restart", f"reconciler-proxy-{rig.name}.service")
    rig.wait("it to serve on port 80 again", rig.serves)
