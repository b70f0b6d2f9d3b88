"""A machine with a real systemd, booted in a second over this machine's own root. Root only.

Its root is an overlay whose upper layer lies in a tmpfs: nothing of it reaches this machine, and it survives a reboot
inside. It has process numbers, mounts and units of its own; the network is the one of whoever makes it, or another one
of ours (see network.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

# What the base image of a test machine may bring along; none of it may begin to work in there.
_MASKED = """
    apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service podman.service podman.socket podman-restart.service
    podman-auto-update.timer podman-auto-update.service postgresql.service ssh.service ssh.socket sshd.service
    systemd-networkd.service systemd-networkd.socket systemd-resolved.service systemd-timesyncd.service
    networking.service cron.service getty.target console-getty.service docker.service docker.socket containerd.service
"""
_NAMESPACES = ("-m", "-u", "-i", "-p", "-C", "-r", "-w")
_REBOOT = 133
# Waits for our end, however it comes: the machine's first process would not notice it.
_GUARD = """
read _
find "$0" -name cgroup.procs -exec cat {} + | xargs -r kill -9
umount -l "$1/root" "$1"
[ ! -d "$0" ] || { sleep 1; find "$0" -depth -type d -exec rmdir {} +; }
"""
_BOOT_SECONDS = 60.0


class NoMachine(Exception):
    """Machines cannot be made here; the message says why."""


def check() -> None:
    """Raises NoMachine."""
    if os.geteuid() != 0:
        raise NoMachine("machines with systemd need root")
    missing = [tool for tool in ("systemd-nspawn", "nsenter", "setpriv", "mount") if shutil.which(tool) is None]
    if missing:
        raise NoMachine(f"machines with systemd need {', '.join(missing)}: apt-get install systemd-container")


class Machine:
    """`binds` maps folders inside to folders of this machine; with `:ro` behind them they cannot be written to.

    `network` is the path of a network namespace; empty for the one that we are in.
    """

    def __init__(self, folder: Path, name: str, binds: Mapping[str, str | Path], network: str = "") -> None:
        """Boots it. Raises NoMachine."""
        check()
        self.folder = folder
        self.name = name
        self._network = network
        self._binds = binds
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._cgroup = cgroup_root() / f"{name}-{os.getpid()}"
        self._off = False
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, str(self._cgroup), str(folder / "machine")],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._lay_out()
        except BaseException:
            self._unmount()
            raise
        self._keeper = threading.Thread(target=self._keep, name=f"machine {name}", daemon=True)
        self._keeper.start()
        try:
            self.wait_until_up()
        except NoMachine:
            self.close()
            raise

    # ------------------------------------------------------------ using it

    @property
    def root(self) -> Path:
        """Its root folder, seen from here, mounts of its own included."""
        return Path(f"/proc/{self._leader()}/root")

    def argv(self, *command: str) -> list[str]:
        """What to run here for a command to run in there."""
        network = ("-n",) if self._network else ()
        return ["nsenter", "-t", str(self._leader()), *_NAMESPACES, *network, *command]

    def run(self, *command: str, expect: int | None = 0) -> str:
        """Run a command in there; what it printed."""
        done = subprocess.run(
            self.argv(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        assert expect is None or done.returncode == expect, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def wait_until_up(self) -> None:
        """Until systemd has started all there is to start. Raises NoMachine with the console's last words."""
        wait_for(self._is_up, _BOOT_SECONDS, lambda: NoMachine(f"{self.name} did not come up:\n{self.console()}"))

    def reboot(self) -> None:
        """Restart it, as `systemctl reboot` does, and wait until it is up again."""
        before = self._leader()
        self.run("systemctl", "reboot", expect=None)
        wait_for(lambda: self._leader() not in (0, before), 120, lambda: NoMachine(f"{self.name} did not reboot"))
        self.wait_until_up()

    @contextlib.contextmanager
    def slow_systemd(self) -> Iterator[None]:
        """Its systemd, and nothing else in there, stands still meanwhile."""
        leader = self._leader()
        os.kill(leader, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(leader, signal.SIGCONT)

    def console(self, lines: int = 40) -> str:
        log = self.folder / "console"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def close(self) -> None:
        """Power it off at once, and forget it."""
        self._off = True
        if self._nspawn is not None:
            with contextlib.suppress(ProcessLookupError):
                if leader := self._leader():
                    os.kill(leader, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(20)
            if self._nspawn.poll() is None:
                self._nspawn.kill()
        self._keeper.join(30)
        self._unmount()
        remove_cgroups(self._cgroup)
        self._guard.communicate()

    def _unmount(self) -> None:
        for mount in (self.folder / "machine" / "root", self.folder / "machine"):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)

    # ------------------------------------------------------------ making it

    def _lay_out(self) -> None:
        layers = self.folder / "machine"
        layers.mkdir(parents=True)
        # The upper layer must not lie below the lower one, which is all of this machine's root.
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(layers))
        upper, work, root = layers / "upper", layers / "work", layers / "root"
        for folder in (upper, work, root):
            folder.mkdir()
        _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", str(root))
        (root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
        (root / "etc/hostname").write_text(self.name + "\n")
        for stale in ("var/log/journal", "run", "var/lib/reconciler", "etc/reconciler"):
            shutil.rmtree(root / stale, ignore_errors=True)
        (root / "run").mkdir(exist_ok=True)
        for inside in self._binds:
            # A checkout or an interpreter may lie in a home that nobody else may enter; out here that stays so.
            for folder in reversed(Path(inside.removesuffix(":ro")).parents):
                below = root / folder.relative_to("/")
                below.mkdir(exist_ok=True)
                below.chmod(below.stat().st_mode | 0o555)
        units = root / "etc/systemd/system"
        for unit in _MASKED.split():
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")

    def _keep(self) -> None:
        """Start it again after each reboot inside."""
        status = _REBOOT
        while status == _REBOOT and not self._off:
            with (self.folder / "console").open("ab") as console:
                self._nspawn = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                    env={"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                )
            status = self._nspawn.wait()

    def _command(self) -> list[str]:
        self._cgroup.mkdir(exist_ok=True)
        binds = [_bind(inside, outside) for inside, outside in self._binds.items()]
        nspawn = [
            "systemd-nspawn",
            *("--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--console=pipe"),
            *(f"--machine={self.name}-{os.getpid()}", f"--directory={self.folder / 'machine' / 'root'}"),
            *binds,
            *([f"--network-namespace-path={self._network}"] if self._network else []),
            "--boot",
        ]
        # It must not outlive us: nobody would end it. In no old hierarchy may it see itself outside of its root.
        roots = 'awk \'$3 == "cgroup" {print $2 "/cgroup.procs"}\' /proc/self/mounts'
        leave = f'for procs in $({roots}); do echo $$ > "$procs" 2>/dev/null; done'
        enter = f'{leave}; echo $$ > "$0/cgroup.procs" && exec setpriv --pdeathsig KILL "$@"'
        return ["sh", "-c", enter, str(self._cgroup), *nspawn]

    def _leader(self) -> int:
        """The machine's first process, by its number out here; 0 while there is none."""
        if self._nspawn is None or self._nspawn.poll() is not None:
            return 0
        own = os.readlink("/proc/self/ns/pid")
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split():
                if os.readlink(f"/proc/{child}/ns/pid") != own:
                    return int(child)
        return 0

    def _is_up(self) -> bool:
        if self._off or not self._leader():
            return False
        done = subprocess.run(self.argv("systemctl", "is-system-running"), capture_output=True, text=True, check=False)
        return done.stdout.strip() in ("running", "degraded")


def _bind(inside: str, outside: str | Path) -> str:
    kind = "--bind-ro" if inside.endswith(":ro") else "--bind"
    return f"{kind}={outside}:{inside.removesuffix(':ro')}"


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoMachine(f"mount {' '.join(words)}: {done.stderr.strip()}")


def cgroup_root() -> Path:
    hybrid = Path("/sys/fs/cgroup/unified")
    return hybrid if hybrid.is_dir() else Path("/sys/fs/cgroup")


def remove_cgroups(folder: Path) -> None:
    folders: Iterable[Path] = sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True)
    for each in (*folders, folder):
        with contextlib.suppress(OSError):
            each.rmdir()


def wait_for(claim: Callable[[], bool], seconds: float, failure: Callable[[], Exception]) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            raise failure()
        time.sleep(0.05)
