"""The login of a GitHub App: signed by its key, for its installation, renewed in time."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from reconciler.errors import Retryable, SettingsError
from reconciler.forge.http import LoginRefused
from reconciler.forge.messages import Comment, CommitState, CommitStatus
from reconciler.forge.port import Forge
from tests.forge.github_api import APP_ID, GitHubApi, refusal, written
from tests.forge.github_description import description
from tests.forge.github_parts import provider
from tests.forge.local_forge import Asked, LocalForge, Reply, local_forge

pytestmark = pytest.mark.forge

HEAD = "a" * 40
STATUS = CommitStatus(HEAD, "reconciler/gpu-1", CommitState.SUCCESS, "2 updated")
INSTALLATION = 99
LASTS = 3600.0


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem() -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key().private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@dataclass
class AppApi:
    """GitHub where an app is installed: what it gives tokens for, GitHub answers. `tokens`: all that it gave."""

    github: GitHubApi
    installation: int | None = INSTALLATION
    tokens: list[str] = field(default_factory=list)
    lasts: float = LASTS

    def __call__(self, asked: Asked) -> Reply:
        path = asked.path.removeprefix("/api/v3")
        if not path.endswith(("/installation", "/access_tokens")):
            return self.github(asked)
        template = self.github.description.template(path)
        self.github.problems += self.github.description.problems(
            Asked(asked.method, path, {}, asked.headers, asked.body)
        )
        if (why := _unsigned(asked.headers.get("authorization", ""))) is not None:
            return refusal(401, why)
        if asked.method == "GET":
            example = self.github.description.example(template, "get", 200)
            return Reply(200, {**example, "id": self.installation}) if self.installation else refusal(404, "Not Found")
        if path != f"/app/installations/{self.installation}/access_tokens":
            return refusal(404, "Not Found")
        return self._give(asked, template)

    def _give(self, asked: Asked, template: str) -> Reply:
        assert asked.body == {"repositories": ["models"]}
        self.tokens.append(f"installation-{len(self.tokens)}")
        self.github.token = self.tokens[-1]
        ends = datetime.fromtimestamp(time.time() + self.lasts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        example = self.github.description.example(template, "post", 201)
        return Reply(201, {**example, "token": self.tokens[-1], "expires_at": ends})


def _unsigned(authorization: str) -> str | None:
    """What GitHub says of a login that no key of the app signed, or not for at most ten minutes."""
    try:
        claims = jwt.decode(authorization.removeprefix("Bearer "), key().public_key(), ["RS256"], issuer=str(APP_ID))
    except jwt.PyJWTError:
        return "A JSON web token could not be decoded"
    if claims["exp"] - time.time() > 600:
        return "'Expiration time' claim ('exp') is too far in the future"
    return None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalForge]:
    with local_forge(tmp_path_factory.mktemp("github"), lambda asked: Reply(500)) as server:
        yield server


@pytest.fixture
def api(server: LocalForge) -> Iterator[AppApi]:
    server.answer = api = AppApi(GitHubApi(description(), commits={HEAD}))
    server.asked.clear()
    yield api
    assert not api.github.problems


def app(server: LocalForge, folder: Path, **values: Any) -> Forge:
    path = folder / "key.pem"
    if not path.exists():
        path.write_bytes(pem())
    return provider(server, folder, app={"id": APP_ID, "key_file": str(path), **values})


def test_app_finds_its_installation_by_the_repository(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    app(server, tmp_path).set_status(STATUS)
    assert api.github.shown(HEAD)
    assert [asked.path.removeprefix("/api/v3") for asked in server.asked][:2] == [
        "/repos/team/models/installation",
        f"/app/installations/{INSTALLATION}/access_tokens",
    ]


def test_app_with_a_configured_installation_asks_for_none(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    app(server, tmp_path, installation=INSTALLATION).set_status(STATUS)
    assert not [asked for asked in server.asked if asked.path.endswith("/installation")]


def test_token_of_an_app_is_kept_until_shortly_before_its_end(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    github = app(server, tmp_path)
    for _ in range(3):
        github.set_status(STATUS)
    assert len(api.tokens) == 1
    api.lasts = 240.0
    github = app(server, tmp_path)
    for _ in range(3):
        github.set_status(STATUS)
    assert len(api.tokens) == 4


def test_token_of_an_app_is_asked_for_once_by_many_threads(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    github = app(server, tmp_path)
    threads = [threading.Thread(target=github.set_status, args=(STATUS,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(api.tokens) == 1
    assert len(api.github.statuses) == 8


def test_revoked_token_of_an_app_is_replaced(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    github = app(server, tmp_path)
    github.set_status(STATUS)
    api.github.token = "revoked"
    with pytest.raises(LoginRefused):
        github.set_status(STATUS)
    github.set_status(STATUS)
    assert len(api.tokens) == 2


def test_app_that_is_not_installed_says_so(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    api.installation = None
    github = app(server, tmp_path)
    with pytest.raises(LoginRefused, match="404 Not Found; install the app for team/models"):
        github.set_status(STATUS)
    api.installation = INSTALLATION
    github.set_status(STATUS)


def test_app_of_another_key_is_told_what_to_check(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    form = serialization.PrivateFormat.PKCS8
    other = rsa.generate_private_key(65537, 2048)
    (tmp_path / "key.pem").write_bytes(
        other.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    )
    with pytest.raises(
        LoginRefused, match=r"could not be decoded; check forge\.app\.id, forge\.app\.key_file and this"
    ):
        app(server, tmp_path).set_status(STATUS)


def test_key_of_an_app_that_is_none_is_not_repeated(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("-----BEGIN RSA PRIVATE KEY-----\nsecret-words\n-----END RSA PRIVATE KEY-----\n")
    github = app(server, tmp_path)
    with pytest.raises(Retryable, match=r"forge\.app\.key_file: .*key\.pem is no RSA private key in PEM") as raised:
        github.set_status(STATUS)
    assert "secret-words" not in str(raised.value)
    assert raised.value.__cause__ is None
    (tmp_path / "key.pem").write_bytes(pem())
    github.set_status(STATUS)


def test_app_without_what_signs_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("reconciler.forge.github_app.find_spec", lambda name: None if name == "jwt" else found(name))
    from reconciler.forge.github_app import AppKey

    with pytest.raises(SettingsError, match=r"^forge\.app: needs PyJWT with cryptography; run: .* -m pip install"):
        AppKey(APP_ID, "/nowhere")


def test_comments_of_an_app_are_told_by_the_app(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    api.github.comments[7] = [written(1, "hello", app=APP_ID + 1), written(2, "ours", app=APP_ID), written(3, "hi")]
    assert app(server, tmp_path).comments(7) == (
        Comment("1", "hello", False),
        Comment("2", "ours", True),
        Comment("3", "hi", False),
    )


def test_check_of_an_app_tells_what_it_may(server: LocalForge, api: AppApi, tmp_path: Path) -> None:
    api.github.permissions = {"statuses"}
    found = [one.message.partition(":")[0] for one in app(server, tmp_path).check()[1:]]
    assert found == [
        "the token may post commit statuses",
        "the token may not read pull requests",
        "the token may not report deployments",
    ]
