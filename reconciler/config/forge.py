"""Settings of what is told others: commit statuses, webhooks, notifications; and of who must have signed a commit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from reconciler.config.section import Section
from reconciler.config.values import CREDENTIAL, AbsolutePath, Count, Seconds, SecretFile, TargetName, matching

ForgeKind = Literal["auto", "none", "github", "gitlab", "gitea", "bitbucket", "bitbucket-server", "azure-devops"]
HttpsUrl = Annotated[str, matching(r"https://[^\s@?#]+", "an https URL: https://git.example.com")]
Repository = Annotated[str, matching(r"[^\s/?#%][^\s?#%]*[^\s/?#%]", "a path of the forge: OWNER/NAME")]
ServicePattern = Annotated[str, matching(r"[-a-z0-9*]{1,63}/[-a-z0-9*]{1,63}", "NAMESPACE/NAME, each may have `*`")]


class GitHubApp(Section):
    """A GitHub App: its tokens last an hour and are asked for as needed. Needs the extra `github-app`."""

    id: Count = Field(description="Its App ID")
    installation: Count | None = Field(None, description="Its installation; unset: the repository's")
    key_file: SecretFile = Field(description="Its private key, PEM: a file or `credential:NAME`")


class ForgeSettings(Section):
    """Where commits are answered. Nothing is posted without a token or an app."""

    kind: ForgeKind = Field("auto", description="Which API it speaks; `auto`: guessed from its host; `none`: no answer")
    url: HttpsUrl | None = Field(None, description="Its address; unset: the host of source.url")
    repository: Repository | None = Field(None, description="OWNER/NAME there; unset: the path of source.url")
    token_file: SecretFile | None = Field(
        None, description="Token that may write commit statuses: a file, or `credential:NAME` (systemd's)"
    )
    app: GitHubApp | None = Field(None, description="A GitHub App instead of a token")
    ca_file: AbsolutePath | None = Field(None, description="CA certificates instead of the system's")
    timeout: Seconds = Field(10.0, gt=0, description="Longest time that one request takes")
    statuses: Literal["target", "service", "aggregate", "none"] = Field(
        "target",
        description="`target`: one status per target; `service`: one per service as well; `aggregate`: one for many "
        "hosts, of failures only; `none`",
    )
    group: TargetName = Field("fleet", description="Names the status of `aggregate`: `reconciler/GROUP`")
    pull_requests: Literal["none", "plan"] = Field(
        "none", description="`plan`: answer pull requests with what they would change"
    )
    deployments: bool = Field(False, description="Report deployments too, one environment per target: GitHub, GitLab")
    give_up_after: Seconds = Field(86_400.0, gt=0, description="What could not be delivered so long is given up")

    @model_validator(mode="after")
    def _one_login(self) -> ForgeSettings:
        if self.token_file and self.app:
            raise ValueError("set either token_file or app")
        if self.app and self.kind not in ("auto", "github"):
            raise ValueError("app: only GitHub has apps; set token_file")
        return self

    @property
    def is_used(self) -> bool:
        return self.kind != "none" and bool(self.token_file or self.app)

    @property
    def files(self) -> list[Path]:
        """Closed to services."""
        return files_of(self.token_file, self.app.key_file if self.app else None)


class WebhookSettings(Section):
    """One who may say that something was pushed. A hint only: git is asked, and polled as well."""

    name: TargetName = Field(description="Last part of its path: `/webhooks/NAME`")
    kind: Literal["github", "gitlab", "gitea", "bitbucket", "generic"] = Field(
        description="How it signs; `gitea` is Forgejo as well; `generic`: `X-Signature: sha256=HMAC`"
    )
    secret_file: SecretFile = Field(description="The secret that it shares with us: a file or `credential:NAME`")

    @property
    def files(self) -> list[Path]:
        return files_of(self.secret_file)


class NotificationSettings(Section):
    """One who is told of events by an HTTP POST."""

    name: TargetName = Field(description="What status and logs call it")
    kind: Literal["cloudevents", "slack"] = Field("cloudevents", description="The form of the body")
    url_file: SecretFile = Field(description="Its https URL, which may hold a token: a file or `credential:NAME`")
    secret_file: SecretFile | None = Field(
        None, description="Signs each body: `X-Signature: sha256=HMAC`; a file or `credential:NAME`"
    )
    ca_file: AbsolutePath | None = Field(None, description="CA certificates instead of the system's")
    severity: Literal["info", "error"] = Field("error", description="`error`: faults and their end; `info`: all")
    services: tuple[ServicePattern, ...] = Field(("*/*",), description="Which services: NAMESPACE/NAME with `*`")

    @property
    def files(self) -> list[Path]:
        return files_of(self.url_file, self.secret_file)


class VerifySettings(Section):
    """Which commits are believed. git and gpg or ssh-keygen decide."""

    mode: Literal["none", "head", "tag", "every"] = Field(
        "none",
        description="`head`: the revision's commit is signed; `tag`: its tag is; `every`: each commit since the last "
        "accepted revision is",
    )
    gpg_keys_file: AbsolutePath | None = Field(None, description="Public keys that are trusted, as gpg exports them")
    allowed_signers_file: AbsolutePath | None = Field(
        None, description="SSH keys that are trusted, in the form of ssh-keygen's ALLOWED SIGNERS"
    )

    @model_validator(mode="after")
    def _has_keys(self) -> VerifySettings:
        if self.mode != "none" and not (self.gpg_keys_file or self.allowed_signers_file):
            raise ValueError("name whom to trust: gpg_keys_file, allowed_signers_file, or both")
        return self


def files_of(*places: str | None) -> list[Path]:
    """Those of the places that are files."""
    return [Path(place) for place in places if place and not place.startswith(CREDENTIAL)]
