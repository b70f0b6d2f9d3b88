"""Which provider a config gets, how it says who we are, and what is loaded for it."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.forge import ForgeSettings
from reconciler.config.settings import Settings, SourceSettings
from reconciler.errors import Retryable, SettingsError
from reconciler.forge.open import authorization, open_forge
from reconciler.forge.remote import Kind
from tests.support import report_world


def config(folder: Path, url: str, **forge: Any) -> Settings:
    known = {"token_file": str(folder / "token")}
    return report_world.settings(
        folder, source=SourceSettings(url=url), forge=ForgeSettings.model_validate(known | forge)
    )


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("git@github.com:team/models.git", "GitHub, team/models"),
        ("git@github.example.com:team/models.git", "GitHub on github.example.com, team/models"),
        ("git@gitlab.com:team/sub/models.git", "GitLab, team/sub/models"),
        ("https://codeberg.org/team/models", "Gitea on codeberg.org, team/models"),
        ("git@bitbucket.org:team/models.git", "Bitbucket, team/models"),
        ("https://bitbucket.example.com/scm/ml/models.git", "Bitbucket Server on bitbucket.example.com, ml/models"),
        ("https://dev.azure.com/org/ml/_git/models", "Azure DevOps, org/ml/models"),
    ],
)
def test_forge_is_named_as_people_know_it(tmp_path: Path, url: str, name: str) -> None:
    assert open_forge(config(tmp_path, url)).name == name


def test_forge_without_a_login_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^forge\.token_file: "):
        open_forge(config(tmp_path, "git@github.com:team/models.git", token_file=None))


def test_forge_with_unreadable_certificates_fails_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    forge = open_forge(config(tmp_path, "git@github.com:team/models.git", ca_file=str(tmp_path / "nowhere.pem")))
    with pytest.raises(Retryable, match=r"^forge\.ca_file: "):
        forge.pull_requests("main")


@pytest.mark.parametrize(
    ("kind", "token", "scheme", "credentials"),
    [
        ("github", "t", "Bearer", "t"),
        ("gitlab", "t", "Bearer", "t"),
        ("gitea", "t", "Bearer", "t"),
        ("bitbucket", "t", "Bearer", "t"),
        ("bitbucket", "eve@example.com:t", "Basic", "eve@example.com:t"),
        ("bitbucket-server", "t", "Bearer", "t"),
        ("azure-devops", "t", "Basic", ":t"),
    ],
)
def test_token_is_sent_as_its_forge_wants_it(kind: Kind, token: str, scheme: str, credentials: str) -> None:
    found, _, value = authorization(kind, token).partition(" ")
    assert found == scheme
    assert (base64.b64decode(value).decode() if scheme == "Basic" else value) == credentials


def test_provider_is_loaded_only_when_it_is_used() -> None:
    """Also what signs the logins of an app."""
    script = "import sys, reconciler.forge.open; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    kinds = ("github", "github_app", "gitlab", "gitea", "bitbucket_cloud", "bitbucket_server", "azure_devops")
    assert not {f"reconciler.forge.{kind}" for kind in kinds} & set(loaded)
    assert not {"jwt", "cryptography"} & set(loaded)


def test_token_that_no_header_holds_is_named_without_it() -> None:
    with pytest.raises(Retryable, match=r"^forge\.token_file: ") as raised:
        authorization("gitea", "secret-→")
    assert "secret" not in str(raised.value)
