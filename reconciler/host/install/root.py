"""The system to install on: this machine, or one whose root is a folder, such as an image being built."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import Retryable, Terminal
from reconciler.host.routing import process
from reconciler.host.staging import fetcher

UNIT = "reconciler.service"
USERS = ("reconciler-engine", fetcher.USER, process.USER)
"""Those of deploy/systemd/reconciler.sysusers.conf."""
_BOOTED = Path("/run/systemd/system")


@dataclass(frozen=True, slots=True)
class System:
    """`root` is `/` for this machine."""

    root: Path

    @property
    def is_live(self) -> bool:
        return self.root == Path("/")

    def at(self, path: str) -> Path:
        """The path of a file of that system as seen from here."""
        return self.root / path.lstrip("/")

    def require(self) -> None:
        """Raises Terminal where we may not, or cannot, change it."""
        if self.is_live and os.geteuid() != 0:
            raise Terminal("only root may change this machine: use sudo; --dry-run shows what would be done")
        if self.is_live and not _BOOTED.is_dir():
            raise Terminal("this machine was not started by systemd; for a disk image, give its --root")
        if not self.root.is_dir():
            raise Terminal(f"--root {self.root}: no such folder")

    def users(self) -> tuple[str, ...]:
        """Which of our users exist there."""
        passwd = self.at("/etc/passwd")
        names = {line.partition(":")[0] for line in passwd.read_text().splitlines()} if passwd.is_file() else set()
        return tuple(user for user in USERS if user in names)

    def run(self, *argv: str) -> None:
        """Run a program that knows --root. Raises Retryable with its last output."""
        program, *words = argv
        offline = [] if self.is_live else [f"--root={self.root}"]
        done = self._ask(program, *offline, *words)
        if done.returncode:
            output = " ".join(done.stderr.split()[-40:]) or f"it ended with status {done.returncode}"
            raise Retryable(f"{' '.join(argv)}: {output}; fix that, then run this again")

    def property(self, name: str) -> str:
        """systemd's properties of the daemon's unit; empty for a system that is not running."""
        if not self.is_live or not _BOOTED.is_dir():
            return ""
        return self._ask("systemctl", "show", "--property", name, "--value", UNIT).stdout.strip()

    def daemon_user(self) -> str:
        """The daemon's user, if drop-ins set another than root; empty if there is no such user."""
        user = self.property("User")
        try:
            return pwd.getpwnam(user).pw_name if user else ""
        except KeyError:
            return ""

    def is_enabled(self) -> bool:
        return self.at(f"/etc/systemd/system/multi-user.target.wants/{UNIT}").is_symlink()

    def _ask(self, *argv: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise Terminal(f"{argv[0]} not found; install systemd") from None

    def program(self) -> str:
        """The daemon's program, as that machine names it. Raises Terminal for a path that no unit can hold."""
        found = Path(sys.prefix) / "bin" / "reconciler"
        if not self.is_live and found.is_relative_to(self.root):
            found = Path("/") / found.relative_to(self.root)
        text = str(found)
        if any(character.isspace() or character in "\"'\\%$;" for character in text):
            raise Terminal(f"{text}: has characters that a unit cannot hold; install into another folder")
        return text
