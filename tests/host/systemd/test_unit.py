"""The text of a unit: what must stand in it, and what must not. Real systemd reads it in tests/machines."""

from __future__ import annotations

import shlex
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.host.systemd import fetch
from reconciler.host.systemd.proxy import drain_unit, proxy_name, proxy_unit
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.host.systemd.unit import (
    UnitPlan,
    build_unit,
    credential_of,
    drain_name,
    read_facts,
    replica_of,
    unit_name,
    with_stop,
)
from reconciler.model import ReplicaId, Resources, ServiceId
from reconciler.system import procfs

PLAN = UnitPlan(
    target="gpu-1",
    replica=ReplicaId(ServiceId("default", "chat"), "aaaaaaaa-0"),
    argv=("/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"),
    env={"PATH": "/bin"},
    user="engine",
    cache="reconciler/0",
    drain_timeout=90.5,
    address=30001,
    resources=Resources(0, 4000, 2 << 30, cpu_limit_millis=6500, memory_limit_bytes=3 << 30),
)


def test_what_stands_in_our_section_can_be_read_back() -> None:
    plan = replace(PLAN, facts={"Digest": "abc", "Record": '{"a": "b=c; [d]"}'})
    assert read_facts(build_unit(plan)) == plan.facts


def test_hidden_variables_stand_in_no_unit() -> None:
    plan = replace(PLAN, env={"HF_TOKEN": "hunter2", "PATH": "/bin"}, hidden=frozenset({"HF_TOKEN"}))
    assert "hunter2" not in build_unit(plan)
    assert "hunter2" in (credential_of(plan) or "")
    with pytest.raises(ValueError, match="cannot hide"):
        build_unit(replace(plan, env={"my.token": "hunter2"}, hidden=frozenset({"my.token"})))


CONTAINED = replace(
    PLAN,
    argv=("python3", "-m", "vllm.entrypoints.openai.api_server", "--port=1"),
    image="0123abcd",
    owner="990:980",
    gpus=("GPU-1", "MIG-2"),
    mounts={"/mnt/models": "/srv/a model"},
    credential="/run/reconciler-secrets/environment",
)


@pytest.mark.parametrize("plan", [PLAN, CONTAINED], ids=["native", "contained"])
def test_value_of_a_variable_stands_in_no_unit(plan: UnitPlan) -> None:
    """Every user of the host may ask systemd for the environment and the command of a unit."""
    plan = replace(plan, env={"DATABASE": "postgres://me:hunter2@db", "my.var": "hunter2", "PATH": "/bin"})
    assert "hunter2" not in build_unit(plan)
    assert (credential_of(plan) or "").count("hunter2") == 2


def start_of(plan: UnitPlan) -> list[str]:
    (line,) = (line for line in build_unit(plan).splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart=:"))


def test_container_is_started_as_podmans_own_units_do_it() -> None:
    lines = build_unit(CONTAINED).splitlines()
    assert "After=network.target nvidia-cdi-refresh.service" in lines
    assert {"Type=notify", "NotifyAccess=all", "Delegate=yes", "KillMode=mixed", "Restart=always"} <= {*lines}
    assert "TimeoutStopSec=121" in lines
    assert f"MemoryMax={3 << 30}" in lines, "limits are the unit's, and the container is in its cgroup"
    assert not [line for line in lines if line.startswith(("User=", "DevicePolicy=", "CapabilityBoundingSet="))]
    assert "ExecStopPost=-/usr/bin/podman --events-backend=none rm --force --ignore --volumes --time=0 %N" in lines
    words = start_of(replace(CONTAINED, env={}))
    assert {"--sdnotify=conmon", "--cgroups=split", "--pull=never", "--replace", "--rm", "--name=%N"} <= {*words}
    at = words.index("0123abcd")
    assert words[at - 1] == "--entrypoint=python3"
    assert words[at + 1 :] == ["-m", "vllm.entrypoints.openai.api_server", "--port=1"]


def test_container_gets_its_gpus_its_models_and_its_cache_and_nothing_else() -> None:
    words = start_of(CONTAINED)
    assert [word for word in words if word.startswith(("--device=", "--gpus"))] == [
        "--device=nvidia.com/gpu=GPU-1",
        "--device=nvidia.com/gpu=MIG-2",
    ]
    assert [word for word in words if word.startswith(("--mount=", "--volume", "--tmpfs"))] == [
        "--mount=type=bind,src=/var/cache/reconciler/0,dst=/var/cache/reconciler/0",
        "--mount=type=bind,src=/srv/a model,dst=/mnt/models,ro=true",
    ]
    assert {"--cap-drop=all", "--security-opt=no-new-privileges", "--read-only", "--user=990:980"} <= {*words}
    with pytest.raises(ValueError, match="without commas"):
        build_unit(replace(CONTAINED, mounts={"/mnt/models": "/srv/a,rw=true"}))


def test_hidden_variables_stand_in_no_command_of_podman() -> None:
    plan = replace(
        CONTAINED, env={"HF_TOKEN": "hunter2", "B": "two\nlines", "C": "\x01"}, hidden=frozenset({"HF_TOKEN"})
    )
    assert "hunter2" not in build_unit(plan)
    assert "hunter2" in (credential_of(plan) or "")
    words = start_of(plan)
    assert "--entrypoint=/bin/sh" in words
    assert ". '/run/reconciler-secrets/environment' && exec \"$@\"" in words
    assert not [word for word in words if word.startswith(("--env=HF_TOKEN", "--env=C", "--secret", "--env-file"))]
    with pytest.raises(ValueError, match="cannot hide"):
        build_unit(replace(CONTAINED, env={"my.token": "hunter2"}, hidden=frozenset({"my.token"})))


def test_only_leased_gpus_can_be_opened() -> None:
    assert "DeviceAllow" not in build_unit(PLAN)
    text = build_unit(replace(PLAN, devices=("/dev/nvidia3",)))
    assert "DevicePolicy=closed\n" in text
    assert [line for line in text.splitlines() if line.startswith("DeviceAllow=/dev/nvidia3")]
    assert "/dev/nvidia0" not in text


def test_names_of_units_lead_back_to_replicas() -> None:
    replica = ReplicaId(ServiceId("team-a", "chat"), "aaaaaaaa-0")
    assert replica_of("gpu-1", unit_name("gpu-1", replica)) == replica
    assert replica_of("gpu", unit_name("gpu-1", replica)) is None
    assert replica_of("gpu-1", "reconciler-proxy-gpu-1.service") is None


def test_drain_gets_its_time_and_a_request_its_weight() -> None:
    lines = build_unit(PLAN).splitlines()
    assert {"TimeoutStopSec=121", "KillMode=mixed", "Restart=always", "StartLimitBurst=3", "OOMPolicy=stop"} <= {*lines}
    assert "CPUWeight=157" in lines, "4 cores are 4096 shares, and that is this weight in Kubernetes too"
    assert f"MemoryLow={2 << 30}" in lines
    assert {"CPUQuota=650%", f"MemoryMax={3 << 30}"} <= {*lines}


@pytest.mark.parametrize("plan", [PLAN, CONTAINED], ids=["native", "contained"])
def test_stop_of_a_starting_engine_kills_it_by_the_unit_itself(plan: UnitPlan) -> None:
    lines = build_unit(plan).splitlines()
    (line,) = (line for line in lines if line.startswith("ExecStop="))
    assert "[0-9A-F]+:7531 " in line, "the leased port as the kernel writes it"
    assert "SuccessExitStatus=SIGKILL" in lines, "who stops it by hand has not made it fail"


@pytest.mark.parametrize("plan", [PLAN, CONTAINED], ids=["native", "contained"])
def test_socket_of_a_replica_is_in_a_folder_for_its_user_and_the_proxy(plan: UnitPlan) -> None:
    folder = "/run/reconciler-0123456789abcdef"
    text = build_unit(replace(plan, address=f"{folder}/http.sock", proxy_group=990))
    lines = text.splitlines()
    made = [line for line in lines if line.startswith("ExecStartPre=") and folder in line]
    assert made == [
        f"ExecStartPre=+/bin/rm -rf /proc/1/root{folder}/http.sock",
        f"ExecStartPre=+/usr/bin/install -d -m 2710 -o engine -g 990 /proc/1/root{folder}",
    ], "a name of before would keep vLLM from listening, and nobody else may be there first"
    if plan.image:
        words = start_of(replace(plan, address=f"{folder}/http.sock"))
        assert {f"--mount=type=bind,src={folder},dst={folder}", "--umask=0007"} <= {*words}
    else:
        assert f"ReadWritePaths=-{folder}" in lines
        assert [line for line in lines if line.startswith("UMask=")][-1] == "UMask=0007", (
            "the proxy's group may connect"
        )


def test_stop_asks_the_kernel_whether_an_engine_listens_on_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s") if len(str(tmp_path)) < 100 else "/tmp/x"
    (line,) = (each for each in build_unit(replace(PLAN, address=path)).splitlines() if each.startswith("ExecStop="))
    script = (
        shlex.split(line.partition(":")[2])[2]
        .replace("$$", "$")
        .replace("\\n", "\n")
        .replace("kill -KILL", "echo kill")
    )
    asked = ["/bin/sh", "-c", script]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert subprocess.run(asked, stdout=subprocess.PIPE, check=True).stdout, "bound is not listening"
        listener.listen()
        assert not subprocess.run(asked, stdout=subprocess.PIPE, check=True).stdout
        assert procfs.listens(path)
    assert not procfs.listens(path)


@pytest.mark.parametrize("plan", [PLAN, CONTAINED], ids=["native", "contained"])
def test_unit_of_an_older_release_is_stopped_like_one_of_today(plan: UnitPlan) -> None:
    text = build_unit(plan)
    new = ("ExecStop=", "SuccessExitStatus=")
    kept = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(new))
    old = kept.replace(" reconciler-drain-gpu-1.service", "")
    assert old != text
    assert with_stop(old, "gpu-1", 30001) == with_stop(text, "gpu-1", 30001) == text


def test_shutdown_drains_before_proxy_and_replicas_are_stopped() -> None:
    drain = drain_unit("gpu-1", proxy_name("gpu-1"), Path("/var/lib/reconciler/gpu-1/proxy"), 60.0).splitlines()
    assert "After=network.target reconciler-proxy-gpu-1.service" in drain
    assert f"Before=reconciler.service {drain_name('gpu-1')}" in build_unit(PLAN).splitlines()
    (stop,) = (line for line in drain if line.startswith("ExecStop="))
    assert stop.endswith("-P -m reconciler.host.routing.shutdown /var/lib/reconciler/gpu-1/proxy 60")
    assert "TimeoutStopSec=70" in drain


def test_models_lie_where_a_container_would_see_them() -> None:
    lines = build_unit(replace(PLAN, mounts={"/mnt/models": "/srv/a model"})).splitlines()
    assert 'BindReadOnlyPaths="/srv/a model":/mnt/models' in lines
    assert 'RequiresMountsFor="/srv/a model"' in lines


@pytest.mark.parametrize("change", [{"argv": ("a\0b",)}, {"mounts": {"/mnt/models": "/srv/a\nb"}}, {"user": "a\nb"}])
def test_what_no_unit_can_hold_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cannot|no process"):
        build_unit(replace(PLAN, **change))  # type: ignore[arg-type]


def test_name_of_a_variable_is_no_option_of_env() -> None:
    script = credential_of(replace(PLAN, env={"-S": "/bin/evil"}))
    assert script == "set -- /usr/bin/env -- '-S=/bin/evil' \"$@\"\n"


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("name", ["UID", "PPID", "OPTIND", "RANDOM", "SHLVL", "BASHOPTS", "MODEL", "with-dash"])
def test_variable_named_as_one_of_the_shells_reaches_the_engine(tmp_path: Path, shell: str, name: str) -> None:
    """`sh` is bash on some hosts, where `UID` cannot be set."""
    script = tmp_path / "environment"
    script.write_text(credential_of(replace(PLAN, env={name: "a b"}, hidden=frozenset())) or "")
    words = [shell, *(["--posix"] if shell == "bash" else []), "-c", '. "$0" && exec "$@"', str(script)]
    said = subprocess.run(
        [*words, "/usr/bin/env", "-0"], capture_output=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert f"{name}=a b".encode() in said.stdout.split(b"\0"), said.stderr


class Recorder(Systemd):
    def __init__(self) -> None:
        super().__init__()
        self.stopped: list[str] = []

    def stop(self, name: str) -> None:
        self.stopped.append(name)


def test_fetch_that_is_not_started_in_time_is_not_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would read its order from whatever has the number of our descriptor by then: another model's, perhaps."""
    monkeypatch.setattr(fetch, "_START_SECONDS", 0.1)
    systemd = Recorder()
    with pytest.raises(Retryable, match=r"does not start it: sleep did not end within 0\.1 s"):
        fetch.FetchUnit("box", Path("python"), systemd)._run(["sleep", "60"], "reconciler-fetch-box.1.service", 0.0)
    assert systemd.stopped == ["reconciler-fetch-box.1.service"]


def test_fetch_is_closed_to_others_of_its_user_where_the_host_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = tmp_path / "max_user_namespaces"
    monkeypatch.setattr(fetch, "_NAMESPACES", allowed)
    for said, expected in (("63000\n", True), ("0\n", False), (None, False)):
        allowed.unlink(missing_ok=True)
        if said is not None:
            allowed.write_text(said)
        words = fetch.command("reconciler-fetch-box.1.service", Path("python"), tmp_path / "1", 3, 4)
        assert ("--property=PrivateUsers=yes" in words) is expected


@pytest.mark.parametrize("plan", [PLAN, CONTAINED], ids=["native", "contained"])
def test_replica_that_forks_without_end_leaves_half_of_the_host(plan: UnitPlan):
    assert "\nTasksMax=50%\n" in build_unit(plan)


@pytest.mark.parametrize("plan", [PLAN, CONTAINED], ids=["native", "contained"])
def test_replica_that_crashes_leaves_no_core_with_keys(plan: UnitPlan):
    assert "\nLimitCORE=0\n" in build_unit(plan)


def test_proxy_has_a_limit_of_memory_and_only_where_there_is_one():
    text = proxy_unit("gpu-1", Path("/state/proxy"), 30, ["envoy"], memory=1 << 31)
    assert {"MemoryMax=2147483648", "LimitCORE=0", "ReadWritePaths=/state/proxy"} <= set(text.splitlines())
    bare = proxy_unit("gpu-1", Path("/state/proxy"), 30, ["envoy"])
    assert "MemoryMax" not in bare
    assert "User=" not in bare
    assert "AmbientCapabilities" not in bare


def test_proxy_with_a_user_writes_only_where_its_admin_socket_is():
    lines = proxy_unit("gpu-1", Path("/state/proxy"), 30, ["/opt/bin/envoy"], "reconciler-proxy").splitlines()
    assert {
        "User=reconciler-proxy",
        "WorkingDirectory=-/mnt/proxy",
        "BindReadOnlyPaths=/state/proxy:/mnt/proxy",
        "BindPaths=/state/proxy/admin:/mnt/proxy/admin",
        "BindReadOnlyPaths=/opt/bin/envoy:/mnt/envoy",
        "StandardOutput=append:/state/proxy/log",
    } <= set(lines)
    assert not [line for line in lines if line.startswith("ReadWritePaths")]
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert start.startswith(("ExecStart=:/mnt/envoy ", 'ExecStart=:"/mnt/envoy" '))
    assert "./admin/admin.sock" in start
