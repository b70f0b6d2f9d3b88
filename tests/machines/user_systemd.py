"""A systemd of our own, of the kind that users have: real, up in a tenth of a second, no machine around it. Root only.

It has a view of mounts and a control group of its own; everything else it shares with us.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.machines.machine import NoMachine, cgroup_root, remove_cgroups, wait_for

_BUS_SECONDS = 30.0
_DBUS = "dbus-daemon --session --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only"


class UserSystemd:
    """Its units lie in `units`. `private` is its private socket, `bus` that of a D-Bus daemon which it runs."""

    def __init__(self, folder: Path) -> None:
        """Boots it. Raises NoMachine."""
        missing = [tool for tool in ("unshare", "nsenter", "setpriv", "dbus-daemon") if shutil.which(tool) is None]
        if os.geteuid() != 0 or missing:
            raise NoMachine(f"a systemd of our own needs root {' and '.join(['', *missing])}".rstrip())
        self._folder = folder
        self._cgroup = cgroup_root() / f"user-systemd-{os.getpid()}"
        self._cgroup.mkdir(exist_ok=True)
        self.units = folder / "home/.config/systemd/user"
        self.units.mkdir(parents=True)
        # The ones that distributions have come in packages of their own.
        (self.units / "dbus.socket").write_text("[Socket]\nListenStream=%t/bus\n")
        (self.units / "dbus.service").write_text(f"[Unit]\nRequires=dbus.socket\n[Service]\nExecStart={_DBUS}\n")
        self.private, self.bus = folder / "run/systemd/private", folder / "run/bus"
        self.private.parent.mkdir(parents=True)
        with (folder / "console").open("wb") as console:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        wait_for(lambda: self.run("is-system-running", expect=None).strip() == "running", _BUS_SECONDS, self._failure)
        self.run("start", "dbus.service")

    @property
    def systemctl(self) -> list[str]:
        """How to call `systemctl` for it."""
        enter = ["nsenter", "-t", str(self._process.pid), "-m"]
        return [*enter, "env", f"XDG_RUNTIME_DIR={self._folder / 'run'}", "systemctl", "--user"]

    def run(self, *words: str, expect: int | None = 0) -> str:
        """What `systemctl` printed."""
        done = subprocess.run([*self.systemctl, *words], capture_output=True, text=True, timeout=60, check=False)
        assert expect is None or done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """It stands still meanwhile."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it with all its units."""
        self._process.kill()
        self._process.wait(30)
        kill = self._cgroup / "cgroup.kill"
        if kill.exists():
            kill.write_text("1")
        wait_for(lambda: "populated 0" in (self._cgroup / "cgroup.events").read_text(), _BUS_SECONDS, self._failure)
        remove_cgroups(self._cgroup)

    def _command(self) -> list[str]:
        # In the group that we are in, it would take all processes of that for its own.
        enter = 'echo $$ > "$0/cgroup.procs" && exec unshare --mount --propagation private sh -c "$@"'
        # It only starts where systemd is process 1, which it sees by this folder.
        boot = 'mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system && exec "$@"'
        home = [f"HOME={self._folder / 'home'}", f"XDG_RUNTIME_DIR={self._folder / 'run'}"]
        systemd = ["env", "-i", f"PATH={os.environ['PATH']}", *home, "/lib/systemd/systemd", "--user"]
        run = ["setpriv", "--pdeathsig", "KILL", *systemd, "--log-target=console"]
        return ["sh", "-c", enter, str(self._cgroup), boot, "sh", *run]

    def _failure(self) -> NoMachine:
        return NoMachine(f"systemd --user: {(self._folder / 'console').read_text(errors='replace')[-2000:]}")
