"""What must hold while a daemon is killed at every boundary, and what must be left of it afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reconciler.host.inventory import Inventory, UnreadableRecord
from reconciler.model import ServiceId
from tests.e2e.rig import Document, Rig

TINY = "demo/tiny.yaml"
SEQS = r"--max-num-seqs=\d+"
ID = ServiceId("default", "tiny")
# Written on every status request, or kept although nothing needs it any more.
_RESTLESS = ("preflight", "home", "proxy/envoy.log", "lock", "tmp", "fit")


def go(rig: Rig, act: Callable[[], object], what: str, claim: Callable[[], object]) -> list[str]:
    """Do this while the daemon dies at every boundary on its way there; where it died."""
    rig.kill()
    died_at = rig.folder / "boundaries"
    died_at.write_text("")
    rig.start(crashing=True)
    act()

    def watched() -> object:
        assert_leases_are_distinct(rig)
        return claim()

    rig.wait(what, watched, 240)
    return died_at.read_text().splitlines()


def roll(rig: Rig, seqs: int) -> list[str]:
    """A rollout to this many sequences."""

    def is_settled() -> bool:
        return rig.is_applied() and len(rig.records()) == 1

    return go(rig, lambda: rig.edit(TINY, SEQS, f"--max-num-seqs={seqs}"), "the new replica alone", is_settled)


def assert_died_in(died: list[str], *actions: str) -> None:
    """Far fewer boundaries would mean that they are not seen any more."""
    missing = [name for name in actions if not any(line.startswith(f"{name} ") for line in died)]
    assert not missing, died


def assert_idle(rig: Rig) -> None:
    """A daemon that is not killed soon finds nothing to do, and writes nothing."""
    rig.kill()
    rig.start()
    rig.converge()
    for _ in range(20):
        if not (written := _written_by_a_sync(rig)):
            return
        time.sleep(0.5)
    raise AssertionError(f"every sync writes {written}")


def _written_by_a_sync(rig: Rig) -> set[str]:
    before = stamps(rig)
    rig.ask("sync")
    return {str(path) for path, _ in before.items() ^ stamps(rig).items()}


def assert_leases_are_distinct(rig: Rig) -> None:
    try:
        leases = [record.lease for record in rig.records()]
    except UnreadableRecord:
        # Looked between two steps of a deletion.
        return
    for held in ([lease.port for lease in leases], [gpu for lease in leases for gpu in lease.gpus]):
        assert len(held) == len(set(held)), leases


def footprint(rig: Rig) -> Document:
    """All that there is of a target, less what differs from one start to the next."""
    state = rig.state
    inventory = Inventory(state)
    owned = inventory.service(ID)
    return {
        "files": sorted(str(path) for path in _files(state)),
        "replicas": [
            (record.id, record.digest, record.ready_at is None, record.draining_at, record.stopping_at)
            for record in inventory.replicas()
        ],
        "promoted": owned and owned.promoted and (owned.promoted.digest, owned.promoted.replicas),
        "crashes": owned and len(owned.crashes),
    }


def stamps(rig: Rig) -> dict[Path, Any]:
    """What changes when the daemon writes anything; an engine tells of itself in its log whenever it likes."""
    state = rig.state
    found = {}
    for path in _files(state):
        if path.match("replicas/*/log"):
            continue
        info = (state / path).lstat()
        found[path] = (info.st_mtime_ns, info.st_ino, info.st_size)
    return found


def _files(state: Path) -> list[Path]:
    paths = [path.relative_to(state) for path in state.rglob("*")]
    return [path for path in paths if not any(path.is_relative_to(name) for name in _RESTLESS)]
