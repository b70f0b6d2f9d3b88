"""A secret on its way into a real process, and every place where it must not be left."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import Retryable, Terminal
from reconciler.host.inventory import dump_record, load_record
from reconciler.host.process import scratch
from reconciler.host.target import HostTarget
from reconciler.model import (
    EffectiveSpec,
    EnvVar,
    FileMount,
    Lease,
    Observed,
    Remove,
    SecretMount,
    Start,
    Stop,
    VolumeFile,
)
from reconciler.secrets import NO_SECRETS, SecretStore, StoredSecret
from reconciler.system import procfs
from tests.crash.harness import DIGEST, REPLICA, SPEC, make_ready, settings
from tests.support.arguments import written
from tests.support.ports import free_port
from tests.support.world import ORIGIN, eventually

VALUE = "hf_neverWrittenDown1234"
WITH_SECRETS = replace(
    SPEC,
    args=written(*SPEC.args, "--certificate", "/keys/token"),
    env=(EnvVar("VLLM_API_KEY", source="secret hub/token"), EnvVar("MADE", "x$(VLLM_API_KEY)")),
    secrets=(SecretMount("hub", "/keys"),),
)


class Host:
    """One host target whose secrets can be changed."""

    def __init__(self, folder: Path) -> None:
        make_ready(folder)
        self.folder = folder
        self.state = folder / "state"
        self.store = store(VALUE)
        self.target = HostTarget(settings(folder), self.state, lambda: None, lambda: self.store)

    def start(self, spec: EffectiveSpec = WITH_SECRETS) -> None:
        lease = Lease(free_port())
        self.target.perform(Start(REPLICA, DIGEST, spec, ORIGIN, lease, 5.0, "", "1" * 40, "t"))

    @property
    def pid(self) -> int:
        record = self.target._inventory.replica(REPLICA)
        assert record is not None
        assert record.process is not None
        return record.process.pid

    def remove(self) -> None:
        self.target.perform(Stop(REPLICA, "t", force=True))
        self.target.perform(Remove(REPLICA, "t"))

    @property
    def private(self) -> Path:
        return scratch.private_of(self.state, REPLICA)


def store(value: str) -> SecretStore:
    found = StoredSecret("default", "hub", ORIGIN, {"token": value.encode()})
    return SecretStore({found.key: found})


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.remove()
    made.target.close()


def environment(pid: int) -> dict[str, str]:
    pairs = (entry.decode().partition("=") for entry in procfs.read_environment(pid))
    return {name: value for name, _, value in pairs}


def test_value_reaches_the_process_and_no_file_argument_or_answer(host: Host):
    host.start()
    eventually(lambda: "VLLM_API_KEY" in environment(host.pid))
    env = environment(host.pid)
    assert (env["VLLM_API_KEY"], env["MADE"]) == (VALUE, f"x{VALUE}")
    assert VALUE not in Path(f"/proc/{host.pid}/cmdline").read_text()
    observed = host.target.observe(())
    assert isinstance(observed, Observed)
    assert VALUE not in repr(observed)
    files = [path for path in host.folder.rglob("*") if path.is_file()]
    assert any(path.name == "record.json" for path in files)
    assert [path for path in files if VALUE.encode() in path.read_bytes()] == []


def test_secret_files_are_private_in_memory_and_go_with_the_replica(host: Host):
    host.start()
    path = host.private / "0" / "token"
    assert path.read_text() == VALUE
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(host.private.stat().st_mode) == 0o700
    eventually(lambda: str(path) in Path(f"/proc/{host.pid}/cmdline").read_text())
    host.remove()
    assert not host.private.exists()


def test_config_map_files_are_private_and_survive_a_restart(host: Host):
    volume = FileMount(
        "/chat", (VolumeFile("deep/t.jinja", "{{ x }}"), VolumeFile("name", source="field metadata.name"))
    )
    host.start(replace(SPEC, args=written(*SPEC.args, "--certificate", "/chat/deep/t.jinja"), files=(volume,)))
    path = host.private / "0" / "deep" / "t.jinja"
    assert path.read_text() == "{{ x }}"
    assert (host.private / "0" / "name").read_text() == f"{REPLICA.service.name}-{REPLICA.serial}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(host.private.stat().st_mode) == 0o700
    eventually(lambda: str(path) in Path(f"/proc/{host.pid}/cmdline").read_text())
    record = host.target._inventory.replica(REPLICA)
    assert record is not None
    assert load_record(host.state, dump_record(record)).spec.files == (volume,)


def test_start_that_fails_leaves_no_file_of_a_secret(host: Host):
    (host.folder / "python").unlink()
    with pytest.raises(Terminal, match=r"cannot start .*python"):
        host.start()
    assert not host.private.exists()


def test_missing_secret_starts_nothing(host: Host):
    host.store = NO_SECRETS
    with pytest.raises(Retryable, match="Secret hub in namespace default is not on this host any more; put it back"):
        host.start()
    assert host.target._inventory.replicas() == ()


def test_probe_uses_the_key_that_the_process_was_started_with(host: Host):
    host.start()
    host.store = store("another")
    (record,) = host.target._inventory.replicas()
    find_key = host.target._workloads.api_key
    eventually(lambda: find_key(record) == VALUE)
    # Before its process is known, only the Secret itself can tell.
    assert find_key(replace(record, process=None)) == "another"
    host.store = NO_SECRETS
    assert find_key(replace(record, process=None)) is None
    assert VALUE not in repr(record)


def test_replica_without_secrets_has_no_private_folder(host: Host):
    host.start(SPEC)
    assert not host.private.exists()


def test_start_whose_port_was_taken_meanwhile_leaves_no_file_of_a_secret(host: Host):
    scratch.write_private({str(host.private / "0" / "token"): b"of the try before"}, host.private)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lease = Lease(taken.getsockname()[1])
        # It can listen on no socket.
        spec = replace(WITH_SECRETS, args=written(*WITH_SECRETS.args, "--data-parallel-multi-port-external-lb"))
        action = Start(REPLICA, DIGEST, spec, ORIGIN, lease, 5.0, "", "1" * 40, "t")
        with pytest.raises(Retryable, match="is taken"):
            host.target.perform(action)
    assert not host.private.exists()


def test_folder_for_secrets_that_is_another_users_is_not_used(host: Host):
    host.private.symlink_to("/tmp")
    try:
        with pytest.raises(Retryable, match="cannot be deleted"):
            host.start()
    finally:
        host.private.unlink()
