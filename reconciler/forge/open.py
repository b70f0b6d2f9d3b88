"""The forge that a config means: the provider for it, and how it is told who we are."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Protocol

from reconciler.config.forge import ForgeSettings, GitHubApp
from reconciler.config.secret_files import read_secret
from reconciler.config.settings import Settings
from reconciler.errors import Retryable, SettingsError
from reconciler.forge.http import Http
from reconciler.forge.port import Forge
from reconciler.forge.remote import Kind, Remote, find_remote

CALLED: Mapping[Kind, str] = {
    "github": "GitHub",
    "gitlab": "GitLab",
    "gitea": "Gitea",
    "bitbucket": "Bitbucket",
    "bitbucket-server": "Bitbucket Server",
    "azure-devops": "Azure DevOps",
}
_PUBLIC_HOSTS = ("github.com", "gitlab.com", "bitbucket.org", "dev.azure.com")

Login = Callable[[], Mapping[str, str]]


class Provider(Protocol):
    """What each provider's class is. `repository`: that of `Remote`, not quoted."""

    def __call__(self, http: Http, repository: str) -> Forge: ...


def open_forge(settings: Settings) -> Forge:
    """Asks and reads nothing yet. Raises SettingsError where the config says too little."""
    forge = settings.forge
    remote = find_remote(settings.source.url, forge)
    if forge.app:
        return _as_app(remote, forge, forge.app)
    return _provider(remote.kind)(_http(remote, forge, _login(remote, forge)), remote.repository)


def _http(remote: Remote, forge: ForgeSettings, login: Login, refused: Callable[[], None] | None = None) -> Http:
    called = CALLED[remote.kind] + ("" if remote.host in _PUBLIC_HOSTS else f" on {remote.host}")
    return Http(remote.api, login, called=called, ca_file=forge.ca_file, timeout=forge.timeout, refused=refused)


def _as_app(remote: Remote, forge: ForgeSettings, app: GitHubApp) -> Forge:
    from reconciler.forge.github import GitHub
    from reconciler.forge.github_app import AppKey, Installation

    key = AppKey(app.id, app.key_file)
    installation = Installation(_http(remote, forge, key.login), remote.repository, app.installation)
    http = _http(remote, forge, installation.login, installation.forget)
    return GitHub(http, remote.repository, app.id)


def _provider(kind: Kind) -> Provider:
    """Imported only when it is used: commands that need none start fast."""
    if kind == "github":
        from reconciler.forge.github import GitHub

        return GitHub
    if kind == "gitea":
        from reconciler.forge.gitea import Gitea

        return Gitea
    if kind == "gitlab":
        from reconciler.forge.gitlab import GitLab

        return GitLab
    if kind == "bitbucket":
        from reconciler.forge.bitbucket_cloud import BitbucketCloud

        return BitbucketCloud
    if kind == "bitbucket-server":
        from reconciler.forge.bitbucket_server import BitbucketServer

        return BitbucketServer
    from reconciler.forge.azure_devops import AzureDevOps

    return AzureDevOps


def _login(remote: Remote, forge: ForgeSettings) -> Login:
    if forge.token_file is None:
        raise SettingsError("forge.token_file: is not set, so nobody could be answered; name the file of a token")
    place = forge.token_file
    return lambda: {"Authorization": authorization(remote.kind, read_secret(place, "forge.token_file"))}


def authorization(kind: Kind, token: str) -> str:
    """Azure DevOps takes a token as a password without a user; Bitbucket one of a person (`EMAIL:TOKEN`) with it.

    Raises Retryable for what no header holds.
    """
    if not token.isascii():
        raise Retryable("forge.token_file: no forge's token has other characters than ASCII's; write it anew")
    if kind == "azure-devops" or (kind == "bitbucket" and ":" in token):
        return f"Basic {b64encode((token if ':' in token else f':{token}').encode()).decode()}"
    return f"Bearer {token}"
