"""The small parts under a process target: logs, GPUs, the machine, where models lie."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config import settings as config
from reconciler.errors import Retryable, Terminal
from reconciler.host.checks.fits import Machine
from reconciler.host.gpus.devices import Gpus
from reconciler.host.process import logs
from reconciler.host.process.exit_watch import ExitWatch
from reconciler.host.process.process_discovery import MARKER, ProcessDiscovery, carries_marker, marker_of
from reconciler.host.staging.weights import Ground, UnusableFolder, find_folder, folders_of
from reconciler.kserve.quantity import cpu_millis, memory_bytes
from reconciler.model import EffectiveSpec, Gpu, Mount, ReplicaId, ServiceId
from reconciler.system import procfs
from reconciler.system.procfs import read_environment
from tests.support.arguments import written
from tests.support.world import eventually


def target(**fields: Any) -> config.HostSettings:
    return config.HostSettings(name="box", paths=("hosts/box",), **fields)


# ---------------------------------------------------------------- logs


def test_tail_gives_whole_lines_without_colours(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n\x1b[36mtwo\x1b[0m\x07\n\nloading 10%\rloading 90%\nth\xffree\n")
    assert logs.tail(log, 3) == ("two", "loading 90%", "th\N{REPLACEMENT CHARACTER}ree")
    assert logs.tail(log, 100)[0] == "one"
    assert logs.tail(tmp_path / "none", 3) == ()


def test_tail_of_a_huge_log_reads_only_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(200_000)))
    assert logs.tail(log, 2) == ("line 199998", "line 199999")
    assert all(line.startswith("line ") for line in logs.tail(log, 10**6))


def test_log_is_cut_while_it_is_written_and_tail_spans_the_cut(tmp_path: Path) -> None:
    log = tmp_path / "log"
    descriptor = logs.open_log(log)
    try:
        os.write(descriptor, b"before\n")
        assert not logs.trim(log, limit=100)
        os.write(descriptor, b"x" * 200 + b"\n")
        assert logs.trim(log, limit=100)
        assert log.stat().st_size == 0
        os.write(descriptor, b"after\n")
    finally:
        os.close(descriptor)
    assert log.read_bytes() == b"after\n"
    assert logs.tail(log, 3) == ("before", "x" * 200, "after")


# ---------------------------------------------------------------- /proc


def test_log_far_beyond_its_limit_is_kept_from_its_end_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open(log, "wb") as file:
        # A replica that writes faster than its log is read.
        file.truncate(1 << 36)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe end\n")
    assert logs.trim(log, limit=1 << 20)
    assert (log.stat().st_size, (tmp_path / "log.1").stat().st_size) == (0, 4 << 20)
    assert logs.tail(log, 1) == ("the end",)


def test_every_listening_port_is_known_and_a_connection_is_none() -> None:
    with socket.socket() as four, socket.socket(socket.AF_INET6) as six, socket.socket() as client:
        four.bind(("127.0.0.1", 0))
        six.bind(("::1", 0))
        for listener in (four, six):
            assert listener.getsockname()[1] not in procfs.listeners()
            listener.listen()
        client.connect(four.getsockname())
        found = procfs.listeners()
        assert {four.getsockname()[1], six.getsockname()[1]} <= found.keys()
        assert client.getsockname()[1] not in found
        assert os.getpid() in procfs.holders(found[six.getsockname()[1]])


def test_process_is_known_by_its_start_even_with_a_hostile_name(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 (x"
    odd.symlink_to("/bin/sleep")
    process = subprocess.Popen([odd, "600"])
    try:
        who = procfs.identify(process.pid)
        assert who is not None
        stat = procfs.read_stat(process.pid)
        assert stat is not None
        assert stat.parent == os.getpid()
        assert procfs.is_running(who)
        assert not procfs.send_signal(replace(who, started=who.started - 1), signal.SIGKILL)
        assert procfs.is_running(who), "the number was another process's before"
        assert procfs.send_signal(who, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not procfs.is_running(who), "a zombie does not run"
    finally:
        process.kill()
        process.wait()
    assert procfs.identify(process.pid) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_marker_of_another_users_process_counts_for_nothing(tmp_path: Path) -> None:
    replica = ReplicaId(ServiceId("default", "tiny"), "aaaaaaaa-0")
    env = {MARKER: marker_of(tmp_path, replica)}
    with (
        subprocess.Popen(["sleep", "60"], env=env, user=65534) as stranger,
        subprocess.Popen(["sleep", "60"], env=env) as ours,
    ):
        try:
            # For a moment after it began, a program's environment cannot be read.
            eventually(lambda: carries_marker(tmp_path, ours.pid))
            eventually(lambda: read_environment(stranger.pid))
            marked = {seen.who.pid for seen in ProcessDiscovery()._seen if seen.marker == env[MARKER]}
            claims = (carries_marker(tmp_path, stranger.pid), carries_marker(tmp_path, ours.pid))
        finally:
            stranger.kill()
            ours.kill()
    assert (marked, claims) == ({ours.pid}, (False, True))


def test_end_before_and_after_the_watch_began_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    rang = threading.Semaphore(0)

    def note(who: Any) -> None:
        told.append(who.pid)
        rang.release()

    watch = ExitWatch(note, lambda: None)
    early, late = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    identities = [procfs.identify(process.pid) for process in (early, late)]
    assert None not in identities
    early.kill()
    early.wait()
    for who in identities * 2:
        assert who is not None
        watch.watch(who)
    assert rang.acquire(timeout=30)
    assert told[0] == early.pid
    late.kill()
    late.wait()
    while late.pid not in told:
        assert rang.acquire(timeout=30)
    watch.close()
    watch.close()
    assert told.count(late.pid) == 1


# ---------------------------------------------------------------- capacity


def test_config_lowers_what_the_machine_has_but_never_raises_it() -> None:
    whole = Machine(target(), Gpus(())).capacity(())
    assert whole.cpu_millis == (os.cpu_count() or 1) * 1000
    assert whole.memory_bytes > 1 << 28
    less = Machine(target(allocatable={"cpu": "500m", "memory": "256Mi"}), Gpus(("GPU-0",))).capacity(())
    assert (less.cpu_millis, less.memory_bytes, less.gpus) == (500, 1 << 28, (Gpu("GPU-0"),))
    more = Machine(target(allocatable={"cpu": "100k", "memory": "1Ei"}), Gpus(())).capacity(())
    assert (more.cpu_millis, more.memory_bytes) == (whole.cpu_millis, whole.memory_bytes)


def test_ports_are_not_leased_twice_and_those_of_others_come_last() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        machine = Machine(target(ports=f"{port}-{port + 3}"), Gpus(()))
        found = machine.capacity((port + 1,)).ports
        assert set(found) == {port, port + 2, port + 3}
        assert found.index(port) > 0, "a socket needs none, and whoever needs one gets a free one first"


@given(st.integers(0, 10**9), st.sampled_from(["Ki", "Mi", "Gi", "Ti"]))
def test_memory_is_counted_exactly(number: int, suffix: str) -> None:
    assert memory_bytes(f"{number}{suffix}") == number * 1024 ** (["Ki", "Mi", "Gi", "Ti"].index(suffix) + 1)


@pytest.mark.parametrize(
    ("text", "millis"),
    [("2", 2000), ("500m", 500), ("1.5", 1500), ("0.1", 100), (".5", 500), ("1e1", 10000), ("1u", 1)],
)
def test_cpu_as_kubernetes_writes_it(text: str, millis: int) -> None:
    assert cpu_millis(text) == millis


@pytest.mark.parametrize("text", ["", "1 Gi", "1gi", "Gi", "1KiB", "0x10", "--1", "1e", "nan", "inf", "-1", "1e9999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|negative"):
        memory_bytes(text)


# ---------------------------------------------------------------- where models lie


def test_uris_become_folders() -> None:
    volumes = {"models": Path("/data/models")}
    assert find_folder("file:///data/a%20b", volumes) == Path("/data/a b")
    assert find_folder("/data/a%20b", volumes) == Path("/data/a%20b")
    assert find_folder("pvc://models/tiny/v1", volumes) == Path("/data/models/tiny/v1")
    assert find_folder("pvc://models", volumes) == Path("/data/models")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pvc://weights/x", r"no volume weights on this host; .*there: models"),
        ("pvc://models/../../etc", "leaves its volume"),
        ("s3://bucket/x", "file:///"),
        ("hf://org/model", "file:///"),
        ("file://elsewhere/x", "file:///"),
        ("relative/x", "file:///"),
        ("", "file:///"),
    ],
)
def test_uris_that_mean_nothing_here_are_refused(uri: str, message: str) -> None:
    with pytest.raises(Terminal, match=message):
        find_folder(uri, {"models": Path("/data/models")})


def test_missing_or_unfinished_weights_are_named(tmp_path: Path) -> None:
    spec = EffectiveSpec("i", (), written("--model=/mnt/models"), mounts=(Mount("pvc://models/tiny"),))
    volumes = {"models": tmp_path}
    with pytest.raises(Terminal, match=rf"pvc://models/tiny: {tmp_path}/tiny: no such folder"):
        folders_of(spec, Ground(volumes), lambda _: None)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(Terminal, match=r"tiny: is empty"):
        folders_of(spec, Ground(volumes), lambda _: None)
    (tmp_path / "tiny" / "config.json").write_text("{}")
    assert folders_of(spec, Ground(volumes), lambda _: None) == {"/mnt/models": tmp_path / "tiny"}


@pytest.mark.parametrize("args", [("--model", "/mnt/models/chat"), ("serve", "/mnt/models/chat", "--port=1")])
def test_only_the_model_must_look_like_one_and_not_what_else_is_mounted(tmp_path: Path, args: tuple[str, ...]) -> None:
    for folder in ("all/chat", "certs"):
        (tmp_path / folder).mkdir(parents=True)
    mounts = (Mount("pvc://models/all"), Mount(f"file://{tmp_path}/certs", "/certs"))
    spec = EffectiveSpec("i", (), written(*args), mounts=mounts)
    with pytest.raises(Terminal, match=r"all/chat: is empty"):
        folders_of(spec, Ground({"models": tmp_path}), lambda _: None)
    (tmp_path / "all" / "chat" / "config.json").write_text("{}")
    found = folders_of(spec, Ground({"models": tmp_path}), lambda _: None)
    assert found == {"/mnt/models": tmp_path / "all", "/certs": tmp_path / "certs"}


def served(uri: str, ground: Ground) -> dict[str, Path]:
    spec = EffectiveSpec("i", (), written("--model=/mnt/models"), mounts=(Mount(uri),))
    return folders_of(spec, ground, lambda _: None)


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("/mnt/models", "params.json"),
        ("/mnt/models", "model-Q4_K_M.gguf"),
        ("/mnt/models", "weights.safetensors"),
        ("/mnt/models/model-Q4_K_M.gguf", "model-Q4_K_M.gguf"),
        ("/mnt/models/q4/model.gguf", "q4/model.gguf"),
    ],
)
def test_model_without_a_config_is_the_engines_to_judge(tmp_path: Path, model: str, file: str) -> None:
    folder, spec = tmp_path / "m", EffectiveSpec("i", (), written("--model", model), mounts=(Mount("pvc://models/m"),))
    (folder / "none").mkdir(parents=True)
    with pytest.raises(UnusableFolder, match=r"m: is empty|\.gguf: no such file or folder"):
        folders_of(spec, Ground({"models": tmp_path}), lambda _: None)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).touch()
    assert folders_of(spec, Ground({"models": tmp_path}), lambda _: None) == {"/mnt/models": folder}


def test_nothing_of_ours_is_served_wherever_a_path_leads(tmp_path: Path) -> None:
    state, model = tmp_path / "state", make_model(tmp_path / "models" / "chat")
    make_model(state / "other" / "models" / "key")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "models" / "link").symlink_to(state / "other" / "models" / "key")
    ground = Ground({"models": tmp_path / "models"}, (state, tmp_path / "token"))
    hidden = [f"file://{state}/other/models/key", "pvc://models/link", f"file://{tmp_path}", f"file://{state}"]
    for uri in hidden:
        with pytest.raises(
            UnusableFolder, match=r"is closed to services, because .*/state belongs to the daemon; keep models"
        ) as refused:
            served(uri, ground)
        assert refused.value.code == "PathNotAllowed"
    assert served(f"file://{model}", ground) == {"/mnt/models": model}
    # What was looked at once is looked at again when the path leads elsewhere.
    now = tmp_path / "models" / "now"
    now.symlink_to(model)
    assert served(f"file://{now}", ground)
    now.unlink()
    now.symlink_to(state / "other" / "models" / "key")
    with pytest.raises(UnusableFolder):
        served(f"file://{now}", ground)


def test_model_that_the_disk_hides_is_no_fault_of_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = os.stat

    def stat(path: Any, **more: Any) -> os.stat_result:
        # A disk that fails is not here.
        if str(path).endswith(("/bad", "/config.json")):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return known(path, **more)

    model = make_model(tmp_path / "chat")
    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(Retryable, match="bad: cannot be checked: Input/output error"):
        served(f"file://{tmp_path}/bad", Ground())
    with pytest.raises(Retryable, match=r"config\.json: cannot be checked"):
        served(f"file://{model}", Ground())


def test_model_that_is_not_fetched_is_no_fault_of_the_commit(tmp_path: Path) -> None:
    spec = EffectiveSpec("i", (), (), mounts=(Mount("s3://models/llama?X=secret"),))
    with pytest.raises(Retryable, match=r"^s3://models/llama: not fetched yet"):
        folders_of(spec, Ground(), lambda _: None)
    (tmp_path / "config.json").write_text("{}")
    assert folders_of(spec, Ground(), lambda _: tmp_path) == {"/mnt/models": tmp_path}
