"""A certificate authority of the tests: who the API server and webhooks are, and who asks them."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]


class Authority:
    """One CA and what it has signed, as PEM files in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        _openssl(
            "req",
            "-x509",
            *_KEY,
            *_names("the CA of the tests"),
            "-days",
            "30",
            *self._files(self._key, self.certificate),
        )

    def server(self, name: str, days: int = 30) -> tuple[Path, Path]:
        """Certificate and key of a server on 127.0.0.1."""
        usage = "extendedKeyUsage=serverAuth"
        return self._signed(name, _names(name), usage, "subjectAltName=IP:127.0.0.1,DNS:localhost", days=days)

    def client(self, user: str, *groups: str, days: int = 30) -> tuple[Path, Path]:
        """Certificate and key of a user of the API server."""
        return self._signed(user.replace(":", "-"), _names(user, *groups), "extendedKeyUsage=clientAuth", days=days)

    def signing_key(self, name: str) -> tuple[Path, Path]:
        """Public and private key for tokens."""
        public, private = self.folder / f"{name}.pub", self.folder / f"{name}.key"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private))
        _openssl("ec", "-in", str(private), "-pubout", "-out", str(public))
        return public, private

    def _signed(self, name: str, names: list[str], *extensions: str, days: int = 30) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        signed = ["-CA", str(self.certificate), "-CAkey", str(self._key), "-days", str(days)]
        added = [word for extension in extensions for word in ("-addext", extension)]
        _openssl("req", "-x509", *_KEY, *names, *signed, *added, *self._files(key, certificate))
        return certificate, key

    @staticmethod
    def _files(key: Path, certificate: Path) -> list[str]:
        return ["-keyout", str(key), "-out", str(certificate)]


def _names(name: str, *groups: str) -> list[str]:
    return ["-subj", "".join(f"/O={group}" for group in groups) + f"/CN={name}"]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
