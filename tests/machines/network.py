"""A network for machines: namespaces of ours that end with us. The network of this machine is never touched.

Each namespace is kept by a process, not by a name, so nothing is left however the tests end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.machines.machine import NoMachine, check
from tests.support.load import Load

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_SECONDS = 10.0


class Network:
    """A network namespace. Raises NoMachine where none can be made."""

    def __init__(self, address: str) -> None:
        self.address = address
        keep = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        self._keeper = subprocess.Popen(keep, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            self._await_own()
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._keeper.pid

    @property
    def path(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def ip(self, *words: str) -> None:
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "ip", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NoMachine(f"no network for machines: ip {' '.join(words)}: {done.stderr.strip()}")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What this thread opens meanwhile belongs there; so do threads and processes that it starts, forever."""
        with open("/proc/thread-self/ns/net") as before, open(self.path) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.communicate()

    def _await_own(self) -> None:
        deadline = time.monotonic() + _SECONDS
        while os.readlink(self.path) == os.readlink("/proc/self/ns/net"):
            if self._keeper.poll() is not None or time.monotonic() > deadline:
                self._keeper.kill()
                raise NoMachine(f"no network for machines: unshare --net: {self._keeper.communicate()[1].strip()}")
            time.sleep(0.01)


class Switch:
    """What machines are plugged into. Servers that they shall reach listen on its address, inside `network`."""

    def __init__(self) -> None:
        """Raises NoMachine."""
        check()
        missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
        if missing:
            raise NoMachine(f"a network for machines needs {', '.join(missing)}: apt-get install iproute2 util-linux")
        self.network = Network("10.77.0.254")
        self._plugged: list[Network] = []
        try:
            self.network.ip("link", "add", "switch", "type", "bridge")
            self.network.ip("address", "add", f"{self.network.address}/24", "dev", "switch")
            self.network.ip("link", "set", "switch", "up")
        except BaseException:
            self.close()
            raise

    def plug(self) -> Network:
        """The network of one more machine, with an address of its own."""
        number = len(self._plugged) + 1
        made = Network(f"10.77.0.{number}")
        self._plugged.append(made)
        self.network.ip("link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", str(made.pid))
        self.network.ip("link", "set", f"port{number}", "master", "switch", "up")
        made.ip("address", "add", f"{made.address}/24", "dev", "eth0")
        made.ip("link", "set", "eth0", "up")
        return made

    def cut(self, plugged: Network) -> None:
        """Pull the cable of a machine."""
        self.network.ip("link", "set", f"port{self._plugged.index(plugged) + 1}", "down")

    def repair(self, plugged: Network) -> None:
        self.network.ip("link", "set", f"port{self._plugged.index(plugged) + 1}", "up")

    def close(self) -> None:
        for network in (*self._plugged, self.network):
            network.close()


@dataclass(slots=True)
class LoadThere(Load):
    """A load from within a network."""

    network: Network = field(kw_only=True)

    def start(self) -> Load:
        with self.network.entered():
            return Load.start(self)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
