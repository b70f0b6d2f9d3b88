"""Real age keys and real SOPS files for tests, made by the sops binary."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from tempfile import NamedTemporaryFile

import pyrage

SOPS = Path(sysconfig.get_path("scripts")) / "sops"
RULE = "^(data|stringData)$"


def age_key(path: Path) -> str:
    """Write an identity, closed to others; returns its recipient."""
    identity = pyrage.x25519.Identity.generate()
    path.write_text(f"# public key: {identity.to_public()}\n{identity}\n")
    path.chmod(0o600)
    return str(identity.to_public())


def encrypt(text: str, *recipients: str, rule: str = f"encrypted_regex: {RULE}") -> str:
    """What `sops encrypt` makes of a YAML text, by a creation rule like those in a repository."""
    with NamedTemporaryFile("w") as config:
        config.write(f"creation_rules: [{{age: '{','.join(recipients)}', {rule}}}]")
        config.flush()
        command = [str(SOPS), "--config", config.name, "encrypt", "--filename-override", "x.yaml"]
        found = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout
