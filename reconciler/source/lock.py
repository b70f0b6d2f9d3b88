"""The lock of the mirror: one process at a time changes it, and git's processes hold it as long as they run.

Those of a daemon that died are waited for: what they fetched is useful. But nothing else ends them when they hang.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.source.cancellation import Ending
from reconciler.system import procfs

_SECONDS_TO_DIE = 5.0
Orphans = dict[procfs.Identity, float]


def await_lock(descriptor: int, lock: Path, mark: str, timeout: float, ending: Ending) -> None:
    """Take it. Raises Retryable. `mark` is in the environment of git's processes, and of no others."""
    began = time.monotonic()
    looked_at, deadline, orphans = began + min(1.0, timeout / 2), began + timeout, None
    while True:
        ending.check()
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
        if orphans is None and now >= looked_at:
            orphans = _find_orphans(lock, mark)
        if now >= deadline:
            if not orphans or _find_orphans(lock, mark) != orphans:
                raise Retryable(f"{lock.parent} is in use by another git call; trying again later")
            for who in orphans:
                procfs.send_signal(who, signal.SIGKILL)
            deadline, orphans = now + _SECONDS_TO_DIE, {}
        time.sleep(0.02)


def _find_orphans(lock: Path, mark: str) -> Orphans:
    """git's processes that hold it and whose daemon died, and what each of them has computed so far."""
    there = procfs.openers({os.path.realpath(lock)})
    gits = {pid for pid in there if mark.encode() in procfs.read_environment(pid)}
    parents = {stat.parent for pid in gits if (stat := procfs.read_stat(pid))}
    if parents & (there - gits):
        return {}
    return {who: procfs.cpu_seconds(who.pid) for pid in gits if (who := procfs.identify(pid))}
