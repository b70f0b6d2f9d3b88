"""What a shutdown of the host stops first: a unit whose stop drains the proxy.

systemd stops in the reverse of the order in which it starts. This unit comes after proxy and replicas, and so keeps
them until it is done; neither waits for the other at a boot. It does nothing else, and needs neither us nor git.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.host.systemd.quoting import quote
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.host.systemd.unit import DAEMON, SANDBOX, drain_name
from reconciler.host.systemd.unit_files import UNITS, delete_unit, sync_links
from reconciler.system.files import write_atomically

_PACKAGE = Path(__file__).parents[2]
# Until the budget is over the program ends by itself.
_MARGIN = 10
# Stopping this unit alone must not close the proxy, which could not be opened again.
_IF_STOPPED = 'job=$(systemctl show --property=Job --value "$0") && [ "${job:-0}" = 0 ] || exec "$@"'


class DrainUnit:
    """The unit of one target; `folder` is its proxy's, `seconds` what a shutdown grants to requests."""

    def __init__(self, target: str, folder: Path, seconds: float, systemd: Systemd) -> None:
        self._target = target
        self._folder = folder.absolute()
        self._seconds = seconds
        self._systemd = systemd

    def ensure(self) -> None:
        """Install it as the config says. Raises Retryable."""
        name = drain_name(self._target)
        text = drain_unit(self._target, proxy_name(self._target), self._folder, self._seconds)
        try:
            written = write_atomically(UNITS / name, text.encode(), 0o644)
        except OSError as error:
            raise Retryable(f"{UNITS / name}: cannot be written: {error.strerror}; run us as root") from None
        unit = self._systemd.units(name.removesuffix(".service")).get(name)
        if written or unit is None or unit.active != "active":
            self._systemd.install(name)
            sync_links()
            self._systemd.start(name)

    def remove(self) -> None:
        """Delete it; requests that run are not waited for. Raises Retryable."""
        name = drain_name(self._target)
        self._systemd.stop(name)
        self._systemd.kill(name)
        delete_unit(self._systemd, name)


def proxy_name(target: str) -> str:
    return f"reconciler-proxy-{target}.service"


def stop_lines(folder: Path, seconds: float, *before: str) -> str:
    """What drains the proxy of this folder when a unit is stopped, as lines for a section `Service`. Pure."""
    argv = (sys.executable, "-P", "-m", "reconciler.host.routing.shutdown", str(folder), f"{seconds:g}")
    words = (*before, "/usr/bin/env", f"PYTHONPATH={_PACKAGE.parent}", *argv)
    # As root without a sandbox: the program may lie in a home, and the proxy's folder be another user's. It starts in
    # that folder, and imports nothing from there.
    line = " ".join(quote(word) for word in words)
    return f"ExecStop=+-:{line}\nTimeoutStopSec={math.ceil(seconds) + _MARGIN}"


def drain_unit(target: str, proxy: str, folder: Path, seconds: float) -> str:
    """Its text. Pure."""
    return f"""\
[Unit]
Description=Lets requests end before the reconciler's target {target} is shut down
After=network.target {proxy}
Before={DAEMON}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
{stop_lines(folder, seconds, "/bin/sh", "-c", _IF_STOPPED, proxy)}
KillSignal=SIGKILL
{SANDBOX}

[Install]
WantedBy=multi-user.target
"""
