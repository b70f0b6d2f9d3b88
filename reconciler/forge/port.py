"""The port of forges: the few things that every provider does."""

from __future__ import annotations

from typing import Protocol

from reconciler.forge.messages import Comment, CommitStatus, Deployment, PullRequest
from reconciler.report.findings import CheckResult


class Forge(Protocol):
    """One repository on one forge. Each call is one or a few requests, in the caller's thread; each may be repeated.

    All raise `Retryable` (away, busy with `retry_at`, login refused: a new token may come) and `Terminal` (the forge
    refuses this message and would refuse it again): see `forge/http.py`.
    """

    @property
    def name(self) -> str:
        """What people read: `GitHub, owner/name`."""
        ...

    def set_status(self, status: CommitStatus) -> None:
        """A commit that the forge does not know is Terminal. The forge's cap of statuses per commit counts as done."""
        ...

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        """The newest status of a context, without its URL; None: there is none."""
        ...

    def set_deployment(self, deployment: Deployment) -> None:
        """Does nothing where the forge has no deployments."""
        ...

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        """The open ones into a branch, at most some hundred, the latest changed first."""
        ...

    def comments(self, number: int) -> tuple[Comment, ...]:
        """Of a pull request, oldest first; only those that may be ours need be complete."""
        ...

    def add_comment(self, number: int, body: str) -> None: ...

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        """`comment`: an id that `comments` gave. Raises Terminal when it is gone."""
        ...

    def check(self) -> tuple[CheckResult, ...]:
        """For `doctor`: is it reachable, is the token accepted, what may it do."""
        ...
