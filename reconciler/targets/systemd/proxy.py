"""The proxy as a unit of its own: it outlives us, and a reboot brings it back with the routes that it had."""

from __future__ import annotations

import grp
import time
from contextlib import suppress
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.files import write_atomically
from reconciler.procfs import Identity
from reconciler.routing import process
from reconciler.targets.systemd.drain import proxy_name, stop_lines
from reconciler.targets.systemd.manager import Manager
from reconciler.targets.systemd.unit import DAEMON, SANDBOX
from reconciler.targets.systemd.unit_files import UNITS, delete_unit, sync_links
from reconciler.targets.systemd.words import plain, quote, quote_path

_SECONDS = 10.0


class ProxyUnit:
    """Starts the Envoy of one target, and takes it away."""

    def __init__(self, target: str, seconds: float, manager: Manager, memory: int = 0) -> None:
        """`seconds` is what a stop grants to requests that run, `memory` the most that it takes; 0: no limit."""
        self._target = target
        self._memory = memory
        self._seconds = seconds
        self._manager = manager

    @property
    def name(self) -> str:
        return proxy_name(self._target)

    def spawn(self, folder: Path, concurrency: int) -> Identity:
        """Raises Retryable."""
        self._write(folder, concurrency)
        before = process.log_size(folder)
        self._manager.install(self.name)
        sync_links()
        self._manager.start(self.name)
        return self._found(folder, before)

    def renew(self, folder: Path, concurrency: int) -> None:
        """Have the next start be as this release does it; the one that runs is left alone. Raises Retryable."""
        if (UNITS / self.name).exists() and self._write(folder, concurrency):
            self._manager.install(self.name)

    def _write(self, folder: Path, concurrency: int) -> bool:
        path = UNITS / self.name
        argv = process.command(concurrency)
        text = proxy_unit(self._target, folder, self._seconds, argv, _groups(), self._memory)
        try:
            return write_atomically(path, text.encode(), 0o644)
        except OSError as error:
            raise Retryable(f"{path}: cannot be written: {error.strerror}; run us as root") from None

    def remove(self) -> None:
        """Stop it for good, and delete its unit. Raises Retryable."""
        self._manager.stop(self.name)
        delete_unit(self._manager, self.name)

    def _found(self, folder: Path, before: int) -> Identity:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            found = process.find(folder)
            if found is not None:
                return found
            time.sleep(0.02)
        words = process.last_words(folder, before) or f"see journalctl -u {self.name}"
        raise Retryable(f"{self.name} did not start: {words}")


def _groups() -> tuple[str, ...]:
    """Those whose sockets it uses: without the capability to pass them by, root's rights end at modes as well."""
    with suppress(KeyError):
        return (grp.getgrnam(process.USER).gr_name,)
    return ()


def proxy_unit(
    target: str, folder: Path, seconds: float, argv: list[str], groups: tuple[str, ...] = (), memory: int = 0
) -> str:
    """The text of the proxy's unit. Pure."""
    name, value = next(iter(process.environment(folder).items()))
    own = "".join(f"SupplementaryGroups={group}\n" for group in groups)
    # Far above what it takes before it refuses requests by itself: here all of them would be cut.
    own += f"MemoryMax={memory}\n" if memory else ""
    return f"""\
[Unit]
Description=Proxy of the reconciler's target {target}
After=network.target
Before={DAEMON}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=:{" ".join(quote(word) for word in argv)}
Environment={quote(f"{name}={value}")}
WorkingDirectory={plain(str(folder))}
StandardOutput=append:{plain(str(folder / process.LOG))}
StandardError=inherit
Restart=always
RestartSec=100ms
{stop_lines(folder, seconds)}
LimitNOFILE=1048576
LimitCORE=0
{own}CapabilityBoundingSet=CAP_NET_BIND_SERVICE
ReadWritePaths={quote_path(str(folder))}
PrivateDevices=yes
{SANDBOX}

[Install]
WantedBy=multi-user.target
"""
