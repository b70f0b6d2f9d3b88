"""Settings of the daemon's own HTTP side: where it listens, who may see and do what there, and other daemons' pages."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from reconciler.config.forge import HttpsUrl, WebhookSettings, files_of
from reconciler.config.section import Section
from reconciler.config.values import (
    AbsolutePath,
    Seconds,
    SecretFile,
    TargetName,
    WebListen,
    is_loopback,
    matching,
    reachable,
)

PageUrl = Annotated[str, matching(r"https?://[^\s@?#/]+/?", "a URL without a path: https://models.example.com")]
Role = Literal["viewer", "operator"]
Sha256 = Annotated[str, matching(r"[0-9a-f]{64}", "the SHA-256 of a token in 64 hexadecimal digits")]
HeaderName = Annotated[str, matching(r"[A-Za-z0-9-]{1,64}", "the name of an HTTP header: X-Forwarded-User")]
Group = Annotated[str, Field(min_length=1, max_length=256)]


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError(
            f'"{text[:80]}" is neither an IP address nor a network; write 10.0.0.5 or 10.0.0.0/24'
        ) from None
    return text


Network = Annotated[str, AfterValidator(_network)]


class TlsSettings(Section):
    """The daemon's port speaks TLS. Both files are read again when they change."""

    certificate_file: AbsolutePath = Field(description="Certificate and its chain, PEM")
    key_file: SecretFile = Field(description="Its private key, PEM: a file or `credential:NAME`")

    @property
    def files(self) -> list[Path]:
        return files_of(self.key_file)


class TokenSettings(Section):
    """One token that somebody sends as `Authorization: Bearer TOKEN`, or logs in with."""

    name: TargetName = Field(description="Whose it is: what history and the log call them")
    sha256: Sha256 = Field(
        description="SHA-256 of the token: `openssl rand -hex 32 | tee TOKEN | tr -d '\\n' | sha256sum`"
    )
    role: Role = Field("viewer", description="`viewer`: see the pages; `operator`: act as well")


class OidcSettings(Section):
    """Login with an identity provider that speaks OpenID Connect. Needs the extra `oidc`, and `web.url`."""

    issuer: HttpsUrl = Field(description="Its address, below which `/.well-known/openid-configuration` is")
    client_id: Annotated[str, Field(min_length=1)] = Field(description="What it calls this daemon")
    client_secret_file: SecretFile = Field(description="The client's secret: a file or `credential:NAME`")
    scopes: tuple[Group, ...] = Field(("openid", "profile", "email"), description="Scopes that are asked for")
    name_claim: Group = Field("email", description="Claim that names a person in history and the log")
    groups_claim: Group = Field("groups", description="Claim that lists a person's groups")
    viewers: tuple[Group, ...] = Field((), description="Groups that may see the pages; `*`: whoever can log in")
    operators: tuple[Group, ...] = Field((), description="Groups that may act as well")
    ca_file: AbsolutePath | None = Field(None, description="CA certificates instead of the system's")

    @property
    def files(self) -> list[Path]:
        return files_of(self.client_secret_file)


class TrustedProxySettings(Section):
    """A reverse proxy that logs people in and names them in a header."""

    addresses: tuple[Network, ...] = Field(min_length=1, description="Addresses or networks that it connects from")
    user_header: HeaderName = Field("X-Forwarded-User", description="Header that names the person")
    groups_header: HeaderName = Field("X-Forwarded-Groups", description="Header with their groups, between commas")
    viewers: tuple[Group, ...] = Field((), description="Groups that may see the pages; `*`: whoever it names")
    operators: tuple[Group, ...] = Field((), description="Groups that may act as well")


class AuthSettings(Section):
    """Who may see the pages and act on them. Unset: on a loopback address all see them, and nobody acts."""

    tokens: tuple[TokenSettings, ...] = Field((), description="Static tokens")
    oidc: OidcSettings | None = Field(None, description="Login with an identity provider")
    proxy: TrustedProxySettings | None = Field(None, description="Login by a reverse proxy")
    session: Seconds = Field(43_200.0, ge=60, description="How long a login lasts")

    @property
    def is_used(self) -> bool:
        return bool(self.tokens or self.oidc or self.proxy)


class PeerSettings(Section):
    """Another daemon, whose page is part of the Overview here."""

    name: TargetName = Field(description="What the Overview calls it")
    url: PageUrl = Field(description="Its `web.url`: its row leads there")
    token_file: SecretFile | None = Field(
        None, description="A token of its `web.auth.tokens` with the role `viewer`: a file or `credential:NAME`"
    )
    ca_file: AbsolutePath | None = Field(None, description="CA certificates instead of the system's")

    @property
    def files(self) -> list[Path]:
        return files_of(self.token_file)

    @model_validator(mode="after")
    def _token_is_not_for_all_to_read(self) -> PeerSettings:
        host = urlsplit(self.url).hostname or ""
        if self.token_file and self.url.startswith("http:") and not is_loopback(f"{host}:80"):
            raise ValueError("token_file needs an https url: anybody on the way would read the token")
        return self


class Web(Section):
    """The daemon's own HTTP side."""

    listen: WebListen = Field(
        "127.0.0.1:9464", description="Address of the page, /healthz, /readyz, /metrics, /prometheus/sd and webhooks"
    )
    url: PageUrl | None = Field(
        None, description="Where people reach the page: commit statuses link to it, a login leads back to it"
    )
    tls: TlsSettings | None = Field(None, description="TLS on this port")
    auth: AuthSettings = Field(default_factory=AuthSettings, description="Who may see the pages and act on them")
    peers: tuple[PeerSettings, ...] = Field(
        (), max_length=2000, description="Other daemons, which the Overview shows in one row each"
    )
    webhooks: tuple[WebhookSettings, ...] = Field(
        (), description="Who may say that something was pushed, at `POST /webhooks/NAME`"
    )

    @model_validator(mode="after")
    def _oidc_leads_back(self) -> Web:
        if self.auth.oidc and not self.url:
            raise ValueError("auth.oidc needs url, where a login leads back to")
        return self

    @property
    def is_https(self) -> bool:
        """Do browsers reach us by TLS, ours or a proxy's?"""
        return self.tls is not None or (self.url or "").startswith("https://")

    @property
    def address(self) -> str:
        """Where people reach the page: `url`, or else what this machine reaches. Without a slash at its end."""
        return (self.url or f"{'https' if self.tls else 'http'}://{reachable(self.listen)}").rstrip("/")

    @property
    def files(self) -> list[Path]:
        """Closed to services."""
        sections = (self.tls, self.auth.oidc, *self.peers, *self.webhooks)
        return [path for section in sections if section for path in section.files]
