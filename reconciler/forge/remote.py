"""Which forge has the repository, and its name there: guessed from `source.url`, overridden by `forge`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from reconciler.config.forge import ForgeSettings
from reconciler.errors import SettingsError
from reconciler.formats.git_address import Address, parse_address

Kind = Literal["github", "gitlab", "gitea", "bitbucket", "bitbucket-server", "azure-devops"]

_AZURE = "dev.azure.com"
_VISUAL_STUDIO = ".visualstudio.com"
# GitHub Enterprise Cloud with data residency: each customer has a host, and the API one beside it.
_GHE_CLOUD = ".ghe.com"
_PUBLIC: dict[str, tuple[Kind, str]] = {
    "github.com": ("github", "https://api.github.com"),
    "gitlab.com": ("gitlab", "https://gitlab.com/api/v4"),
    "codeberg.org": ("gitea", "https://codeberg.org/api/v1"),
    "bitbucket.org": ("bitbucket", "https://api.bitbucket.org/2.0"),
    _AZURE: ("azure-devops", "https://dev.azure.com"),
}
# Other names of these: for ssh, for the API.
_ALIASES = {
    "api.github.com": "github.com",
    "ssh.github.com": "github.com",
    "www.github.com": "github.com",
    "altssh.gitlab.com": "gitlab.com",
    "api.bitbucket.org": "bitbucket.org",
    "altssh.bitbucket.org": "bitbucket.org",
    "ssh.dev.azure.com": _AZURE,
}
_IN_HOST_NAMES: dict[str, Kind] = {
    "github": "github",
    "gitlab": "gitlab",
    "gitea": "gitea",
    "forgejo": "gitea",
    "bitbucket": "bitbucket-server",
}
_API_PATHS: dict[Kind, str] = {
    "github": "/api/v3",
    "gitlab": "/api/v4",
    "gitea": "/api/v1",
    "bitbucket": "/2.0",
    "bitbucket-server": "/rest",
    "azure-devops": "",
}
_FORMS: dict[Kind, str] = {
    "github": "OWNER/NAME",
    "gitlab": "GROUP/NAME",
    "gitea": "OWNER/NAME",
    "bitbucket": "WORKSPACE/NAME",
    "bitbucket-server": "PROJECT/NAME",
    "azure-devops": "ORGANIZATION/PROJECT/NAME",
}


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository on a forge. `api`: base address of its API, without a slash at its end; `host`: of its pages.

    `repository` is not quoted and has the form that `_FORMS` says; GitLab's may have more groups.
    """

    kind: Kind
    api: str
    host: str
    repository: str


def find_remote(url: str, settings: ForgeSettings) -> Remote:
    """`url`: that of `source`. Raises SettingsError, which names the key to set."""
    address = parse_address(url)
    if not (address.host or (settings.url and settings.repository)):
        raise SettingsError(
            f"forge: {address.shown} is on this machine, so no forge is known; set forge.kind, forge.url and "
            "forge.repository, or take out forge.token_file and forge.app"
        )
    host = _host(address, settings)
    kind = _kind(address, host, settings)
    before, path = _parts(kind, address, settings)
    return Remote(kind, _api(kind, host, before, settings), host, _checked(kind, settings.repository or "/".join(path)))


def pages_of(remote: Remote) -> str:
    """Base address of the forge's pages, without a slash at its end."""
    if remote.host in _PUBLIC or remote.host.endswith(_GHE_CLOUD):
        return f"https://{remote.host.removeprefix('api.')}"
    return remote.api.removesuffix(_API_PATHS[remote.kind])


def _host(address: Address, settings: ForgeSettings) -> str:
    """Of the forge's pages, with its port. That of ssh says nothing of https."""
    named = urlsplit(settings.url).netloc if settings.url else address.host
    is_https = bool(settings.url) or address.scheme == "https"
    host = re.sub(":443$" if is_https else r":\d+$", "", named.lower())
    return _AZURE if host.endswith(_VISUAL_STUDIO) else _ALIASES.get(host, host)


def _kind(address: Address, host: str, settings: ForgeSettings) -> Kind:
    if settings.kind != "auto" and settings.kind != "none":
        return settings.kind
    if settings.app:
        return "github"
    if host in _PUBLIC:
        return _PUBLIC[host][0]
    found = _kind_of_path(address)
    if kind := found or next((kind for word, kind in _IN_HOST_NAMES.items() if word in host), None):
        return kind
    if host.endswith(_GHE_CLOUD):
        return "github"
    raise SettingsError(
        f"forge.kind: {host} does not say by its name which forge it is; set forge.kind to github, gitlab, gitea (also "
        "for Forgejo), bitbucket-server or azure-devops, or take out forge.token_file"
    )


def _kind_of_path(address: Address) -> Kind | None:
    parts = address.remote_path.split("/")
    if "_git" in parts:
        return "azure-devops"
    return "bitbucket-server" if address.scheme == "https" and "scm" in parts[:-2] else None


def _parts(kind: Kind, address: Address, settings: ForgeSettings) -> tuple[str, list[str]]:
    """The path under which a forge of one's own has its pages (`/tfs`, or empty), and the repository's."""
    parts = address.remote_path.removesuffix(".git").split("/")
    if settings.url and address.scheme == "https":
        before = [part for part in urlsplit(settings.url).path.split("/") if part]
        parts = parts[len(before) :] if parts[: len(before)] == before else parts
    if kind == "azure-devops":
        return _azure(address, parts)
    if kind == "bitbucket-server" and "scm" in parts[:-2]:
        at = parts.index("scm")
        return "".join(f"/{part}" for part in parts[:at]), parts[at + 1 :]
    return "", parts


def _azure(address: Address, parts: list[str]) -> tuple[str, list[str]]:
    """`ORGANIZATION/PROJECT/_git/NAME`, over ssh `v3/ORGANIZATION/PROJECT/NAME`; a project's first repository has its
    name, and needs no project then. Older addresses have the organization in the host's name."""
    if "_git" not in parts:
        return "", parts[1:] if parts[0] == "v3" else parts
    at = parts.index("_git")
    before, name = parts[:at], parts[-1]
    organization, _, rest = address.host.lower().partition(".")
    if f".{rest}" == _VISUAL_STUDIO:
        before = [organization, *(part for part in before if part.lower() != "defaultcollection")]
    before = before if len(before) > 1 else [*before, name]
    return "".join(f"/{part}" for part in before[:-2]), [*before[-2:], name]


def _api(kind: Kind, host: str, before: str, settings: ForgeSettings) -> str:
    if host in _PUBLIC and _PUBLIC[host][0] == kind:
        return _PUBLIC[host][1]
    if kind == "github" and host.endswith(_GHE_CLOUD):
        return f"https://api.{host.removeprefix('api.')}"
    base = settings.url.rstrip("/") if settings.url else f"https://{host}{before}"
    return base.removesuffix(_API_PATHS[kind]) + _API_PATHS[kind]


def _checked(kind: Kind, repository: str) -> str:
    parts, form = repository.split("/"), _FORMS[kind]
    fits = len(parts) == len(form.split("/")) or (kind == "gitlab" and len(parts) > 1)
    if fits and repository.isprintable() and not {"", ".", ".."} & set(parts):
        return repository
    raise SettingsError(
        f"forge.repository: {repository[:200]!a} is not {form}; set it to what the forge's pages call the repository, "
        "and forge.url where these are not at the root of their host"
    )
