"""The machine that is changed: this one, or one whose root lies in a folder, such as an image that is being built."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import Retryable, Terminal
from reconciler.host.routing import access
from reconciler.host.staging import fetcher

UNIT = "reconciler.service"
USERS = ("reconciler-engine", fetcher.USER, access.USER)
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
        """Where a file of that machine lies for us."""
        return self.root / path.lstrip("/")

    def require(self) -> None:
        """Raises Terminal where we may not, or cannot, change it."""
        if self.is_live and os.geteuid() != 0:
            raise Terminal("only root may change this machine: use sudo; --dry-run shows what would be done")
        if self.is_live and not _BOOTED.is_dir():
            raise Terminal("this machine was not started by systemd; for an image of another one, name its --root")
        if not self.root.is_dir():
            raise Terminal(f"--root {self.root}: no such folder")

    def users(self) -> tuple[str, ...]:
        """Those of our users who exist there."""
        passwd = self.at("/etc/passwd")
        names = {line.partition(":")[0] for line in passwd.read_text().splitlines()} if passwd.is_file() else set()
        return tuple(user for user in USERS if user in names)

    def run(self, *argv: str) -> None:
        """Run a program that knows --root. Raises Retryable with its last words."""
        program, *words = argv
        offline = [] if self.is_live else [f"--root={self.root}"]
        done = self._ask(program, *offline, *words)
        if done.returncode:
            said = " ".join(done.stderr.split()[-40:]) or f"it ended with status {done.returncode}"
            raise Retryable(f"{' '.join(argv)}: {said}; mend that, then run this again")

    def property(self, name: str) -> str:
        """What systemd knows of the daemon's unit; empty for a machine that does not run."""
        if not self.is_live or not _BOOTED.is_dir():
            return ""
        return self._ask("systemctl", "show", "--property", name, "--value", UNIT).stdout.strip()

    def daemon_user(self) -> str:
        """Who runs the daemon, as far as drop-ins say another than root; empty where there is no such user."""
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
            raise Terminal(f"there is no {argv[0]}; install systemd") from None

    def program(self) -> str:
        """The daemon's program, as that machine names it. Raises Terminal for a path that no unit can hold."""
        found = Path(sys.prefix) / "bin" / "reconciler"
        if not self.is_live and found.is_relative_to(self.root):
            found = Path("/") / found.relative_to(self.root)
        text = str(found)
        if any(character.isspace() or character in "\"'\\%$;" for character in text):
            raise Terminal(f"{text}: has characters that a unit cannot hold; install into another folder")
        return text
