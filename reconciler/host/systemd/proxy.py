"""The proxy as a unit of its own: it outlives us, and a reboot brings it back with the routes that it had.

A second unit is what a shutdown of the host stops first: its stop lets the requests at the proxy end. systemd stops in
the reverse of the order in which it starts. That unit comes after proxy and replicas, and so keeps them until it is
done; neither waits for the other at a boot. It does nothing else, and needs neither us nor git.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.host.routing import process
from reconciler.host.routing.admin import OWN, SOCKET
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.host.systemd.unit import DAEMON, SANDBOX, drain_name
from reconciler.host.systemd.unit_files import UNITS, delete_unit, plain, quote, quote_path, sync_links
from reconciler.system.files import cannot, write_atomically
from reconciler.system.procfs import Identity

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
            raise Retryable(cannot(error, UNITS / name, "written", "run the reconciler as root")) from None
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
    arguments = (*before, "/usr/bin/env", f"PYTHONPATH={_PACKAGE.parent}", *argv)
    # As root without a sandbox: the program may lie in a home, and the proxy's folder be another user's. It starts in
    # that folder, and imports nothing from there.
    line = " ".join(quote(argument) for argument in arguments)
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


# ---------------------------------------------------------------- the proxy itself

_SECONDS = 10.0
# Where a proxy with a user of its own sees its program and its folder.
_PLACES = "/mnt"
_PLACE = f"{_PLACES}/proxy"
# Overrides what its folder says, which serves a proxy that runs as root as well.
_ADMIN = json.dumps({"admin": {"address": {"pipe": {"path": f"./{OWN}/{SOCKET}"}}}})


class ProxyUnit:
    """Starts the Envoy of one target, and takes it away."""

    def __init__(self, target: str, seconds: float, systemd: Systemd, memory: int = 0) -> None:
        """`seconds` is what a stop grants to requests that run, `memory` the most that it takes; 0: no limit."""
        self._target = target
        self._memory = memory
        self._seconds = seconds
        self._systemd = systemd

    @property
    def name(self) -> str:
        return proxy_name(self._target)

    def spawn(self, folder: Path, concurrency: int) -> Identity:
        """Raises Retryable."""
        self._write(folder, concurrency)
        before = process.log_size(folder)
        self._systemd.install(self.name)
        sync_links()
        self._systemd.start(self.name)
        return self._found(folder, before)

    def renew(self, folder: Path, concurrency: int) -> None:
        """Have the next start be as this release does it; the one that runs is left alone. Raises Retryable."""
        if (UNITS / self.name).exists() and folder.is_dir() and self._write(folder, concurrency):
            self._systemd.install(self.name)

    def _write(self, folder: Path, concurrency: int) -> bool:
        path = UNITS / self.name
        argv = process.command(concurrency)
        user = process.USER if process.has_user() else ""
        text = proxy_unit(self._target, folder, self._seconds, argv, user, self._memory)
        try:
            if user:
                process.grant(folder)
            else:
                folder.chmod(0o700)
            return write_atomically(path, text.encode(), 0o644)
        except OSError as error:
            raise Retryable(cannot(error, error.filename or path, "written", "run the reconciler as root")) from None

    def remove(self) -> None:
        """Stop it permanently, and delete its unit. Raises Retryable."""
        self._systemd.stop(self.name)
        delete_unit(self._systemd, self.name)

    def _found(self, folder: Path, before: int) -> Identity:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            found = process.find(folder)
            if found is not None:
                return found
            time.sleep(0.02)
        reason = process.last_words(folder, before) or f"see journalctl -u {self.name}"
        raise Retryable(f"{self.name} did not start: {reason}")


def proxy_unit(target: str, folder: Path, seconds: float, argv: list[str], user: str = "", memory: int = 0) -> str:
    """The text of the proxy's unit; without a `user` it runs as root, without root's powers. Pure."""
    name, value = next(iter(process.environment(folder).items()))
    place, more = str(folder), ""
    if user:
        place, more = f"-{_PLACE}", "".join(f"{line}\n" for line in _own_lines(folder, user, argv[0]))
        argv = [f"{_PLACES}/{Path(argv[0]).name}", *argv[1:], "--config-yaml", _ADMIN]
    else:
        more = f"ReadWritePaths={quote_path(str(folder))}\n"
    # Far above what it takes before it refuses requests by itself: here all of them would be cut.
    more += f"MemoryMax={memory}\n" if memory else ""
    return f"""\
[Unit]
Description=Proxy of the reconciler's target {target}
After=network.target
Before={DAEMON}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=:{" ".join(quote(argument) for argument in argv)}
Environment={quote(f"{name}={value}")}
WorkingDirectory={plain(place)}
StandardOutput=append:{plain(str(folder / process.LOG))}
StandardError=inherit
Restart=always
RestartSec=100ms
{stop_lines(folder, seconds)}
LimitNOFILE=1048576
LimitCORE=0
{more}CapabilityBoundingSet=CAP_NET_BIND_SERVICE
PrivateDevices=yes
{SANDBOX}

[Install]
WantedBy=multi-user.target
"""


def _own_lines(folder: Path, user: str, program: str) -> Iterator[str]:
    """It sees its folder below another name, since it may enter none above it, and writes only where its socket is."""
    yield f"User={user}"
    # For any port: a running proxy may be reconfigured to one below 1024.
    yield "AmbientCapabilities=CAP_NET_BIND_SERVICE"
    yield f"TemporaryFileSystem={_PLACES}"
    yield f"BindReadOnlyPaths={quote_path(program)}:{_PLACES}/{Path(program).name}"
    yield f"BindReadOnlyPaths={quote_path(str(folder))}:{_PLACE}"
    yield f"BindPaths={quote_path(str(folder / OWN))}:{_PLACE}/{OWN}"
    yield "ProtectProc=invisible"
