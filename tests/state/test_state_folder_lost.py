"""A state folder that vanishes or cannot be written: one clear error, nothing is started twice, models keep serving."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.host.inventory import TargetLock
from reconciler.loop.failures import PassErrors
from tests.support.light_rig import LightRig
from tests.support.world import exists


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    rig.start()
    rig.settle()
    yield rig
    rig.close()


def test_lock_of_a_folder_that_was_replaced_is_noticed(tmp_path: Path):
    lock = TargetLock(tmp_path / "box")
    lock.acquire()
    lock.check()
    (tmp_path / "box").rename(tmp_path / "away")
    with pytest.raises(Retryable, match="moved, deleted or unmounted"):
        lock.check()
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "lock").touch()
    with pytest.raises(Retryable, match="moved, deleted or unmounted"):
        lock.check()
    lock.release()


def test_pass_errors_back_off_and_say_what_and_where():
    errors = PassErrors("box")
    assert "/state/x: Read-only file system" in errors.note(OSError(30, "Read-only file system", "/state/x"))
    pauses = []
    for _ in range(9):
        pauses.append(errors.pause)
        errors.note(Retryable("no"))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    errors.clear()
    errors.note(ValueError("bug"))
    assert errors.pause == 1


@pytest.mark.slow
@pytest.mark.parametrize("which", ["state_dir", "state"])
def test_vanished_folder_is_said_once_and_nothing_is_started(rig: LightRig, which: str):
    folder: Path = getattr(rig, which)
    pids, said = rig.pids(), len(rig.words(10_000).splitlines())
    away = folder.with_name(f"{folder.name}-away")
    folder.rename(away)
    rig.wait("the daemon to say so", lambda: "moved, deleted or unmounted" in rig.words())
    if which == "state":
        rig.wait("the status to say so", lambda: not rig.status()["targets"][0]["reachable"])  # type: ignore[index]
        assert "moved, deleted or unmounted" in rig.ask("status", expect=1).stdout
    assert all(exists(pid) for pid in pids)
    assert rig.serves_now()
    assert not folder.exists()
    lines = rig.words(10_000).splitlines()[said:]
    assert not [line for line in lines if "Traceback" in line]
    away.rename(folder)
    rig.wait("it to go on", lambda: rig.is_settled() and rig.pids() == pids)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_start_on_a_read_only_folder_is_one_error(rig: LightRig):
    rig.kill(15)
    bound = subprocess.run(["mount", "--bind", str(rig.state_dir), str(rig.state_dir)], capture_output=True)
    if bound.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(rig.state_dir)], check=True)
        done = rig.ask("run", expect=3)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "Read-only file system" in done.stderr or "readonly" in done.stderr
        assert rig.serves_now()
    finally:
        subprocess.run(["umount", str(rig.state_dir)], check=True)
    rig.start()
    rig.settle()
