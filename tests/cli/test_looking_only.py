"""Read-only commands write nothing into the daemon's folder, whatever their user; root acts as its owner elsewhere."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.host.teardown import end_workloads
from tests.support.light_rig import LightRig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user"),
]
ROOT = Path(__file__).parents[2]
OWNER = pwd.getpwnam("nobody")


def seen(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything in a folder: whose it is and when it was written."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        info = path.lstat()
        found[str(path.relative_to(folder))] = (info.st_uid, info.st_mtime_ns, info.st_size)
    return found


@pytest.fixture
def rig() -> Iterator[LightRig]:
    # A folder that another user may enter, unlike pytest's own.
    folder = Path(f"/tmp/looking-{os.getpid()}")
    rig = LightRig(folder)
    rig.start()
    rig.settle()
    yield rig
    rig.close()
    shutil.rmtree(folder, ignore_errors=True)


READING = [
    ("plan",),
    ("plan", "--revision", "main"),
    ("diff",),
    ("status",),
    ("open",),
    ("history",),
    ("logs", "tiny"),
    ("doctor",),
    ("host", "doctor"),
]


def test_no_reading_command_writes_into_the_folder_of_the_daemon(rig: LightRig):
    rig.kill(15)
    demo = rig.clone / "demo"
    extra = [(verb, str(rig.clone / "runtimes"), str(demo), "--target", "demo") for verb in ("validate", "render")]
    before = seen(rig.state_dir)
    for command in [*READING, *extra]:
        rig.ask(*command, expect=None)
        assert seen(rig.state_dir) == before, command


def test_plan_that_asks_the_engine_leaves_nothing_either(rig: LightRig):
    rig.kill(15)
    rig.write({"demo/tiny.yaml": rig.read("demo/tiny.yaml").replace("--max-model-len=256", "--max-model-len=128")})
    before = seen(rig.state_dir)
    assert "1 change" in rig.ask("plan").stdout
    assert seen(rig.state_dir) == before


def python_for_all() -> str:
    """An interpreter like this one that another user may run: this one may be in root's own folder."""
    for python in (sys.executable, "/usr/bin/python3"):
        code = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        with contextlib.suppress(OSError):
            if not subprocess.run([python, "-c", code], user=OWNER.pw_uid, group=OWNER.pw_gid, cwd="/").returncode:
                return python
    pytest.skip("no interpreter of our version that another user may run")


def run(rig: LightRig, *arguments: str, **who: Any) -> subprocess.CompletedProcess[str]:
    """The command line, by an interpreter that every user may run."""
    paths = (str(ROOT), sysconfig.get_path("purelib"))
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [python_for_all(), "-m", "reconciler", *arguments, "--config", str(rig.config)]
    return subprocess.run(argv, cwd="/", env=env, capture_output=True, text=True, timeout=100, **who)


def give_away(rig: LightRig) -> None:
    """From now on the daemon is another user's, and nothing of it runs."""
    rig.kill(15)
    assert not end_workloads(rig.settings)
    rig.python.write_text(rig.python.read_text().replace(sys.executable, python_for_all()))
    subprocess.run(["chown", "-R", f"{OWNER.pw_uid}:{OWNER.pw_gid}", str(rig.folder)], check=True)


def owners(rig: LightRig) -> set[int]:
    return {uid for uid, *_ in seen(rig.state_dir).values()}


def test_sync_by_root_acts_as_the_owner_of_the_folder(rig: LightRig):
    give_away(rig)
    done = run(rig, "sync", "--timeout", "60s")
    assert done.returncode == 0, done.stderr
    assert f"acting as {OWNER.pw_name}" in done.stderr
    assert owners(rig) == {OWNER.pw_uid}
    (pid,) = rig.pids()
    assert Path(f"/proc/{pid}").stat().st_uid == OWNER.pw_uid


def test_plan_by_root_stops_no_daemon_of_another_user(rig: LightRig):
    rig.write({"demo/tiny.yaml": rig.read("demo/tiny.yaml").replace("memory: 16Mi", "memory: 17Mi")})
    give_away(rig)
    shutil.rmtree(rig.state_dir / "git")
    assert run(rig, "plan").returncode == 0
    assert owners(rig) == {OWNER.pw_uid}
    done = run(rig, "sync", "--timeout", "60s", user=OWNER.pw_uid, group=OWNER.pw_gid, extra_groups=())
    assert done.returncode == 0, done.stderr


def test_plan_by_root_asks_the_engine_as_the_owner_of_the_folder(rig: LightRig):
    """Arguments from git may have the engine run code of a model."""
    rig.write({"demo/tiny.yaml": rig.read("demo/tiny.yaml").replace("--max-model-len=256", "--max-model-len=128")})
    give_away(rig)
    for command in ("plan", "diff"):
        assert f"acting as {OWNER.pw_name}" in run(rig, command).stderr
    assert owners(rig) == {OWNER.pw_uid}
