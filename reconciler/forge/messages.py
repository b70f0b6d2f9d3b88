"""What a forge is told, as data. Nothing here holds a secret: texts are scrubbed before they get in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

MOST_DESCRIPTION = 140
"""Characters; GitHub refuses more."""


class CommitState(StrEnum):
    """GitHub's words. `SUPERSEDED`: another revision is wanted now; each forge says that in its own way."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class CommitStatus:
    """One status of one commit: `revision` has 40 digits, `description` at most `MOST_DESCRIPTION` characters.

    A later one of the same revision and context replaces it. `url`: where to read more; may be empty.
    """

    revision: str
    context: str
    state: CommitState
    description: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What became of a revision on a target, for the forge's own view of deployments. `environment`: the target."""

    revision: str
    environment: str
    state: CommitState
    description: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class CommentSection:
    """One target's part of the one comment of a pull request. `text`: Markdown; empty takes it out.

    The comment is found again by a mark in it; sections of other targets, which other daemons wrote, stay as they are.
    """

    pull_request: int
    target: str
    text: str


@dataclass(frozen=True, slots=True)
class PullRequest:
    """An open one. `head`: the 40 digits of its newest commit. `is_trusted`: its branch is in our own repository."""

    number: int
    head: str
    base: str
    is_trusted: bool
    title: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Comment:
    """One of a pull request. `is_ours`: the login that we use wrote it; None: the forge does not tell."""

    id: str
    body: str
    is_ours: bool | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """One event, for one who is told by an HTTP POST.

    `receiver`: its name in the config. `about` is what changed, and `state` what it is now; a later notification of the
    same receiver and `about` replaces one that still waits. `at`: RFC 3339. Times, receiver and texts never hold a URL
    of the receiver, which may be secret.
    """

    receiver: str
    about: str
    state: str
    event: str
    source: str
    text: str
    at: str
    severity: Literal["info", "error"] = "error"
    target: str = ""
    service: str = ""
    revision: str = ""
    code: str = ""
    url: str = ""


Message: TypeAlias = CommitStatus | Deployment | CommentSection | Notification
