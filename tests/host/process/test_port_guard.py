"""Replicas on ports, as those of older daemons are: a stranger who listens there gets no byte and no traffic."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from reconciler.engines.probe import Probe
from reconciler.engines.replica_connection import ForeignListener
from reconciler.fault_isolation import Faults
from reconciler.host.gpus.devices import Gpus
from reconciler.host.health import Patience, failure
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.probing.engine_probes import EngineProbes, ProbeTargets
from reconciler.host.probing.probing import Probes, Subject, Topic
from reconciler.host.process.port_guard import PortGuard, PortHolds
from reconciler.host.process.supervisor import ProcessSupervisor
from reconciler.host.supervisor import ProcessState
from reconciler.system import procfs
from tests.support.report_world import replica
from tests.support.world import errno_of_a_stranger, eventually, record, standin


@dataclass
class Thief:
    """Listens, takes every connection, and keeps what it is sent."""

    port: int = 0
    got: bytes = b""
    connections: list[socket.socket] = field(default_factory=list)

    def run(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections.append(client)
            client.settimeout(0.5)
            try:
                self.got += client.recv(1 << 16)
            except OSError:
                continue


@contextmanager
def thief(port: int = 0) -> Iterator[Thief]:
    with socket.create_server(("127.0.0.1", port)) as listener:
        found = Thief(listener.getsockname()[1])
        threading.Thread(target=found.run, args=(listener,), daemon=True).start()
        yield found
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[ProcessSupervisor]:
    inventory = Inventory(tmp_path / "box")
    made = ProcessSupervisor(inventory, Gpus(()))
    yield made
    for left in inventory.replicas():
        made.stop(left, force=True)
        made.remove(left)
    made.close()


def started(supervisor: ProcessSupervisor, *flags: str) -> ReplicaRecord:
    wanted = record()
    words = flags or ("--port", str(wanted.lease.port))
    supervisor.start(wanted, standin(supervisor._inventory.folder, *words))
    known = supervisor._inventory.replica(wanted.id)
    assert known is not None
    return known


def test_replica_that_listens_on_its_own_port_is_asked(supervisor: ProcessSupervisor) -> None:
    known = started(supervisor)
    guard = PortGuard(supervisor.owns)
    probe = Probe(guard=partial(guard.listeners, known))
    eventually(lambda: probe.health(known.address))
    assert guard.listens(known)


def test_stranger_on_the_port_gets_no_byte_and_is_named(supervisor: ProcessSupervisor) -> None:
    known = started(supervisor, "--child", "plain")
    guard = PortGuard(supervisor.owns)
    with thief(known.lease.port) as other:
        subject = Subject(known.id, known.address, Topic.SERVING, model="chat", api_key="hunter2")
        subject = replace(subject, guard=partial(guard.listeners, known))
        questions = EngineProbes(None)  # type: ignore[arg-type]
        said = questions.stranger(subject)
        assert f"port {known.lease.port} is held by PID " in said
        assert questions.is_ready(subject) == (False, None)
        assert questions.is_healthy(subject) is None
        assert not questions.answers(subject, 1.0)
        assert questions.vitals(subject) is None
        assert not guard.listens(known)
        assert (other.got, other.connections) == (b"", [])


def test_connection_that_a_stranger_took_in_between_is_dropped_unused() -> None:
    """It let go, and the replica listens by now: but whom did we reach?"""
    with thief() as other:
        turns = iter([frozenset(), frozenset({1})])
        assert Probe(guard=lambda: next(turns)).check(other.port, "chat", "hunter2").ready is False
        assert other.got == b""


def test_sockets_on_other_loopback_addresses_are_not_in_the_way() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        with socket.create_server(("127.0.0.2", port)):
            assert set(procfs.loopback_listeners(port)) == {_inode(mine)}


def test_listener_on_all_addresses_counts() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        assert set(procfs.loopback_listeners(listener.getsockname()[1])) == {_inode(listener)}


def test_process_of_another_user_is_foreign_whatever_its_environment(supervisor: ProcessSupervisor) -> None:
    known = started(supervisor)
    assert known.process is not None
    assert supervisor.owns(known, known.process.pid)
    assert not supervisor.owns(known, 1 if procfs.user_of(1) else 2**22)
    assert not supervisor.owns(
        replace(known, id=replace(known.id, serial="bbbbbbbb-0"), process=None), known.process.pid
    )


def test_serving_replica_whose_port_stranger_has_is_failed_and_says_whose() -> None:
    seen = replica(
        healthy=False, stranger="port 20001 is held by PID 7 (nc), uid 65534, which does not belong to this replica"
    )
    code, text = failure(seen, 200.0, Patience(30.0, 600.0, 120.0, 10.0)) or ("", "")
    assert code == "PortTaken"
    assert "uid 65534" in text


def test_probes_ask_nothing_of_a_stranger() -> None:
    from tests.host.probing.test_host_probing import Answers

    answers = Answers()
    answers.thief = "port 1 is held by PID 7"
    probes = Probes(answers, lambda: None)
    one = record().id
    probes.watch([Subject(one, 1, Topic.SERVING)])
    eventually(lambda: probes.probe_state(one).healthy is False)
    assert probes.probe_state(one).stranger == answers.thief
    assert answers.asked == []
    probes.close()


def _inode(listener: socket.socket) -> int:
    return os.fstat(listener.fileno()).st_ino


def test_guard_of_a_socket_has_nothing_to_do(supervisor: ProcessSupervisor) -> None:
    guard = PortGuard(supervisor.owns)
    assert guard.listeners(replace(record(), socket="/run/x/http.sock")) == frozenset()
    with thief() as other, pytest.raises(ForeignListener, match=f"port {other.port} is held by PID .*, uid "):
        guard.listeners(record(port=other.port))


def test_listener_on_a_mapped_wildcard_counts() -> None:
    """`::ffff:0.0.0.0` takes what is sent to 127.0.0.1."""
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::ffff:0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert set(procfs.loopback_listeners(port)) == {_inode(listener)}
        with pytest.raises(ForeignListener, match=f"port {port} is held by PID "):
            PortGuard(lambda *_: False).listeners(record(port=port))


def test_port_that_nobody_listens_on_is_not_connected_to() -> None:
    """What takes a connection there does so without listening: by connecting at the same moment, say."""
    with thief() as other:
        assert Probe(guard=frozenset).check(other.port, "chat", "hunter2").ready is False
        assert (other.got, other.connections) == (b"", [])


def test_socket_of_another_user_is_a_strangers_whoever_else_holds_it() -> None:
    """`sudo` that waits for a password is root's process, with what its caller put into its environment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.fchown(listener.fileno(), 65534, -1)
        with pytest.raises(ForeignListener, match="uid 65534"):
            PortGuard(lambda *_: True).listeners(record(port=listener.getsockname()[1]))


def test_guard_forgets_replicas_that_are_gone() -> None:
    asked: list[str] = []

    def owns(one: ReplicaRecord, pid: int) -> bool:
        asked.append(one.id.serial)
        return True

    guard = PortGuard(owns)
    subjects = ProbeTargets(lambda _: None, guard)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        known = [record(f"aaaaaaaa-{number}", port) for number in range(3)]
        for number, one in enumerate(known):
            living = known[max(0, number - 1) : number + 1]
            found = subjects.of(living, {each.id: ProcessState(alive=True) for each in living}, Faults(""))
            for subject in found:
                assert subject.guard is not None
                assert subject.guard()
            assert set(guard._known) == {each.id for each in living}
            assert asked.count(one.id.serial) == 1
        guard.keep(())
        guard.listeners(known[0])
    assert asked == ["aaaaaaaa-0", "aaaaaaaa-1", "aaaaaaaa-2", "aaaaaaaa-0"]


def _listener(port: int = 0, *, shared: bool = True) -> socket.socket:
    """As vLLM's, or as that of an engine that does not share its port."""
    return socket.create_server(("127.0.0.1", port), reuse_port=shared)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_port_of_a_replica_stays_its_users_until_it_is_forgotten() -> None:
    guard = PortGuard(lambda *_: True, PortHolds())
    with _listener() as replica:
        known = record(port=replica.getsockname()[1])
        assert guard.listeners(known)
    assert errno_of_a_stranger(lambda: _listener(known.lease.port)) == errno.EADDRINUSE
    for host in ("0.0.0.0", "::ffff:0.0.0.0"):
        assert errno_of_a_stranger(partial(_bind, host, known.lease.port)) == errno.EADDRINUSE
    with _listener(known.lease.port):
        assert guard.listeners(known), "it comes back"
    guard.keep(frozenset())
    assert errno_of_a_stranger(lambda: _listener(known.lease.port)) == 0


def test_port_that_an_engine_does_not_share_is_left_to_it() -> None:
    guard = PortGuard(lambda *_: True, PortHolds())
    with _listener(shared=False) as replica:
        known = record(port=replica.getsockname()[1])
        assert guard.listeners(known)
    with _listener(known.lease.port, shared=False):
        assert guard.listeners(known), "it comes back"


def _bind(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if found.family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.bind((host, port))
