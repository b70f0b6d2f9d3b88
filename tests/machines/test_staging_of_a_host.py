"""A model in S3, fetched on a real host by a user of its own, while disk and server fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.host.staging.fetcher import USER as FETCHER
from tests.e2e.test_staging import (
    MIB,
    SECRET,
    ask_for_the_second,
    assert_no_secret_is_kept,
    await_failure,
    await_the_second_alone,
    follow_s3,
)
from tests.host.staging.fixtures import S3
from tests.machines.conftest import MakeRig
from tests.machines.installed import InstalledRig
from tests.machines.rig import USER

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
DISK = "/srv/models"


def test_old_serves_while_disk_and_server_fail_under_the_new(
    make_rig: MakeRig, s3: S3, storage_python: Path, tiny_model: Path
) -> None:
    rig = make_rig(InstalledRig, target={"storage": {"python": str(storage_python), "folder": DISK}})
    rig.machine.run("mkdir", DISK)
    rig.machine.run("mount", "-t", "tmpfs", "-o", f"size={16 * MIB}", "tmpfs", DISK)
    follow_s3(rig, s3, tiny_model)
    rig.start()
    rig.converge()
    assert rig.serves()
    before = rig.invocations()

    s3.line.hold_after(3 * MIB)
    with rig.load(streams=1, posts=1) as load:
        ask_for_the_second(rig)
        s3.line.wait_until_stopped(120)
        ballast = rig.machine.root / DISK.lstrip("/") / "ballast"
        ballast.write_bytes(bytes(9 * MIB))
        s3.line.repair()
        await_failure(rig, full=True)
        ballast.unlink()
        s3.line.cut_after(2 * MIB)
        await_failure(rig, full=False)
        assert rig.invocations() == before
        sent = s3.line.sent
        s3.line.repair()
        await_the_second_alone(rig)
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert s3.line.sent - sent < 6 * MIB, "it went on where it was"

    (unit,) = rig.units("active")
    pid = rig.machine.run("systemctl", "show", "-P", "MainPID", unit).strip()
    as_replica = ("nsenter", "-t", pid, "-m", "setpriv", f"--reuid={USER}", "--clear-groups")
    assert (
        rig.machine.run(*as_replica, "stat", "-c", "%U %a %s", "/mnt/models/more.bin") == f"{FETCHER} 444 {8 * MIB}\n"
    )
    rig.machine.run(*as_replica, "cat", "/mnt/models/config.json")
    rig.machine.run(*as_replica, "touch", "/mnt/models/more", expect=1)
    assert SECRET not in rig.machine.run("journalctl", "--output=json", "--no-pager")
    assert_no_secret_is_kept(rig)
