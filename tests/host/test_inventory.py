"""Records on disk: whole or absent, and never misread."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import Retryable, Terminal
from reconciler.host.inventory import Inventory, TargetLock, UnreadableRecord, dump_record, load_record
from reconciler.model import (
    NO_ORIGIN,
    EffectiveSpec,
    EnvVar,
    Lease,
    Mount,
    Owned,
    Promoted,
    ReplicaId,
    Resources,
    ServiceId,
)
from reconciler.system.files import write_atomically
from reconciler.system.procfs import Identity, SharedMemory
from tests.support.arguments import written, written_in
from tests.support.world import ORIGIN, SERVICE, record

SPEC = EffectiveSpec(
    image="vllm:0.32",
    command=written("python", "-m", "server"),
    args=written("--é", "\N{SNOWMAN}", ""),
    env=(EnvVar("A", "b"), EnvVar("TOKEN", source="secret hf/token")),
    mounts=(Mount("pvc://models/tiny"),),
    resources=Resources(1, 500, 1 << 30, (("amd.com/gpu", 1),)),
)
FULL = replace(
    record(),
    spec=SPEC,
    lease=Lease(20001, ("GPU-1",)),
    process=Identity(7, 8, "boot"),
    members=(Identity(9, 10, "boot"),),
    shared_memory=(SharedMemory("psm_1", 11),),
    ready_at=1.5,
    draining_at=2.0,
)
OWNED = Owned(SERVICE, ORIGIN, Promoted("d" * 64, SPEC, 2, ORIGIN, "1" * 40, 3.0, 60.0), (1.0, 2.5))


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    other = replace(FULL, id=ReplicaId(SERVICE, "aaaaaaaa-1"), process=None)
    inventory.write(other)
    inventory.write(FULL)
    inventory.remember_service(OWNED)
    fresh = Inventory(tmp_path)
    assert fresh.replicas() == (FULL, other)
    assert fresh.replica(FULL.id) == FULL
    assert fresh.services() == {SERVICE: OWNED}
    assert fresh.service(SERVICE) == OWNED


def test_record_of_an_older_daemon_is_of_a_replica_on_its_port(tmp_path: Path) -> None:
    whole = json.loads(dump_record(FULL))
    del whole["content"]["socket"]
    older = load_record(tmp_path, json.dumps(whole))
    assert (older, older.address) == (FULL, 20001)
    assert replace(FULL, socket="/run/x/http.sock").address == "/run/x/http.sock"


def test_arguments_are_recorded_as_their_texts_without_lines() -> None:
    spec = replace(FULL.spec, args=written_in("a.yaml", 7, ["--a", "1"]))
    text = dump_record(replace(FULL, spec=spec))
    assert json.loads(text)["content"]["spec"]["args"] == ["--a", "1"]
    read = load_record(Path("record.json"), text).spec
    assert read == spec
    assert [each.origin for each in read.args] == [NO_ORIGIN, NO_ORIGIN]


def test_empty_folder_holds_nothing(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path / "never made")
    assert inventory.replicas() == ()
    assert inventory.services() == {}
    assert inventory.replica(FULL.id) is None
    inventory.forget_replica(FULL.id)
    inventory.forget_service(SERVICE)
    inventory.sweep()
    assert not (tmp_path / "never made").exists()


def test_unchanged_record_is_not_written_again(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    inventory.write(FULL)
    inventory.remember_service(OWNED)
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = [path.stat().st_ino for path in paths]
    inventory.write(FULL)
    inventory.change(FULL.id, ready_at=1.5)
    Inventory(tmp_path).remember_service(OWNED)
    assert [path.stat().st_ino for path in paths] == before


def test_reader_sees_what_another_process_wrote(tmp_path: Path) -> None:
    reader, writer = Inventory(tmp_path), Inventory(tmp_path)
    writer.write(FULL)
    assert reader.replicas() == (FULL,)
    changed = writer.change(FULL.id, ready_at=None)
    assert reader.replicas() == (changed,)
    writer.forget_replica(FULL.id)
    assert reader.replicas() == ()


def test_unchanged_records_are_not_even_opened(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from reconciler.host.inventory import Inventory
opened = []
inventory = Inventory(Path(sys.argv[1]))
first = inventory.replicas(), inventory.services()
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
assert (inventory.replicas(), inventory.services()) == first and first[0] and first[1]
print(len(opened))
"""
    inventory = Inventory(tmp_path)
    inventory.write(FULL)
    inventory.remember_service(OWNED)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def write_binary(path: Path) -> None:
    path.write_bytes(os.urandom(64) + b"\xff\xfe")


def nest_deeply(path: Path) -> None:
    path.write_text("[" * 100_000)


def claim_newer_schema(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))


def drop_the_lease(path: Path) -> None:
    whole = json.loads(path.read_text())
    del whole["content"]["lease"]
    path.write_text(json.dumps(whole))


def make_port_a_text(path: Path) -> None:
    whole = json.loads(path.read_text())
    whole["content"]["lease"]["port"] = "20001"
    path.write_text(json.dumps(whole))


def describe_another(path: Path) -> None:
    path.write_text(path.read_text().replace("aaaaaaaa-0", "aaaaaaaa-9"))


def delete_beside_a_log(path: Path) -> None:
    (path.parent / "log").write_text("up\n")
    path.unlink()


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        make_empty,
        cut_off,
        write_binary,
        nest_deeply,
        claim_newer_schema,
        drop_the_lease,
        make_port_a_text,
        describe_another,
        delete_beside_a_log,
        become_a_folder,
    ],
)
def test_damaged_record_is_neither_absent_nor_deleted(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    inventory = Inventory(tmp_path)
    inventory.write(FULL)
    assert inventory.replicas() == (FULL,)
    path = inventory.replica_folder(FULL.id) / "record.json"
    damage(path)
    for reader in (inventory, Inventory(tmp_path)):
        with pytest.raises(UnreadableRecord, match=r"record\.json: cannot be read: .*Nothing is changed"):
            reader.replicas()
        with pytest.raises(UnreadableRecord):
            reader.replica(FULL.id)
    inventory.sweep()
    assert path.parent.is_dir()


def test_damaged_service_is_an_error_too(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    inventory.remember_service(OWNED)
    path = tmp_path / "services" / "default.chat.json"
    path.rename(path.with_name("default.talk.json"))
    with pytest.raises(UnreadableRecord, match="it describes default/chat"):
        inventory.services()
    path.with_name("default.talk.json").write_text("{}")
    with pytest.raises(UnreadableRecord, match="it is not a record"):
        inventory.services()


def test_what_a_killed_daemon_left_half_done_is_no_replica_and_is_swept(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    inventory.write(FULL)
    root = tmp_path / "replicas"
    (root / "default.chat.aaaaaaaa-1").mkdir()
    (root / "default.chat.aaaaaaaa-2").mkdir()
    (root / "default.chat.aaaaaaaa-2" / ".record.json.new").write_text("{")
    (root / ".gone-default.chat.aaaaaaaa-3").mkdir()
    (root / ".gone-default.chat.aaaaaaaa-3" / "log").write_text("bye")
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / ".default.chat.json.new").write_text("{")
    assert inventory.replicas() == (FULL,)
    assert inventory.services() == {}
    inventory.sweep()
    assert [path.name for path in root.iterdir()] == ["default.chat.aaaaaaaa-0"]
    assert inventory.replicas() == (FULL,)


def test_change_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Retryable, match="not on record"):
        Inventory(tmp_path).change(FULL.id, ready_at=1.0)


@pytest.mark.parametrize(
    "service", [ServiceId("..", "x"), ServiceId("a/b", "x"), ServiceId("a", ""), ServiceId("A", "x")]
)
def test_names_that_are_no_names_never_become_paths(tmp_path: Path, service: ServiceId) -> None:
    inventory = Inventory(tmp_path)
    with pytest.raises(Terminal, match="not a name that Kubernetes allows"):
        inventory.remember_service(Owned(service, ORIGIN))
    with pytest.raises(Terminal, match="not a name that Kubernetes allows"):
        inventory.replica_folder(ReplicaId(service, "a-0"))
    with pytest.raises(Terminal, match="serial"):
        inventory.replica_folder(ReplicaId(SERVICE, "../a"))


def test_full_disk_is_worth_another_try(tmp_path: Path) -> None:
    (tmp_path / "replicas").write_text("in the way")
    with pytest.raises(Retryable, match="cannot be written"):
        Inventory(tmp_path).write(FULL)


def test_records_are_closed_to_others(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    inventory.write(FULL)
    folder = inventory.replica_folder(FULL.id)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "record.json").stat().st_mode & 0o777 == 0o600


def test_link_in_the_place_of_the_partial_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".a.new").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    assert not (tmp_path / "victim").exists()


def test_two_daemons_never_drive_one_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from reconciler.host.inventory import TargetLock\n"
        "TargetLock(Path(sys.argv[1])).acquire(); print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "box")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    lock = TargetLock(tmp_path / "box")
    with pytest.raises(Terminal, match=rf"box: another reconciler \(pid {holder.pid}\) drives this target"):
        lock.acquire()
    holder.kill()
    holder.communicate()
    lock.acquire()
    lock.acquire()
    with pytest.raises(Terminal, match=str(os.getpid())):
        TargetLock(tmp_path / "box").acquire()
    lock.release()
    TargetLock(tmp_path / "box").acquire()


def test_lock_of_a_killed_daemon_that_a_forked_child_still_holds_is_waited_for(tmp_path: Path):
    lock = TargetLock(tmp_path / "box")
    lock.acquire()
    lock.release()
    ended = subprocess.Popen(["true"])
    ended.wait()
    forked = os.open(tmp_path / "box" / "lock", os.O_RDWR)
    fcntl.flock(forked, fcntl.LOCK_EX)
    os.pwrite(forked, f"{ended.pid}\n".encode(), 0)
    os.ftruncate(forked, len(f"{ended.pid}\n"))
    threading.Timer(0.3, os.close, (forked,)).start()
    lock.acquire()
    assert (tmp_path / "box" / "lock").read_text() == f"{os.getpid()}\n"
