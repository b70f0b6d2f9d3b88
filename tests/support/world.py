"""Small helpers around real processes and records, shared by the tests of host targets."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from reconciler.engines.launch import Launch
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.process import scratch
from reconciler.model import EffectiveSpec, Lease, Origin, ReplicaId, ServiceId
from reconciler.system import procfs
from tests.support.arguments import written
from tests.support.ports import free_port

STANDIN = Path(__file__).parent / "standin.py"
SERVICE = ServiceId("default", "chat")
ORIGIN = Origin("hosts/box/chat.yaml", 3)
SPEC = EffectiveSpec("standin:1", written("python"), written("--model", "/mnt/models"))


def standin(folder: Path, *flags: str, **env: str) -> Launch:
    """Runs as the replica that `record()` makes, in a target's folder."""
    return Launch((sys.executable, str(STANDIN), *flags), env, str(scratch.folder_of(folder, record().id)))


def record(serial: str = "aaaaaaaa-0", port: int = 0, gpus: tuple[str, ...] = ()) -> ReplicaRecord:
    return ReplicaRecord(
        id=ReplicaId(SERVICE, serial),
        digest="aaaaaaaa" * 8,
        spec=SPEC,
        origin=ORIGIN,
        lease=Lease(port or free_port(), gpus),
        created_at=time.time(),
        drain_timeout=5.0,
        parsed="",
        revision="1" * 40,
        boot=procfs.boot_id(),
    )


def eventually(claim: Callable[[], object], within: float = 120.0) -> None:
    """Wait for something that other processes bring about; the limit is only there so that a failure ends."""
    deadline = time.monotonic() + within
    while not claim():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.02)


def errno_of_a_stranger(do: Callable[[], object]) -> int:
    """Why another user of this host cannot do something; 0 when he can. Only root can try."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            do()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def exists(pid: int) -> bool:
    stat = procfs.read_stat(pid)
    return stat is not None and not stat.is_dead


def said(log: Path, key: str) -> object:
    """What a stand-in printed about itself."""
    for line in log.read_text().splitlines():
        if line.startswith("{") and key in (found := json.loads(line)):
            return found[key]
    return None


def is_up(log: Path) -> bool:
    return log.exists() and "up" in log.read_text().splitlines()
