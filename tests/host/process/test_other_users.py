"""Another user of the host takes ports of replicas, and looks around: real Envoy, keys, and a real thief."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from reconciler.host.inventory import ReplicaRecord
from reconciler.host.process import scratch
from reconciler.host.routing.process import find
from tests.support.light_rig import LightRig
from tests.support.world import errno_of_a_stranger

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")]

KEY = "key-of-the-service"
PROMPT = "a-prompt-of-a-client"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    yield rig
    rig.close()


def serve(rig: LightRig, load: int = 0) -> None:
    """On a port, because of the flag, and with a key; it loads its model for `load` seconds."""
    more = f"""\
      env:
        - name: VLLM_API_KEY
          value: {KEY}
      args:
        - --data-parallel-multi-port-external-lb
        - --load-seconds={load}
"""
    rig.write({"demo/tiny.yaml": rig.read("demo/tiny.yaml").replace("      args:\n", more)})
    rig.start()


@dataclass(frozen=True)
class Thief:
    """A process of uid 65534 that listens on a port as soon as it can, and keeps what it is sent."""

    loot: Path

    @property
    def got(self) -> bytes:
        return self.loot.read_bytes()


@contextmanager
def thief(port: int, loot: Path) -> Iterator[Thief]:
    loot.touch()
    handle = os.open(loot, os.O_WRONLY | os.O_APPEND)
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            _steal(port, handle)
        finally:
            os._exit(1)
    os.close(handle)
    try:
        yield Thief(loot)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _steal(port: int, loot: int) -> None:
    while not (listener := _taken(port)):
        pass
    os.write(loot, b"bound\n")
    while True:
        client, _ = listener.accept()
        client.settimeout(1)
        with contextlib.suppress(OSError), client:
            os.write(loot, b"got %s\n" % client.recv(1 << 16))
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


def _taken(port: int) -> socket.socket | None:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
        found.listen()
    except OSError:
        found.close()
        return None
    return found


@contextmanager
def clients(rig: LightRig) -> Iterator[None]:
    """Some that ask all the time, with the key."""
    done = threading.Event()
    threads = [threading.Thread(target=_ask, args=(rig.port, done)) for _ in range(4)]
    for each in threads:
        each.start()
    yield
    done.set()
    for each in threads:
        each.join()


def _ask(port: int, done: threading.Event) -> None:
    body = json.dumps({"model": "tiny", "prompt": PROMPT, "max_tokens": 1})
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    while not done.wait(0.001):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("POST", "/default/tiny/v1/completions", body, headers)
            connection.getresponse().read()


def only(rig: LightRig) -> ReplicaRecord:
    (record,) = rig.records()
    assert not record.socket
    return record


def test_port_of_a_crashed_replica_cannot_be_taken_by_others(rig: LightRig, tmp_path: Path) -> None:
    """Until the proxy learns of the crash it sends requests there."""
    serve(rig)
    rig.settle()
    first = only(rig)
    assert first.process is not None
    with thief(first.lease.port, tmp_path / "loot") as other, clients(rig):
        os.kill(first.process.pid, signal.SIGKILL)
        rig.wait("another replica", lambda: rig.records() and first.id not in [one.id for one in rig.records()])
        rig.settle()
    assert b"got" not in other.got
    assert rig.serves_now()


def test_stranger_on_the_port_of_a_starting_replica_gets_nothing(rig: LightRig, tmp_path: Path) -> None:
    """It binds its port long before it listens:

    another process that reads its command line has time to listen there.
    """
    serve(rig, load=5)
    rig.wait("an engine with its port", lambda: any(_has_socket(one) for one in rig.records()))
    first = only(rig)
    with thief(first.lease.port, tmp_path / "loot") as other, clients(rig):
        rig.wait("the thief to listen", lambda: b"bound" in other.got)
        rig.wait(
            "the daemon to see it",
            lambda: "uid 65534, which does not belong to this replica" in rig.ask("history").stdout,
        )
        rig.wait("another replica", lambda: rig.records() and first.id not in [one.id for one in rig.records()])
        rig.settle()
    assert b"got" not in other.got
    assert rig.serves_now()


def _has_socket(record: ReplicaRecord) -> bool:
    if record.process is None:
        return False
    folder = f"/proc/{record.process.pid}/fd"
    with contextlib.suppress(OSError):
        return any(os.readlink(f"{folder}/{fd}").startswith("socket:") for fd in os.listdir(folder))
    return False


def test_other_users_read_no_key_and_enter_none_of_our_folders(rig: LightRig) -> None:
    """In what a running installation shows of itself: /proc, shared memory, its folders and its open port."""
    serve(rig)
    rig.settle()
    envoy = find(rig.state / "proxy")
    assert rig.process
    assert envoy
    pids = [rig.process.pid, envoy.pid, *rig.pids()]
    for pid in pids:
        for name in ("environ", "maps", "mem", "cwd", "fd", "root"):
            why = errno_of_a_stranger(partial(_read, f"/proc/{pid}/{name}"))
            assert why in (errno.EACCES, errno.EPERM), (pid, name)
        assert KEY not in Path(f"/proc/{pid}/cmdline").read_text()
    (one,) = rig.records()
    for folder in (rig.state_dir, scratch.folder_of(rig.state, one.id), scratch.private_of(rig.state, one.id)):
        if folder.is_dir():
            assert errno_of_a_stranger(partial(os.listdir, folder)) == errno.EACCES, folder
    control = partial(socket.socket(socket.AF_UNIX).connect, str(rig.state_dir / "control.sock"))
    assert errno_of_a_stranger(control) == errno.EACCES
    for path in ("metrics", "readyz", "healthz", "prometheus/sd"):
        assert KEY not in _get(rig.web, path)


def _read(path: str) -> None:
    if os.path.isdir(path):
        os.listdir(path)
        return
    with open(path, "rb", buffering=0) as file:
        file.read(1)


def _get(port: int, path: str) -> str:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", f"/{path}")
        return connection.getresponse().read().decode()
