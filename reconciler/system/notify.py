"""Reports the daemon's state to systemd: the sd_notify protocol."""

from __future__ import annotations

import os
import socket
import time


def notify(*lines: str) -> None:
    """Send lines such as `READY=1`. Without a service manager, or if it does not listen, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.connect(address)
            out.sendall("\n".join(lines).encode())
        except OSError:
            return


def reloading() -> tuple[str, str]:
    """The two lines that announce a reload."""
    return ("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between two watchdog messages for systemd, halved as it advises; None when it needs none."""
    micros = os.environ.get("WATCHDOG_USEC", "")
    return int(micros) / 2e6 if micros.isdigit() and int(micros) else None
