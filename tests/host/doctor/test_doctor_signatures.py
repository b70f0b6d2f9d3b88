"""What `host doctor` says of keys and programs that verify commits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.config.forge import VerifySettings
from reconciler.host.doctor.signatures import check_signatures
from reconciler.report.findings import CheckResult, Level, made
from reconciler.source import trusted_keys
from tests.support.signing import LONG_AGO, WHY_NOT, GpgHome, make_ssh_key

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

ALICE, BOB = "Alice <alice@example.invalid>", "Bob <bob@example.invalid>"


@pytest.fixture
def home() -> Iterator[GpgHome]:
    made = GpgHome()
    yield made
    made.close()


def examined(**settings: object) -> CheckResult:
    verify = VerifySettings.model_validate({"mode": "head"} | settings)
    (found,) = made("signatures", lambda: check_signatures(verify))
    return found


def test_nothing_is_asked_where_signatures_are_not_verified(tmp_path: Path) -> None:
    assert list(check_signatures(VerifySettings(mode="none", gpg_keys_file=tmp_path / "none"))) == []


def test_valid_keys_and_the_first_that_expires_are_named(home: GpgHome, tmp_path: Path) -> None:
    home.make_key(ALICE)
    (file := tmp_path / "keys.asc").write_bytes(home.export())
    assert examined(gpg_keys_file=file).message == f"{file} has 1 valid key; none expires"
    fingerprint = home.make_key(BOB, "1y")
    file.write_bytes(home.export())
    found = examined(gpg_keys_file=file)
    assert f"2 valid keys; the first that expires is of {BOB} ({fingerprint}), on " in found.message
    assert found.level is Level.OK


def test_key_that_expires_soon_is_a_warning(home: GpgHome, tmp_path: Path) -> None:
    home.make_key(ALICE, "7d")
    (file := tmp_path / "keys.asc").write_bytes(home.export())
    found = examined(gpg_keys_file=file)
    assert (found.level, found.fix) == (Level.WARNING, f"extend it, and export it to {file} again")


def test_keys_of_which_none_is_valid_are_a_problem(home: GpgHome, tmp_path: Path) -> None:
    home.make_key(ALICE, "1d", LONG_AGO)
    (file := tmp_path / "keys.asc").write_bytes(home.export())
    found = examined(gpg_keys_file=file)
    assert found.level is Level.PROBLEM
    assert f"of 1 key in {file} none is valid" in found.message


def test_subkey_that_signs_counts_by_its_own_expiry(home: GpgHome, tmp_path: Path) -> None:
    fingerprint = home.make_key(ALICE)
    home.gpg("--passphrase", "", "--quick-add-key", fingerprint, "ed25519", "sign", "7d")
    (file := tmp_path / "keys.asc").write_bytes(home.export())
    assert examined(gpg_keys_file=file).level is Level.WARNING


@pytest.mark.parametrize("key", ["gpg_keys_file", "allowed_signers_file"])
def test_file_that_is_away_is_a_problem_with_its_key(tmp_path: Path, key: str) -> None:
    found = examined(**{key: tmp_path / "none"})
    assert found.level is Level.PROBLEM
    assert f"source.verify.{key}: {tmp_path / 'none'} cannot be read" in found.message


@pytest.mark.parametrize("program", ["gpg", "ssh-keygen"])
def test_missing_program_is_a_problem_with_its_package(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "keys").write_text("any\n")
    monkeypatch.setattr(trusted_keys.shutil, "which", lambda _: None)
    found = examined(**{"gpg_keys_file" if program == "gpg" else "allowed_signers_file": file})
    assert (found.level, found.fix) == (Level.PROBLEM, f"install {trusted_keys.PACKAGES[program]}")


def test_allowed_signers_are_counted_without_comments(tmp_path: Path) -> None:
    (file := tmp_path / "allowed").write_text("# Nobody yet.\n\n")
    found = examined(allowed_signers_file=file)
    assert found.level is Level.PROBLEM
    assert found.fix == f'echo "NAME $(cat KEY.pub)" >> {file}'
    file.write_text(f"# One.\nalice@example.invalid {make_ssh_key(tmp_path / 'id')}\n")
    assert examined(allowed_signers_file=file).message == f"{file} has 1 line"


def test_file_that_others_may_write_is_a_warning(tmp_path: Path) -> None:
    (file := tmp_path / "allowed").write_text(f"alice@example.invalid {make_ssh_key(tmp_path / 'id')}\n")
    file.chmod(0o664)
    verify = VerifySettings(mode="head", allowed_signers_file=file)
    assert [(one.level, one.fix) for one in check_signatures(verify)] == [
        (Level.WARNING, f"chmod go-w {file}"),
        (Level.OK, ""),
    ]
