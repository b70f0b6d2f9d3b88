"""A daemon without its usual resources: space on its disk, its mirror of git, the sockets of replicas."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from reconciler.host.teardown import end_workloads
from tests.support.light_rig import LightRig
from tests.support.world import exists

pytestmark = pytest.mark.slow


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def small_disk(rig: LightRig) -> Iterator[Path]:
    """The daemon's folder is on a disk of its own. Returns a folder for what fills it."""
    rig.state_dir.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=4000", "none", rig.state_dir], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    rig.state_dir.chmod(0o700)
    yield rig.state_dir / "filler"
    rig.kill()
    # Afterwards no record tells which processes are of this daemon.
    assert not end_workloads(rig.settings)
    with_state = subprocess.run(["umount", "-l", rig.state_dir], capture_output=True, text=True)
    assert with_state.returncode == 0, with_state.stderr


def fill(folder: Path) -> None:
    """Neither a byte more, nor a name."""
    folder.mkdir()
    with (folder / "bytes").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * (1 << 12)):
            pass
    with suppress(OSError):
        for number in itertools.count():
            (folder / str(number)).touch()


@pytest.mark.parametrize("deleted", ["socket", "folder"])
def test_replica_whose_socket_was_deleted_is_replaced(rig: LightRig, deleted: str) -> None:
    rig.start()
    rig.settle()
    (record,) = rig.records()
    assert record.process
    socket = Path(record.socket)
    socket.unlink()
    if deleted == "folder":
        shutil.rmtree(socket.parent)
    # Far less than the silence of a minute, after which a replica counts as hung.
    rig.wait("a successor", lambda: rig.serves_now() and rig.records() and rig.records()[0].id != record.id, 40)
    rig.settle()
    assert not exists(record.process.pid)
    assert "its socket" in str(rig.history())
    assert "digest_quarantined" not in [entry["event"] for entry in rig.history()]


def test_daemon_starts_on_a_full_disk_and_listens_later(rig: LightRig, small_disk: Path) -> None:
    rig.start()
    rig.settle()
    rig.kill()
    fill(small_disk)
    rig.start()
    rig.wait("the daemon to make passes", lambda: '"daemon_started"' in rig.words(5) or not rig.is_running())
    assert rig.is_running(), rig.words()
    assert rig.status() is None
    assert rig.serves_now()
    shutil.rmtree(small_disk)
    rig.wait("the control socket", rig.status)
    rig.settle()


def test_crash_is_mended_though_no_revision_is_known(rig: LightRig) -> None:
    rig.start()
    rig.settle()
    rig.kill()
    shutil.rmtree(rig.state_dir / "git")
    away = rig.repository.origin.with_name("away")
    rig.repository.origin.rename(away)
    rig.start()
    rig.wait("git to fail", lambda: (rig.status() or {"revision": {"error": ""}})["revision"]["error"])
    (pid,) = rig.pids()
    os.kill(pid, 9)
    rig.wait("another engine", lambda: rig.pids() and pid not in rig.pids() and rig.serves_now())
    away.rename(rig.repository.origin)
    rig.settle()
