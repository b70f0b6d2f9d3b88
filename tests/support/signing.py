"""Real keys of people who sign commits: gpg's, in a home of their own, and ssh's."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.git_repository import Repository

PROGRAMS = ("gpg", "ssh-keygen")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
WHY_NOT = f"not installed: {', '.join(MISSING)} (Debian: gnupg, openssh-client)" if MISSING else ""
LONG_AGO, IN_TIME, LATER = "20200101T000000", "20200101T010000", "20300101T000000"


class GpgHome:
    """A folder of keys. gpg's agent puts a socket into it, whose path may have 108 characters: so not in `tmp_path`."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="gpg-", dir="/tmp"))

    def close(self) -> None:
        """End the agent that gpg started for this home."""
        subprocess.run(["gpgconf", "--homedir", self.path, "--kill", "gpg-agent"], check=False, capture_output=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def gpg(self, *arguments: str, at: str = "", stdin: bytes = b"") -> bytes:
        when = ("--faked-system-time", at) if at else ()
        command = ["gpg", "--homedir", str(self.path), "--batch", "--yes", "--quiet", *when, *arguments]
        return subprocess.run(command, input=stdin, check=True, capture_output=True).stdout

    def make_key(self, name: str, expires: str = "never", at: str = "") -> str:
        """Its fingerprint."""
        self.gpg("--passphrase", "", "--quick-gen-key", name, "ed25519", "sign", expires, at=at)
        listing = self.gpg("--with-colons", "--list-keys", f"={name}").decode()
        return next(row.split(":")[9] for row in listing.splitlines() if row.startswith("fpr:"))

    def export(self, *names: str) -> bytes:
        return self.gpg("--armor", "--export", *names)

    def export_revoked(self, fingerprint: str) -> bytes:
        """As its owner publishes it after it was revoked; here it still signs."""
        text = (self.path / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
        other = GpgHome()
        try:
            other.gpg("--import", stdin=self.export(fingerprint))
            other.gpg("--import", stdin=text.replace(":-----BEGIN", "-----BEGIN").encode())
            return other.export(fingerprint)
        finally:
            other.close()

    def signing(self, key: str, at: str = "") -> tuple[str, ...]:
        """Options of git."""
        when = f"--faked-system-time {at}" if at else ""
        program = self.path / f"sign-{at or 'now'}"
        program.write_text(f'#!/bin/sh\nexec gpg --homedir {shlex.quote(str(self.path))} --batch {when} "$@"\n')
        program.chmod(0o755)
        return "-c", f"gpg.program={program}", "-c", f"user.signingkey={key}", "-c", "gpg.format=openpgp"


def make_ssh_key(path: Path) -> str:
    """The public key, as one line."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def ssh_signing(path: Path) -> tuple[str, ...]:
    """Options of git."""
    return "-c", "gpg.format=ssh", "-c", f"user.signingkey={path}.pub"


def commit(repository: Repository, message: str, signing: tuple[str, ...] = ()) -> str:
    """A commit of all that is there, signed unless there is no key."""
    repository.git("add", "--all")
    sign = ("--gpg-sign",) if signing else ()
    repository.git(*signing, "commit", "--quiet", "--allow-empty", "--message", message, *sign)
    return repository.git("rev-parse", "HEAD")


def tag(repository: Repository, name: str, signing: tuple[str, ...] = (), what: str = "HEAD") -> str:
    """An annotated tag, signed unless there is no key; its object."""
    sign = "--sign" if signing else "--annotate"
    repository.git(*signing, "tag", sign, "--force", "--message", name, name, what)
    return repository.git("rev-parse", name)
