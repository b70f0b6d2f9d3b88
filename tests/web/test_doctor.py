"""What a doctor says of the page's certificate, of logins and of peers."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from reconciler.report.findings import CheckResult, Level, made
from reconciler.web import doctor
from tests.controlplane.certificates import Authority
from tests.web.asking import BY_PROXY, TOKENS, config


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def found(check: Any, folder: Path, **web: Any) -> list[CheckResult]:
    return list(made("x", lambda: check(config(folder, **web))))


def secret(path: Path, text: str = "0123456789abcdef", mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("days", "level", "says"),
    [
        (30, Level.OK, "is valid for 30 days"),
        (3, Level.WARNING, "is valid for 3 days"),
    ],
)
def test_certificate_that_ends_is_told(tmp_path: Path, authority: Authority, days: int, level: Level, says: str):
    certificate, key = authority.server("page", days)
    key.chmod(0o600)
    (one,) = found(doctor.check_tls, tmp_path, tls={"certificate_file": certificate, "key_file": str(key)})
    assert (one.level, says in one.message) == (level, True)


def test_certificate_that_has_ended_is_told(tmp_path: Path):
    certificate, key = ended(tmp_path)
    (one,) = found(doctor.check_tls, tmp_path, tls={"certificate_file": certificate, "key_file": str(key)})
    assert (one.level, "certificate has expired" in one.message) == (Level.PROBLEM, True)


def ended(folder: Path) -> tuple[Path, Path]:
    """A certificate that ended yesterday, which openssl's program does not make, and its key."""
    secret_key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, secret_key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=9)).not_valid_after(now - timedelta(days=1))
    certificate, key = folder / "ended.crt", folder / "ended.key"
    certificate.write_bytes(made.sign(secret_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    key.touch(0o600)
    key.write_bytes(secret_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


def test_certificate_of_a_client_is_told(tmp_path: Path, authority: Authority):
    certificate, key = authority.client("ada")
    key.chmod(0o600)
    (one,) = found(doctor.check_tls, tmp_path, tls={"certificate_file": certificate, "key_file": str(key)})
    assert (one.level, "purpose" in one.message) == (Level.PROBLEM, True)


def test_key_that_others_may_read_is_told(tmp_path: Path, authority: Authority):
    certificate, key = authority.server("open")
    shutil.copy(key, tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    tls = {"certificate_file": certificate, "key_file": str(tmp_path / "key")}
    assert [one.level for one in found(doctor.check_tls, tmp_path, tls=tls)] == [Level.WARNING, Level.OK]


def test_key_of_another_certificate_is_told(tmp_path: Path, authority: Authority):
    certificate, _ = authority.server("page")
    _, key = authority.server("other")
    key.chmod(0o600)
    (one,) = found(doctor.check_tls, tmp_path, tls={"certificate_file": certificate, "key_file": str(key)})
    assert (one.level, "is not the one of this certificate" in one.message) == (Level.PROBLEM, True)


def test_without_tls_nothing_is_said_of_it(tmp_path: Path):
    assert found(doctor.check_tls, tmp_path) == []


def test_ways_to_log_in_are_named(tmp_path: Path):
    proxy = BY_PROXY | {"addresses": ["192.0.2.7"]}
    (one,) = found(doctor.check_login, tmp_path, auth={"tokens": TOKENS, "proxy": proxy})
    assert (one.level, one.message) == (Level.OK, "by 2 tokens, a proxy")
    (one,) = found(doctor.check_login, tmp_path)
    assert "nobody acts on them" in one.message


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.0.0.0/8"])
def test_proxy_that_any_local_user_can_pretend_to_be_is_told(tmp_path: Path, address: str):
    one, _ = found(doctor.check_login, tmp_path, auth={"proxy": BY_PROXY | {"addresses": [address]}})
    assert (one.level, "every user of this host" in one.message) == (Level.WARNING, True)


def test_login_by_which_nobody_may_act_is_told(tmp_path: Path):
    level = [one.level for one in found(doctor.check_login, tmp_path, auth={"tokens": TOKENS[1:]})]
    assert level == [Level.WARNING, Level.OK]


def test_secret_of_an_identity_provider_is_looked_at(tmp_path: Path):
    oidc = {"issuer": "https://id.example.com", "client_id": "x", "operators": ["a"]}

    def levels(path: str) -> list[Level]:
        auth = {"oidc": oidc | {"client_secret_file": path}}
        return [one.level for one in found(doctor.check_login, tmp_path, url="https://page", auth=auth)]

    assert levels(secret(tmp_path / "fine")) == [Level.OK]
    assert levels(secret(tmp_path / "open", mode=0o644)) == [Level.WARNING, Level.OK]
    assert levels(secret(tmp_path / "empty", "")) == [Level.PROBLEM]
    assert levels(str(tmp_path / "gone")) == [Level.PROBLEM]


def test_files_of_peers_are_looked_at(tmp_path: Path):
    def levels(**peer: str) -> list[Level]:
        one = {"name": "b", "url": "https://b.example.com"} | peer
        return [each.level for each in found(doctor.check_peers, tmp_path, peers=[one])]

    assert levels() == [Level.OK]
    assert levels(token_file=secret(tmp_path / "fine")) == [Level.OK]
    assert levels(token_file=secret(tmp_path / "open", mode=0o640)) == [Level.WARNING, Level.OK]
    assert levels(token_file=str(tmp_path / "gone")) == [Level.PROBLEM]
    assert levels(ca_file=str(tmp_path / "gone")) == [Level.PROBLEM]
    assert found(doctor.check_peers, tmp_path) == []
