"""What systemd runs before it stops a proxy: no new requests, and time for those that run. It needs no daemon.

usage: python -m reconciler.host.routing.shutdown FOLDER SECONDS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.host.routing.admin import Admin

_STEP = 0.2


def let_end(admin: Admin, seconds: float) -> int:
    """Refuse new requests, and wait for the others. Returns how many still run. Raises Retryable."""
    admin.stop_listening()
    deadline, quiet = time.monotonic() + seconds, 0
    while True:
        active = admin.active()
        # Twice: what was accepted a moment ago may not be counted yet.
        quiet = 0 if active else quiet + 1
        if quiet > 1 or time.monotonic() > deadline:
            return active
        time.sleep(_STEP)


def main(folder: str, seconds: str) -> None:
    try:
        left = let_end(Admin(Path(folder)), float(seconds))
    except Retryable as error:
        sys.exit(f"the proxy is stopped without a drain: {error}")
    if left:
        sys.exit(f"{left} requests still run after {seconds} s and are cut; see rollout.shutdown_timeout")


if __name__ == "__main__":
    main(*sys.argv[1:])
