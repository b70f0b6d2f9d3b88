"""Where commits must be signed: git and the programs that verify, and keys that will not expire soon."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

from reconciler.config.forge import VerifySettings
from reconciler.host.doctor.ask import ask
from reconciler.model.names import counted
from reconciler.report.findings import CheckResult, ok, problem, warning
from reconciler.report.redact import one_line
from reconciler.source.trusted_keys import SSH_KEYGEN, PublicKey, find, list_keys, read_keys

# It verifies SSH signatures since 2.34, and heeds the dates of allowed signers since 2.35.
_OLDEST_FOR_SSH = (2, 35)
_SOON = 30 * 86_400.0


def check_signatures(verify: VerifySettings) -> Iterator[CheckResult]:
    """Nothing where signatures are not verified."""
    if verify.mode == "none":
        return
    if (file := verify.allowed_signers_file) is not None:
        find(SSH_KEYGEN)
        yield from _writable(file)
        yield _allowed_signers(file, read_keys(file, "allowed_signers_file"))
    if (file := verify.gpg_keys_file) is not None:
        read_keys(file, "gpg_keys_file")
        yield from _writable(file)
        yield _expiry(file, list_keys(file), time.time())


def _writable(file: Path) -> Iterator[CheckResult]:
    if file.exists() and file.stat().st_mode & 0o022:
        yield warning("signatures", f"others may change whom {file} trusts", f"chmod go-w {file}")


def _allowed_signers(file: Path, data: bytes) -> CheckResult:
    version = re.search(r"(\d+)\.(\d+)\S*", ask(("git", "--version")).text)
    if version is not None and (int(version[1]), int(version[2])) < _OLDEST_FOR_SSH:
        return problem("signatures", f"git {version[0]} verifies no SSH signatures", "install git 2.35 or newer")
    lines = [line for line in data.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
    if not lines:
        fix = f'echo "NAME $(cat KEY.pub)" >> {file}'
        return problem("signatures", f"source.verify.allowed_signers_file: {file} allows nobody", fix)
    return ok("signatures", f"{file} has {counted(len(lines), 'line')}")


def _expiry(file: Path, keys: list[PublicKey], now: float) -> CheckResult:
    """How many of these keys count, and until when."""
    good = [key for key in keys if key.validity not in ("e", "r") and key.expires_at > now]
    if not good:
        message = f"source.verify.gpg_keys_file: of {counted(len(keys), 'key')} in {file} none is valid"
        return problem("signatures", message, f"gpg --armor --export NAME > {file}, of keys that are")
    first = min(good, key=lambda key: key.expires_at)
    text = f"{file} has {counted(len(good), 'valid key')}"
    if first.expires_at == math.inf:
        return ok("signatures", f"{text}; none expires")
    day = time.strftime("%Y-%m-%d", time.gmtime(first.expires_at))
    named = f"{one_line(first.name)} ({first.fingerprint})"
    if first.expires_at - now < _SOON:
        return warning(
            "signatures", f"the key of {named} expires on {day}", f"extend it, and export it to {file} again"
        )
    return ok("signatures", f"{text}; the first that expires is of {named}, on {day}")
