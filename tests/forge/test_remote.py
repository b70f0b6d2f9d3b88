"""Which forge a remote's address means, and which repository there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.forge import ForgeSettings
from reconciler.errors import SettingsError
from reconciler.forge.remote import Remote, find_remote

GITHUB = ("github", "https://api.github.com", "team/models")
GITLAB = ("gitlab", "https://gitlab.com/api/v4", "group/sub/models")
BITBUCKET = ("bitbucket", "https://api.bitbucket.org/2.0", "team/models")
AZURE = ("azure-devops", "https://dev.azure.com", "org/project/models")
GUESSED = {
    "https://github.com/team/models": GITHUB,
    "https://github.com/team/models.git": GITHUB,
    "https://token@GitHub.com:443/team/models.git/": GITHUB,
    "git@github.com:team/models.git": GITHUB,
    "git@github.com:/team/models.git": GITHUB,
    "ssh://git@github.com/team/models.git": GITHUB,
    "ssh://git@ssh.github.com:443/team/models.git": GITHUB,
    "https://team.ghe.com/team/models": ("github", "https://api.team.ghe.com", "team/models"),
    "https://github.example.com:8443/team/models": ("github", "https://github.example.com:8443/api/v3", "team/models"),
    "ssh://git@github.example.com:2222/a/b.git": ("github", "https://github.example.com/api/v3", "a/b"),
    "https://gitlab.com/group/sub/models.git": GITLAB,
    "git@gitlab.com:group/sub/models.git": GITLAB,
    "ssh://git@altssh.gitlab.com:443/group/sub/models.git": GITLAB,
    "git@gitlab.example.com:a/b.git": ("gitlab", "https://gitlab.example.com/api/v4", "a/b"),
    "https://codeberg.org/team/models.git": ("gitea", "https://codeberg.org/api/v1", "team/models"),
    "https://gitea.example.com/a/b": ("gitea", "https://gitea.example.com/api/v1", "a/b"),
    "git@forgejo.example.com:a/b.git": ("gitea", "https://forgejo.example.com/api/v1", "a/b"),
    "https://user@bitbucket.org/team/models.git": BITBUCKET,
    "git@bitbucket.org:team/models.git": BITBUCKET,
    "https://git.example.com/scm/ml/models.git": ("bitbucket-server", "https://git.example.com/rest", "ml/models"),
    "https://git.example.com/code/scm/~eve/models.git": (
        "bitbucket-server",
        "https://git.example.com/code/rest",
        "~eve/models",
    ),
    "ssh://git@bitbucket.example.com:7999/ml/models.git": (
        "bitbucket-server",
        "https://bitbucket.example.com/rest",
        "ml/models",
    ),
    "https://org@dev.azure.com/org/project/_git/models": AZURE,
    "git@ssh.dev.azure.com:v3/org/project/models": AZURE,
    "org@vs-ssh.visualstudio.com:v3/org/project/models": AZURE,
    "https://org.visualstudio.com/project/_git/models": AZURE,
    "https://org.visualstudio.com/DefaultCollection/project/_git/models": AZURE,
    "https://dev.azure.com/org/_git/models": ("azure-devops", "https://dev.azure.com", "org/models/models"),
    "https://dev.azure.com/org/My%20Project/_git/models": (
        "azure-devops",
        "https://dev.azure.com",
        "org/My Project/models",
    ),
    "https://devops.example.com/tfs/Main/project/_git/models": (
        "azure-devops",
        "https://devops.example.com/tfs",
        "Main/project/models",
    ),
}


def settings(**values: object) -> ForgeSettings:
    return ForgeSettings.model_validate({"token_file": "/run/token", **values})


def parts(remote: Remote) -> tuple[str, str, str]:
    return remote.kind, remote.api, remote.repository


@pytest.mark.parametrize("url", GUESSED)
def test_remote_of_a_known_form_is_guessed(url: str) -> None:
    assert parts(find_remote(url, settings())) == GUESSED[url]


def test_remote_on_an_unknown_host_names_the_key_to_set() -> None:
    with pytest.raises(SettingsError, match=r"^forge\.kind: git\.example\.com does not say"):
        find_remote("git@git.example.com:a/b.git", settings())


def test_remote_on_this_machine_asks_for_a_forge() -> None:
    with pytest.raises(SettingsError, match=r"set forge\.kind, forge\.url and forge\.repository"):
        find_remote("/srv/models.git", settings(kind="github"))


def test_remote_on_this_machine_is_overridden() -> None:
    named = settings(kind="gitea", url="https://127.0.0.1:3000/", repository="a/b")
    assert parts(find_remote("/srv/models.git", named)) == ("gitea", "https://127.0.0.1:3000/api/v1", "a/b")


@pytest.mark.parametrize(
    ("url", "values", "found"),
    [
        ("git@git.example.com:a/b.git", {"kind": "gitea"}, ("gitea", "https://git.example.com/api/v1", "a/b")),
        (
            "https://www.example.com/git/a/b",
            {"kind": "gitlab", "url": "https://www.example.com/git"},
            ("gitlab", "https://www.example.com/git/api/v4", "a/b"),
        ),
        ("git@mirror:a/b.git", {"url": "https://api.github.com"}, ("github", "https://api.github.com", "a/b")),
        (
            "git@mirror:a/b",
            {"url": "https://github.com", "repository": "c/d"},
            ("github", "https://api.github.com", "c/d"),
        ),
        (
            "git@mirror:a/b",
            {"url": "https://github.example.com/api/v3"},
            ("github", "https://github.example.com/api/v3", "a/b"),
        ),
        (
            "git@mirror:a/b",
            {"app": {"id": 1, "key_file": "/k"}, "token_file": None},
            ("github", "https://mirror/api/v3", "a/b"),
        ),
    ],
)
def test_remote_that_is_named_is_taken(url: str, values: dict[str, object], found: tuple[str, str, str]) -> None:
    assert parts(find_remote(url, settings(**values))) == found


@pytest.mark.parametrize(
    "url",
    [
        "git@github.com:models.git",
        "https://gitea.example.com/git/a/b",
        "https://github.com/a/%2e%2e",
        "git@gitlab.com:a",
    ],
)
def test_remote_with_another_path_asks_for_the_repository(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^forge\.repository: "):
        find_remote(url, settings())


names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)


@given(
    names, names, st.sampled_from(["https://u@{h}/{p}", "git@{h}:{p}", "ssh://git@{h}/{p}", "ssh://git@{h}:222/{p}"])
)
def test_remote_is_the_same_over_every_protocol(owner: str, name: str, form: str) -> None:
    for suffix in ("", ".git"):
        found = find_remote(form.format(h="gitea.example.com", p=f"{owner}/{name}{suffix}"), settings())
        assert parts(found) == ("gitea", "https://gitea.example.com/api/v1", f"{owner}/{name}")
