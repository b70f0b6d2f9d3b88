"""The power goes at any moment: no record is lost that was confirmed, and none is left that cannot be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.host.inventory import Inventory
from reconciler.model import Owned
from reconciler.system.files import write_atomically
from tests.crash.power import Disk, Files
from tests.support.world import ORIGIN, SERVICE, record

RECORD = record()
OWNED = Owned(SERVICE, ORIGIN)
Known = tuple[object, ...]


def lay_out(files: Files, root: Path, place: Path) -> Path:
    """What the cut left, as a folder."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, data in files.items():
        path = place / Path(name).relative_to(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place


def known(folder: Path) -> Known:
    inventory = Inventory(folder)
    inventory.sweep()
    return (inventory.replicas(), inventory.services())


def test_confirmed_records_outlive_a_power_cut_and_none_is_partial(tmp_path: Path):
    root = tmp_path / "target"
    root.mkdir()
    inventory, disk = Inventory(root / "state" / "demo"), Disk(root)
    steps: list[tuple[Callable[[], object], Known]] = [
        (lambda: inventory.write(RECORD), ((RECORD,), {})),
        (lambda: inventory.change(RECORD.id, ready_at=5.0), ((replace(RECORD, ready_at=5.0),), {})),
        (lambda: inventory.remember_service(OWNED), ((replace(RECORD, ready_at=5.0),), {SERVICE: OWNED})),
        (lambda: inventory.forget_replica(RECORD.id), ((), {SERVICE: OWNED})),
        (lambda: inventory.forget_service(SERVICE), ((), {})),
    ]
    cuts: list[tuple[int, Files]] = []
    done = 0

    def cut() -> None:
        cuts.extend((done, files) for files in (disk.oldest(), disk.newest()))

    with disk.watched(cut):
        for act, _ in steps:
            act()
            done += 1
            cut()
    told: list[Known] = [((), {}), *(state for _, state in steps)]
    assert len(cuts) > 3 * len(steps)
    for done, files in cuts:
        left = known(lay_out(files, root, tmp_path / "left") / "state" / "demo")
        assert left in told[done : done + 2], (done, sorted(files))


def test_disk_that_syncs_nothing_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The check of these tests is able to fail."""
    root = tmp_path / "target"
    root.mkdir()
    disk = Disk(root)
    (root / "named").write_bytes(b"data")
    assert (disk.oldest(), disk.newest()) == ({}, {f"{root}/named": b""})
    with disk.watched(lambda: None):
        write_atomically(root / "whole", b"data")
        (root / "whole").rename(root / "moved")
    assert disk.oldest() == {f"{root}/named": b"", f"{root}/whole": b"data"}
    assert disk.newest() == {f"{root}/named": b"", f"{root}/moved": b"data"}
