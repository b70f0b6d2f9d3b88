"""Real age keys and real SOPS files for tests, made by the sops binary."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path
from tempfile import NamedTemporaryFile

SOPS = Path(sysconfig.get_path("scripts")) / "sops"
RULE = "^(data|stringData)$"


def age_key(path: Path) -> str:
    """Write an identity as age-keygen does, closed to others; returns its recipient."""
    secret = os.urandom(32)
    recipient = _bech32("age", _x25519(secret))
    path.write_text(f"# public key: {recipient}\n{_bech32('age-secret-key-', secret).upper()}\n")
    path.chmod(0o600)
    return recipient


def _x25519(secret: bytes) -> bytes:
    """The public key of RFC 7748: the ladder over the base point."""
    p = 2**255 - 19
    number = int.from_bytes(secret, "little") & ~7 & ~(128 << 248) | 64 << 248
    x1, x2, z2, x3, z3 = 9, 1, 0, 9, 1
    for bit in range(254, -1, -1):
        swap = number >> bit & 1
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a % p, c * b % p, a * a % p, b * b % p
        x3, z3 = (da + cb) ** 2 % p, x1 * (da - cb) ** 2 % p
        x2, z2 = aa * bb % p, (aa - bb) * (aa + 121665 * (aa - bb)) % p
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, -1, p) % p).to_bytes(32, "little")


def _bech32(prefix: str, data: bytes) -> str:
    """BIP 173, without its limit of length."""
    bits = "".join(f"{byte:08b}" for byte in data)
    words = [int(bits[at : at + 5].ljust(5, "0"), 2) for at in range(0, len(bits), 5)]
    check = 1
    for value in [*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix), *words, *[0] * 6]:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for index, mask in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= mask if top >> index & 1 else 0
    words += [(check ^ 1) >> 5 * (5 - index) & 31 for index in range(6)]
    return f"{prefix}1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[word] for word in words)


def encrypt(text: str, *recipients: str, rule: str = f"encrypted_regex: {RULE}") -> str:
    """What `sops encrypt` makes of a YAML text, by a creation rule like those in a repository."""
    with NamedTemporaryFile("w") as config:
        age = f"age: '{','.join(recipients)}', " if recipients else ""
        config.write(f"creation_rules: [{{{age}{rule}}}]")
        config.flush()
        command = [str(SOPS), "--config", config.name, "encrypt", "--filename-override", "x.yaml"]
        found = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout
