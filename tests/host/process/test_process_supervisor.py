"""Real processes: started, adopted, killed, and nothing left of them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.engines.launch import Launch
from reconciler.engines.probe import Probe
from reconciler.errors import Retryable, Terminal, Unstartable
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.process import process_discovery, scratch
from reconciler.host.process.supervisor import ProcessSupervisor
from reconciler.host.supervisor import ProcessState
from reconciler.model import ReplicaId
from reconciler.system import procfs
from reconciler.system.procfs import Identity
from tests.support.ports import free_port
from tests.support.world import errno_of_a_stranger, eventually, exists, is_up, record, said, standin

# Each test starts processes, and waits for their end.
pytestmark = pytest.mark.slow

Open = Callable[[], ProcessSupervisor]


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Inventory]:
    inventory = Inventory(tmp_path / "box")
    yield inventory
    reaper = ProcessSupervisor(inventory, Gpus(()))
    for left in inventory.replicas():
        left = inventory.change(left.id, boot=procfs.boot_id())
        reaper.stop(left, force=True)
        reaper.remove(left)


@pytest.fixture
def daemon(inventory: Inventory) -> Iterator[Open]:
    """Each call is a daemon that starts with nothing in its memory."""
    opened: list[ProcessSupervisor] = []

    def start() -> ProcessSupervisor:
        opened.append(ProcessSupervisor(Inventory(inventory.folder), Gpus(())))
        return opened[-1]

    yield start
    for supervisor in opened:
        supervisor.close()


def start(supervisor: ProcessSupervisor, inventory: Inventory, launch: Launch, **fields: int) -> ReplicaRecord:
    wanted = record(**fields)  # type: ignore[arg-type]
    supervisor.start(wanted, launch)
    eventually(lambda: is_up(log_of(inventory, wanted)))
    known = inventory.replica(wanted.id)
    assert known is not None
    return known


def on_a_socket(inventory: Inventory, replica: ReplicaId) -> Launch:
    path = scratch.child_socket(inventory.folder, replica)
    return replace(standin(inventory.folder, "--uds", path), socket=path)


def log_of(inventory: Inventory, known: ReplicaRecord) -> Path:
    return inventory.replica_folder(known.id) / "log"


def state(supervisor: ProcessSupervisor, known: ReplicaRecord) -> ProcessState:
    return supervisor.list([known])[known.id]


def children(inventory: Inventory, known: ReplicaRecord) -> list[int]:
    found = said(log_of(inventory, known), "children")
    assert isinstance(found, list)
    return found


def pid(known: ReplicaRecord) -> int:
    assert known.process is not None
    return known.process.pid


def test_started_replica_leads_its_own_session_and_inherits_nothing(
    daemon: Open, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAEMON_SECRET", "hunter2")
    known = start(daemon(), inventory, standin(inventory.folder, WANTED="yes"))
    assert os.getsid(pid(known)) == pid(known)
    words = procfs.read_environment(pid(known))
    assert b"WANTED=yes" in words
    assert not any(b"hunter2" in word for word in words)
    open_files = {os.readlink(f"/proc/{pid(known)}/fd/{fd}") for fd in os.listdir(f"/proc/{pid(known)}/fd")}
    assert {path for path in open_files if path.startswith(str(inventory.folder))} == {str(log_of(inventory, known))}


def test_record_names_variables_but_never_their_values(daemon: Open, inventory: Inventory) -> None:
    known = start(daemon(), inventory, standin(inventory.folder, TOKEN="hunter2"))
    assert known.env_names == ("TOKEN",)
    assert b"hunter2" not in (inventory.replica_folder(known.id) / "record.json").read_bytes()


def test_start_of_what_runs_does_nothing(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    known = start(supervisor, inventory, standin(inventory.folder))
    supervisor.start(known, standin(inventory.folder))
    daemon().start(known, standin(inventory.folder))
    assert inventory.replica(known.id) == known
    assert len(process_discovery.ProcessDiscovery().members(supervisor._trace(known))) == 1


def test_replica_survives_its_daemon_and_is_adopted(daemon: Open, inventory: Inventory) -> None:
    known = start(daemon(), inventory, standin(inventory.folder))
    assert state(daemon(), known) == ProcessState(alive=True)


def test_exit_of_a_child_wakes_at_once_and_it_is_reaped(daemon: Open, inventory: Inventory) -> None:
    supervisor, rang = daemon(), threading.Event()
    supervisor.subscribe(rang.set)
    known = start(supervisor, inventory, standin(inventory.folder))
    os.kill(pid(known), signal.SIGKILL)
    assert rang.wait(30)
    assert not Path(f"/proc/{pid(known)}").exists()
    assert state(supervisor, known) == ProcessState(alive=False, exit_code=-9)


def test_exit_of_an_adopted_process_wakes_at_once(daemon: Open, inventory: Inventory) -> None:
    wanted = record()
    inventory.write(wanted)
    launch = standin(inventory.folder)
    script = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
    marked = {process_discovery.MARKER: process_discovery.marker_of(inventory.folder, wanted.id)}
    subprocess.run([sys.executable, "-c", script, *launch.argv], env=marked, stdout=subprocess.DEVNULL, check=True)
    supervisor, rang = daemon(), threading.Event()
    supervisor.subscribe(rang.set)
    supervisor.recover()
    known = inventory.replica(wanted.id)
    assert known is not None
    assert state(supervisor, known) == ProcessState(alive=True)
    os.kill(pid(known), signal.SIGKILL)
    assert rang.wait(30)
    assert state(supervisor, known) == ProcessState(alive=False, exit_code=None)


def test_child_is_reaped_though_its_daemon_read_the_config_anew(daemon: Open, inventory: Inventory) -> None:
    """The process is the same, the supervisor is another."""
    before = daemon()
    known = start(before, inventory, standin(inventory.folder))
    before.close()
    after = daemon()
    assert state(after, known).alive
    os.kill(pid(known), signal.SIGKILL)
    eventually(lambda: not state(after, known).alive)
    assert state(after, known).exit_code == -9
    assert not Path(f"/proc/{pid(known)}").exists()


def test_exit_status_and_last_words_of_a_failed_start(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    wanted = record()
    supervisor.start(wanted, standin(inventory.folder, "--exit", "7"))
    known = inventory.replica(wanted.id)
    assert known is not None
    eventually(lambda: not state(supervisor, known).alive)
    assert state(supervisor, known) == ProcessState(alive=False, exit_code=7)
    assert supervisor.logs(known.id, 1) == ("ValueError: bad things happened",)


def test_missing_interpreter_is_terminal_and_leaves_nothing(daemon: Open, inventory: Inventory) -> None:
    temporary = standin(inventory.folder).cwd
    with pytest.raises(Terminal, match=r"/no/such/python.*No such file.*engines\[\]\.python"):
        daemon().start(record(), Launch(("/no/such/python",), {}, temporary))
    assert inventory.replicas() == ()
    assert not Path(temporary).exists()


@pytest.mark.parametrize(
    ("words", "variable", "said"),
    [
        ((), "x" * 200_000, "variable BUNDLE has 200,007 bytes"),
        (("y" * 140_000,), "", "the argument 'yyy.* has 140,000 bytes"),
        (("a\0b",), "", "the argument .* holds a NUL"),
        ((), "a\0b", "variable BUNDLE holds a NUL"),
    ],
)
def test_start_that_no_host_could_do_blames_the_spec_and_leaves_nothing(
    daemon: Open, inventory: Inventory, words: tuple[str, ...], variable: str, said: str
) -> None:
    launch = Launch((sys.executable, *words), {"BUNDLE": variable}, standin(inventory.folder).cwd)
    with pytest.raises(Unstartable, match=said) as refused:
        daemon().start(record(), launch)
    assert "xxxx" not in str(refused.value)
    assert inventory.replicas() == ()
    assert not Path(launch.cwd).exists()


def test_interpreter_whose_base_was_deleted_is_the_hosts_fault(
    daemon: Open, inventory: Inventory, tmp_path: Path
) -> None:
    link = tmp_path / "python"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(Terminal, match="is not there: check engines") as refused:
        daemon().start(record(), Launch((str(link),), {}, standin(inventory.folder).cwd))
    assert not isinstance(refused.value, Unstartable)
    assert inventory.replicas() == ()


def test_taken_port_is_refused_before_anything_is_written(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    port = free_port()
    start(supervisor, inventory, standin(inventory.folder, "--port", str(port)), port=port)
    eventually(lambda: port in procfs.listeners())
    with pytest.raises(Retryable, match=f"port {port} is taken"):
        supervisor.start(record("bbbbbbbb-0", port=port), standin(inventory.folder))
    assert len(inventory.replicas()) == 1


def test_daemon_killed_before_spawn_leaves_replica_that_can_be_started(daemon: Open, inventory: Inventory) -> None:
    wanted = record()
    inventory.write(wanted)
    supervisor = daemon()
    supervisor.recover()
    assert state(supervisor, wanted) == ProcessState(alive=False, spawned=False)
    supervisor.start(wanted, standin(inventory.folder))
    assert state(supervisor, wanted).alive


def test_daemon_killed_after_the_spawn_finds_its_orphan(daemon: Open, inventory: Inventory) -> None:
    known = start(daemon(), inventory, standin(inventory.folder, "--child", "plain"))
    forgotten = inventory.change(known.id, process=None)
    supervisor = daemon()
    assert state(supervisor, forgotten) == ProcessState(alive=True)
    supervisor.start(forgotten, standin(inventory.folder))
    assert inventory.replica(known.id) == known
    inventory.change(known.id, process=None)
    daemon().recover()
    assert inventory.replica(known.id) == known


def test_another_process_with_the_same_number_is_not_ours(daemon: Open, inventory: Inventory) -> None:
    """The number was given away again: the start time tells."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        who = procfs.identify(stranger.pid)
        assert who is not None
        known = replace(record(), process=replace(who, started=who.started - 1))
        inventory.write(known)
        supervisor = daemon()
        assert state(supervisor, known) == ProcessState(alive=False)
        supervisor.stop(known, force=False)
        supervisor.stop(known, force=True)
        supervisor.remove(known)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_after_a_reboot_nothing_is_alive_and_nobody_is_signalled(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    known = start(supervisor, inventory, standin(inventory.folder))
    assert known.process is not None
    before = replace(known, boot="another", process=replace(known.process, boot="another"))
    assert state(supervisor, before) == ProcessState(alive=False, rebooted=True)
    supervisor.stop(before, force=True)
    assert exists(pid(known))


def test_gentle_stop_signals_the_main_process_alone(daemon: Open, inventory: Inventory) -> None:
    """vLLM's engine must outlive the signal, else it cannot finish what runs."""
    supervisor = daemon()
    known = start(supervisor, inventory, standin(inventory.folder, "--child", "plain"))
    (child,) = children(inventory, known)
    supervisor.stop(known, force=False)
    eventually(lambda: not state(supervisor, known).alive)
    assert exists(child)
    assert state(supervisor, known) == ProcessState(alive=False, leftovers=1, exit_code=0)


@pytest.mark.parametrize("kind", ["plain", "escaped", "titled"])
def test_orphan_of_a_killed_main_process_is_found_and_killed(daemon: Open, inventory: Inventory, kind: str) -> None:
    known = start(daemon(), inventory, standin(inventory.folder, "--child", kind))
    (child,) = children(inventory, known)
    os.kill(pid(known), signal.SIGKILL)
    supervisor = daemon()
    eventually(lambda: not state(supervisor, known).alive)
    assert state(supervisor, known).leftovers == 1
    with pytest.raises(Retryable, match="1 leftovers still there"):
        supervisor.remove(known)
    supervisor.stop(known, force=True)
    assert not exists(child)
    assert state(supervisor, known).leftovers == 0


def test_child_without_any_mark_is_killed_with_its_session(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    known = start(supervisor, inventory, standin(inventory.folder, "--ignore-term", "--child", "bare"))
    (child,) = children(inventory, known)
    supervisor.stop(known, force=True)
    assert not exists(child)
    assert not exists(pid(known))


def test_noted_child_without_any_mark_is_found_after_a_sudden_death(daemon: Open, inventory: Inventory) -> None:
    known = start(daemon(), inventory, standin(inventory.folder, "--child", "bare"))
    (child,) = children(inventory, known)
    known = daemon().note(known)
    os.kill(pid(known), signal.SIGKILL)
    supervisor = daemon()
    eventually(lambda: not state(supervisor, known).alive)
    assert state(supervisor, known).leftovers == 1
    supervisor.stop(known, force=True)
    assert not exists(child)


def test_stubborn_process_ends_only_by_force(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    known = start(supervisor, inventory, standin(inventory.folder, "--ignore-term"))
    supervisor.stop(known, force=False)
    supervisor.stop(known, force=False)
    assert state(supervisor, known).alive
    with pytest.raises(Retryable, match="main process still there"):
        supervisor.remove(known)
    supervisor.stop(known, force=True)
    assert state(supervisor, known) == ProcessState(alive=False, exit_code=-9)


def test_neighbours_survive_a_forced_stop(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    first = start(supervisor, inventory, standin(inventory.folder, "--child", "plain"))
    second = start(supervisor, inventory, standin(inventory.folder, "--child", "escaped"), serial="aaaaaaaa-1")  # type: ignore[arg-type]
    supervisor.stop(first, force=True)
    assert state(supervisor, second).alive
    assert all(exists(child) for child in children(inventory, second))


def test_port_that_an_orphan_still_holds_is_a_leftover(daemon: Open, inventory: Inventory) -> None:
    """A foreign listener on the same port is none."""
    port = free_port()
    known = replace(record(port=port), process=Identity(2**22 - 1, 1, procfs.boot_id()))
    inventory.write(known)
    launch = standin(inventory.folder, "--port", str(port))
    foreign = subprocess.Popen(launch.argv, stdout=subprocess.DEVNULL)
    supervisor = daemon()
    try:
        eventually(lambda: port in procfs.listeners())
        assert state(supervisor, known).leftovers == 0
    finally:
        foreign.kill()
        foreign.wait()
    marked = {process_discovery.MARKER: process_discovery.marker_of(inventory.folder, known.id)}
    orphan = subprocess.Popen(launch.argv, stdout=subprocess.DEVNULL, env=marked, start_new_session=True)
    try:
        eventually(lambda: port in procfs.listeners())
        assert state(supervisor, known).leftovers == 2
    finally:
        orphan.kill()
        orphan.wait()


def test_shared_memory_of_a_killed_replica_is_swept(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    known = start(supervisor, inventory, standin(inventory.folder, "--shared-memory"))
    name = said(log_of(inventory, known), "shared_memory")
    file = Path(f"/dev/shm/{name}")
    assert file.exists()
    supervisor.stop(known, force=True)
    known = inventory.replica(known.id) or known
    assert [shared.name for shared in known.shared_memory] == [name]
    assert file.exists()
    supervisor.remove(known)
    assert not file.exists()


def test_shared_memory_that_somebody_else_maps_or_made_is_left_alone(tmp_path: Path) -> None:
    script = (
        "from multiprocessing.shared_memory import SharedMemory as S\n"
        "from multiprocessing import resource_tracker as r\n"
        "s = S(create=True, size=4096); r.unregister('/' + s.name, 'shared_memory'); print(s.name, flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    file = Path("/dev/shm") / holder.stdout.readline().strip()
    try:
        (seen,) = procfs.shared_memory_of(holder.pid)
        scratch.sweep_shared_memory([seen])
        assert file.exists(), "it was mapped"
        holder.communicate("\n")
        scratch.sweep_shared_memory([replace(seen, inode=seen.inode + 1)])
        assert file.exists(), "it was another file of the same name"
        scratch.sweep_shared_memory([seen])
        assert not file.exists()
    finally:
        holder.kill()
        holder.wait()
        file.unlink(missing_ok=True)


def test_removed_replica_leaves_no_file(daemon: Open, inventory: Inventory) -> None:
    supervisor = daemon()
    known = start(supervisor, inventory, standin(inventory.folder))
    temporary = scratch.folder_of(inventory.folder, known.id)
    assert temporary.is_dir()
    supervisor.stop(known, force=True)
    supervisor.remove(known)
    supervisor.remove(known)
    assert not temporary.exists()
    assert not any((inventory.folder / "replicas").iterdir())


def test_temporary_folder_leaves_room_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["folder"] * 20)
    for target in (Path("/var/lib/reconciler/gpu-box-7"), deep):
        folder = scratch.folder_of(target, record().id)
        assert len(str(folder / ("x" * 36))) <= 107
    assert scratch.folder_of(deep, record().id) != scratch.folder_of(deep / "other", record().id)


def test_foreign_folder_in_the_place_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Retryable, match="is not a folder of the daemon"):
        scratch.make(tmp_path / "link")


def test_open_folder_of_ours_is_closed_before_anything_listens_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "tmp" / "x"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    scratch.make(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_folder_of_another_user_in_the_place_of_ours_is_refused(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can make a folder of another user's")
    folder = tmp_path / "tmp" / "x"
    folder.mkdir(parents=True)
    os.chown(folder, 65534, 65534)
    with pytest.raises(Retryable, match="is not a folder of the daemon"):
        scratch.make(folder)


def test_replica_on_a_socket_starts_though_a_stranger_has_its_port(inventory: Inventory, daemon: Open) -> None:
    wanted = record()
    launch = on_a_socket(inventory, wanted.id)
    with socket.create_server(("127.0.0.1", wanted.lease.port)):
        known = start(daemon(), inventory, launch, port=wanted.lease.port)
        assert known.socket == launch.socket
        eventually(lambda: Probe().health(known.address))


def test_name_of_a_dead_socket_does_not_keep_a_replica_from_listening(inventory: Inventory, daemon: Open) -> None:
    launch = on_a_socket(inventory, record().id)
    scratch.make(Path(launch.cwd))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(launch.socket)
    known = start(daemon(), inventory, launch)
    eventually(lambda: Probe().health(known.address))


def test_socket_can_be_entered_by_its_owner_alone(inventory: Inventory, daemon: Open) -> None:
    """Whatever mode the engine gives it: its folder is closed."""
    launch = on_a_socket(inventory, record().id)
    known = start(daemon(), inventory, launch)
    eventually(lambda: Probe().health(known.address))
    Path(known.socket).chmod(0o777)
    assert stat.S_IMODE(Path(known.socket).parent.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert errno_of_a_stranger(lambda: socket.socket(socket.AF_UNIX).connect(known.socket)) == errno.EACCES


def test_planned_replica_whose_port_was_taken_meanwhile_gets_another(
    inventory: Inventory, daemon: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = record()
    inventory.write(wanted)
    # Processes of other users do not show us which sockets they hold.
    monkeypatch.setattr(procfs, "holders", lambda _: set())
    with socket.create_server(("127.0.0.1", wanted.lease.port)):
        supervisor = daemon()
        assert state(supervisor, wanted) == ProcessState(alive=False, spawned=False)
        with pytest.raises(Retryable, match="is taken; the next pass leases another"):
            supervisor.start(wanted, standin(inventory.folder))
    assert inventory.replica(wanted.id) is None
