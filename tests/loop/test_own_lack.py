"""The daemon is out of open files or memory: no replica counts as dead or silent because the daemon cannot look."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from reconciler.engines.probe import Probe
from reconciler.errors import Retryable
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.process.exit_watch import ExitWatch
from reconciler.host.process.port_guard import PortGuard
from reconciler.host.process.supervisor import ProcessSupervisor
from reconciler.host.routing.watch import does_answer
from reconciler.loop.failures import pass_error_text
from reconciler.model import DesiredState
from reconciler.state.cordon import Cordon
from reconciler.state.suspension import HostDrain, Suspension
from reconciler.state.target_registry import TargetRegistry
from reconciler.system import procfs
from tests.support.world import eventually, record


@contextmanager
def no_open_files() -> Iterator[None]:
    """What is open stays so; nothing more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


LOOKS: list[Callable[[], object]] = [
    lambda: procfs.identify(os.getppid()),
    lambda: procfs.cpu_seconds(os.getppid()),
    lambda: procfs.read_environment(os.getpid()),
    lambda: procfs.holders({1}),
    procfs.listeners,
    lambda: procfs.listens("/nowhere"),
    lambda: does_answer("127.0.0.1", 9),
    lambda: Probe().health(9),
]


@pytest.mark.parametrize("look", LOOKS)
def test_look_without_open_files_says_that_nobody_knows(look: Callable[[], object]) -> None:
    with no_open_files(), pytest.raises(OSError, match="Too many open files"):
        look()


def test_running_replica_is_not_taken_for_dead_without_open_files(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    supervisor = ProcessSupervisor(inventory, Gpus(()))
    me = procfs.identify(os.getppid())
    running = replace(record(), process=me)
    assert supervisor.list((running,))[running.id].alive
    with no_open_files(), pytest.raises(OSError, match="Too many open files"):
        supervisor.list((running,))


def test_own_port_is_no_strangers_without_open_files() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        guard = PortGuard(lambda _, pid: pid == os.getpid())
        with no_open_files(), pytest.raises(OSError, match="Too many open files"):
            guard.listeners(record(port=port))
        assert guard.listeners(record(port=port))


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_own_lack_is_not_blamed_on_the_disk(error: int) -> None:
    said = pass_error_text(OSError(error, os.strerror(error), "/state/x"))
    assert "/state/x" in said
    assert "disk" not in said
    assert "raise" in said


def test_nobody_is_told_to_delete_a_file_that_could_not_be_opened(tmp_path: Path) -> None:
    unknown = DesiredState("box", "r", (), host_known=False)
    reads: list[tuple[Path, Callable[[], object]]] = [
        (tmp_path / "suspended.json", lambda: Suspension(tmp_path / "suspended.json").names()),
        (tmp_path / "drained.json", lambda: HostDrain(tmp_path / "drained.json").current()),
        (tmp_path / "cordon.json", lambda: Cordon(tmp_path / "cordon.json").settle(unknown)),
        (tmp_path / "targets.json", lambda: TargetRegistry(tmp_path).known()),
    ]
    for path, read in reads:
        path.write_text("{")
        with pytest.raises(Retryable, match=r"remove it|delete it"):
            read()
        with no_open_files(), pytest.raises(Retryable, match=r"too many open files: raise its limit"):
            read()


def test_exit_watch_outlives_a_chore_that_raises() -> None:
    ended: list[object] = []

    def raises(who: object) -> None:
        ended.append(who)
        raise OSError(errno.ENOSPC, "No space left on device")

    watch = ExitWatch(raises, lambda: None)
    for count in (1, 2):
        pid = os.spawnv(os.P_NOWAIT, "/bin/sleep", ["sleep", "0.1"])
        who = procfs.identify(pid)
        assert who is not None
        watch.watch(who)
        eventually(partial(_has, ended, count))
        os.waitpid(pid, 0)
    watch.close()


def _has(ended: list[object], count: int) -> bool:
    return len(ended) == count
