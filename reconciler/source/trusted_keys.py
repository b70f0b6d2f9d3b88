"""The keys that are trusted: copied from the configured files to a folder of ours, the only place that git asks."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.forge import VerifySettings
from reconciler.errors import Retryable, Terminal
from reconciler.source.access import Folder, sync_folder, write_file
from reconciler.system.files import sync_tree
from reconciler.system.programs import NoAnswer, run_program

GPG, SSH_KEYGEN = "gpg", "ssh-keygen"
PACKAGES = {GPG: "gnupg (Fedora, RHEL: gnupg2)", SSH_KEYGEN: "openssh-client (Fedora, RHEL: openssh-clients)"}
_MOST_BYTES = 8 << 20
_LONGEST = 60.0
_NEVER = math.inf
# Every key in the folder is trusted, because the operator named exactly these. Nothing is asked of the network, and no
# agent is started: checking a signature needs no secret.
_GPG_CONF = """\
trust-model always
no-auto-key-retrieve
no-auto-key-locate
no-auto-check-trustdb
no-autostart
disable-dirmngr
no-random-seed-file
batch
no-tty
"""


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """`id` changes with every change of the keys. `options` and `env` are for git."""

    id: str
    options: tuple[str, ...]
    env: dict[str, str]


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of a file, as gpg lists it. `validity` is gpg's letter: `e` expired, `r` revoked.

    From `expires_at` on, seconds since 1970, neither it nor its last subkey signs.
    """

    fingerprint: str
    name: str
    validity: str
    expires_at: float


def trusted_keys(folder: Folder, settings: VerifySettings) -> TrustedKeys:
    """Those of the files as they are now. The caller holds the mirror's lock.

    Raises Retryable when a file cannot be read, Terminal when it holds no key or a program is missing.
    """
    gpg = read_keys(settings.gpg_keys_file, "gpg_keys_file")
    ssh = read_keys(settings.allowed_signers_file, "allowed_signers_file")
    # Without keys of its kind a program decides nothing, and is not shown what others wrote.
    programs = {"gpg.program": find(GPG) if gpg else "", "gpg.ssh.program": find(SSH_KEYGEN) if ssh else ""}
    told = b"".join(b"%d\0%b" % (len(part), part) for part in (gpg, ssh, _GPG_CONF.encode()))
    name = hashlib.sha256(told).hexdigest()
    place = folder.keys / name[:32]
    if not place.is_dir():
        _build(place, gpg, ssh)
    values = {
        "gpg.format": "openpgp",
        **{key: program or "/bin/false" for key, program in programs.items()},
        "gpg.x509.program": "/bin/false",
        "gpg.ssh.allowedSignersFile": str(place / "allowed_signers"),
    }
    options = tuple(word for key, value in values.items() for word in ("-c", f"{key}={value}"))
    return TrustedKeys(name, options, {"GNUPGHOME": str(place / "gnupg")})


def read_keys(path: Path | None, key: str) -> bytes:
    """A file with public keys; empty where none is configured. Raises Retryable or Terminal."""
    if path is None:
        return b""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise Retryable(
            f"source.verify.{key}: {path} cannot be read: {error.strerror}; no commit is believed"
        ) from None
    if len(data) > _MOST_BYTES:
        raise Terminal(f"source.verify.{key}: {path} has more than {_MOST_BYTES:,} bytes; keep only trusted keys in it")
    if not data.strip():
        raise Terminal(f"source.verify.{key}: {path} is empty; write the trusted keys into it")
    return data


def find(program: str) -> str:
    """Its path. Raises Terminal, with the package that has it."""
    if (path := shutil.which(program)) is None:
        raise Terminal(
            f"source.verify: {program} is not installed, and signatures need it; install {PACKAGES[program]}"
        )
    return path


def _build(place: Path, gpg: bytes, ssh: bytes) -> None:
    """In one step, so that a folder that is there is complete."""
    try:
        place.parent.mkdir(0o700, exist_ok=True)
        for old in place.parent.iterdir():
            shutil.rmtree(old, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=place.parent))
        (fresh / "gnupg").mkdir(0o700)
        write_file(fresh / "allowed_signers", ssh, 0o600)
        if gpg:
            _import(fresh / "gnupg", gpg)
        sync_tree(fresh)
        fresh.rename(place)
        sync_folder(place.parent)
    except OSError as error:
        raise Retryable(f"cannot prepare {place}: {error.strerror}; check state_dir and its disk") from None


def _import(home: Path, keys: bytes) -> None:
    write_file(home / "gpg.conf", _GPG_CONF.encode(), 0o600)
    # A newer gpg may otherwise be told by the machine's config to keep keys in a process of its own.
    write_file(home / "common.conf", b"", 0o600)
    write_file(home / "keys", keys, 0o600)
    if not list_keys(home / "keys"):
        raise Terminal(
            "source.verify.gpg_keys_file holds no public key; write into it what gpg --armor --export prints"
        )
    said = _gpg("--homedir", str(home), "--import", "--", str(home / "keys"))
    if "\npub:" not in "\n" + _gpg("--homedir", str(home), "--with-colons", "--list-keys"):
        raise Terminal(f"source.verify.gpg_keys_file: gpg takes no key of it: {said[-300:].strip()}")


def list_keys(path: Path) -> list[PublicKey]:
    """The keys that a file holds, in gpg's order; none where gpg finds none. Raises Terminal for a private key."""
    with tempfile.TemporaryDirectory(prefix="reconciler-keys-") as home:
        listing = _gpg("--homedir", home, "--with-colons", "--show-keys", "--", str(path))
    if "\nsec:" in f"\n{listing}":
        raise Terminal("source.verify.gpg_keys_file holds a private key; keep only what gpg --export prints in it")
    return list(_public_keys(listing))


def _public_keys(listing: str) -> Iterator[PublicKey]:
    """Fields by gpg's doc/DETAILS: 2 validity, 7 expiry, 10 fingerprint or user ID, 12 what it may do."""
    rows = [row for line in listing.splitlines() if len(row := line.split(":")) > 9]
    starts = [number for number, row in enumerate(rows) if row[0] == "pub"]
    for begin, end in zip(starts, [*starts, len(rows)][1:], strict=True):
        key, its = rows[begin], rows[begin:end]
        fingerprint = next((row[9] for row in its if row[0] == "fpr"), key[4])
        name = next((row[9] for row in its if row[0] == "uid"), "")
        signing = [_expiry(row) for row in its if row[0] == "sub" and row[11:] and "s" in row[11]]
        yield PublicKey(fingerprint, name, key[1], min(_expiry(key), max(signing, default=_NEVER)))


def _expiry(row: list[str]) -> float:
    return float(row[6]) if row[6].isdigit() else _NEVER


def _gpg(*arguments: str) -> str:
    """All that it prints; its exit status also counts keys that it merely did not like."""
    try:
        done = run_program((find(GPG), "--batch", "--no-tty", "--no-autostart", *arguments), _LONGEST, os.defpath)
    except NoAnswer as error:
        raise Retryable(f"source.verify: {error}") from None
    return (done.stdout + done.stderr).decode("utf-8", "replace")
