"""Secrets by file or credential: what is read, what errors say, and when a cached one is read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.config import secret_files
from reconciler.config.secret_files import CachedSecret, read_secret
from reconciler.errors import Retryable

KEY = "forge.token_file"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("first\n")
    return path


def test_secret_is_the_one_line_of_its_file(file: Path) -> None:
    assert read_secret(str(file), KEY) == "first"


def test_credential_is_read_from_the_folder_that_systemd_names(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(file.parent))
    assert read_secret("credential:secret", KEY) == "first"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(Retryable, match=r"^forge\.token_file: systemd gave .* LoadCredential=secret:/PATH"):
        read_secret("credential:secret", KEY)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must hold the secret alone"),
        (b" \n", "must hold the secret alone"),
        (b"hunter2\nhunter3", "must hold the secret alone"),
        (b"hunter2\0", "must hold the secret alone"),
        (b"hunter2\xff", "it is not UTF-8 text"),
        (None, "No such file"),
    ],
)
def test_file_that_is_no_secret_is_named_without_its_content(file: Path, content: bytes | None, says: str) -> None:
    file.write_bytes(content) if content is not None else file.unlink()
    with pytest.raises(Retryable, match=says) as caught:
        read_secret(str(file), KEY)
    assert str(file) in str(caught.value)
    assert "hunter" not in str(caught.value)


def replace_file(file: Path) -> None:
    other = file.with_name("new")
    other.write_text("other\n")
    other.replace(file)


def move_link(file: Path) -> None:
    """As Kubernetes does with what it mounts."""
    replace_file(file.with_name("data"))
    file.unlink()
    file.symlink_to(file.with_name("data"))


@pytest.mark.parametrize("change", [replace_file, move_link, lambda file: file.write_text("other\n")])
def test_cached_secret_follows_its_file(file: Path, change: Callable[[Path], object]) -> None:
    secret = CachedSecret(str(file), KEY)
    assert [secret.read(), secret.read()] == ["first", "first"]
    change(file)
    assert [secret.read(), secret.read()] == ["other", "other"]


def test_cached_secret_is_not_read_again_without_a_change(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = CachedSecret(str(file), KEY)
    secret.read()
    monkeypatch.setattr(secret_files, "read_secret", None)
    assert secret.read() == "first"


def test_cached_failure_is_looked_at_again_after_a_while(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = CachedSecret(str(file), KEY)
    assert secret.read() == "first"
    file.unlink()
    for _ in range(2):
        with pytest.raises(Retryable, match="No such file"):
            secret.read()
    # The same file as before, so to speak, and yet read again.
    file.write_text("first\n")
    with pytest.raises(Retryable, match="No such file"):
        secret.read()
    monkeypatch.setattr(secret_files, "_AGAIN_SECONDS", 0.0)
    assert secret.read() == "first"
