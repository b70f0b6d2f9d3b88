"""What other users of the host can put into /proc: it breaks nothing, and makes nothing theirs of ours."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.process.supervisor import ProcessSupervisor
from reconciler.system import procfs
from tests.support.world import eventually, is_up, record, standin


def test_name_of_a_socket_that_others_feign_is_not_listened_on() -> None:
    """/proc/net/unix says names as their owners wrote them, line breaks as well."""
    unix = socket.AF_UNIX
    with TemporaryDirectory() as folder, socket.socket(unix) as hostile, socket.socket(unix) as ours:
        path = f"{folder}/s"
        hostile.bind(b"\0%d\nf: 2 0 00010000 1 1 12345 %s\n\n" % (os.getpid(), path.encode()))
        hostile.listen()
        assert f" {path}\n" in Path("/proc/net/unix").read_text()
        ours.bind(path)
        assert not procfs.listens(path)
        ours.listen()
        assert procfs.listens(path)


def test_name_of_a_process_stays_in_its_line_and_rules_no_terminal() -> None:
    with Path("/proc/self/comm").open("r+b", buffering=0) as file:
        before = file.read()
        file.write(b"\x1b[2Jnc\r\nSynced")
        name = procfs.name_of(os.getpid())
        file.write(before.strip())
    assert name == "?[2Jnc??Synced"


def test_process_that_feigns_our_log_is_not_of_the_replica(tmp_path: Path) -> None:
    """In a mount namespace of its own any user may write to a file of the same path, and no end would end it."""
    inventory = Inventory(tmp_path / "box")
    supervisor = ProcessSupervisor(inventory, Gpus(()))
    supervisor.start(record(), standin(inventory.folder))
    log = inventory.replica_folder(record().id) / "log"
    eventually(lambda: is_up(log))
    known = inventory.replica(record().id)
    assert known is not None
    with _writer_of(log.resolve()) as stranger:
        assert str(log.resolve()) in procfs.read_outputs(stranger)
        assert not supervisor.owns(known, stranger)
        supervisor.stop(known, force=True)
        eventually(lambda: not supervisor.list([known])[known.id].alive)
        assert supervisor.list([known])[known.id].leftovers == 0
        supervisor.remove(known)
        assert procfs.identify(stranger)
    supervisor.close()


@contextmanager
def _writer_of(path: Path) -> Iterator[int]:
    """A process of another user whose output is a file of this path, which only it sees."""
    if os.geteuid():
        pytest.skip("only root can start a process of another user's")
    top, folder = shlex.quote(f"/{path.parts[1]}"), shlex.quote(str(path.parent))
    script = f"mount -t tmpfs none {top} && mkdir -p {folder} && exec sleep 60 > {shlex.quote(str(path))}"
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    with subprocess.Popen(argv, user=65534, group=65534, extra_groups=[], stderr=subprocess.DEVNULL) as found:
        try:
            eventually(lambda: found.poll() is not None or procfs.name_of(found.pid) == "sleep")
            if found.poll() is not None:
                pytest.skip("this host gives other users no namespaces")
            yield found.pid
        finally:
            found.kill()
