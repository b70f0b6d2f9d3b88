"""Gitea and Forgejo. The base address of `http` ends in `/api/v1`.

Checked against Gitea 1.26.0. Forgejo follows Gitea's API as of 1.22.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from reconciler.forge.answers import at, integer, is_ours, items, login_of, numbered_pages, requests_into, text
from reconciler.forge.checks import Right, probe, reach
from reconciler.forge.comments import MARK
from reconciler.forge.http import ForgeAway, ForgeRefused, Http, LoginRefused, Request
from reconciler.forge.messages import Comment, CommitState, CommitStatus, Deployment, PullRequest
from reconciler.report.findings import CheckResult

_STATES = {state.value: state for state in CommitState}
_MOST_PAGES = 4
_PAGE = "50"  # Gitea gives no more at once, unless its admin raised that
_POST = Right(
    "post commit statuses",
    "under Settings, Applications, generate a token with `repository: Read and Write`, of a user who may write to the "
    "repository's code",
    ("statuses",),
)
_COMMENT = Right(
    "comment on pull requests",
    "forge.pull_requests: plan needs it: generate a token with `issue: Read and Write` as well",
    ("pull_requests",),
)
_TELL = Right(
    "tell whose it is",
    "forge.pull_requests: plan needs it, to find its own comment again: generate a token with `user: Read` as well",
    ("pull_requests",),
)
_WHO = Request("GET", "/user")


class Gitea:
    """One repository, `OWNER/NAME`."""

    def __init__(self, http: Http, repository: str) -> None:
        self._http, self._repository = http, repository
        self._path = f"/repos/{quote(repository)}"
        self._superseded = ""

    @property
    def name(self) -> str:
        return f"{self._http.called}, {self._repository}"

    def set_status(self, status: CommitStatus) -> None:
        body = {
            "context": status.context,
            "state": self._state(status.state),
            "description": status.description,
            "target_url": status.url,
        }
        path = f"{self._path}/statuses/{quote(status.revision)}"
        answer = self._http.ask(Request("POST", path, body=body, also_fine=(500,)))
        if answer.status == 500:
            # That is its answer for a commit that it does not have, too.
            self._find_commit(status.revision)
            raise ForgeAway(f"{self.name}: it failed to store a status (500); trying again later")

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        # What Gitea calls the least index is the last one first; by time, those of one second have no order.
        query = {"sort": "leastindex", "limit": _PAGE}
        pages = numbered_pages(
            self._http, Request("GET", f"{self._path}/commits/{quote(revision)}/statuses", query), _MOST_PAGES
        )
        for one in pages:
            state = _STATES.get(text(one, "status"))
            if text(one, "context") == context and state:
                return CommitStatus(revision, context, state, text(one, "description"))
        return None

    def set_deployment(self, deployment: Deployment) -> None:
        """Gitea has no deployments."""

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        query = {"state": "open", "sort": "recentupdate", "base_branch": base, "limit": _PAGE}
        pages = numbered_pages(self._http, Request("GET", f"{self._path}/pulls", query), _MOST_PAGES)
        return requests_into(base, map(_pull_request, pages))

    def comments(self, number: int) -> tuple[Comment, ...]:
        """Gitea gives all of them at once, and lets who may write edit those of others: a stranger's copy of our mark
        must not be taken for ours."""
        us = login_of(self._http, _WHO, "id")
        given = items(self._http.ask(Request("GET", f"{self._path}/issues/{number}/comments")))
        found = [_comment(item, us) for item in given if integer(item, "id")]
        if us is None and any(MARK in each.body for each in found):
            raise LoginRefused(f"{self.name}: whether a comment is our own cannot be told; {_TELL.fix}")
        return tuple(found)

    def add_comment(self, number: int, body: str) -> None:
        self._http.ask(Request("POST", f"{self._path}/issues/{number}/comments", body={"body": body}))

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        self._http.ask(Request("PATCH", f"{self._path}/issues/comments/{quote(comment)}", body={"body": body}))

    def check(self) -> tuple[CheckResult, ...]:
        """Gitea does not tell a token's scopes. Requests that are wrong do: who may not send them is refused first."""
        reached, answer = reach(self._http, self.name, Request("GET", self._path))
        if answer is None:
            return (reached,)
        fine = (404, 422)
        status = Request("POST", f"{self._path}/statuses/{'0' * 40}", body={"state": []}, also_fine=fine)
        comment = Request("PATCH", f"{self._path}/issues/comments/0", body={"body": []}, also_fine=fine)
        asked = ((_POST, status), (_COMMENT, comment), (_TELL, _WHO))
        return (reached, *(probe(self._http, right, request) for right, request in asked))

    def _state(self, state: CommitState) -> str:
        if state != CommitState.SUPERSEDED:
            return state.value
        if not self._superseded:
            self._superseded = superseded_in(text(self._http.ask(Request("GET", "/version")).body, "version"))
        return self._superseded

    def _find_commit(self, revision: str) -> None:
        """Raises ForgeRefused when there is none."""
        path = f"{self._path}/git/commits/{quote(revision)}"
        if self._http.ask(Request("GET", path, {"stat": "false", "files": "false"}, also_fine=(404,))).status == 404:
            raise ForgeRefused(f"{self.name}: it has no commit {revision}; was it pushed to another repository?", 404)


def superseded_in(version: str) -> str:
    """Gitea knows `skipped` from 1.25 on, and counts a `warning` as a failure since. Forgejo: `11.0.1+gitea-1.22.0`."""
    minor = re.search(r"(?:^|gitea-)1\.(\d{1,4})", version)
    return "skipped" if minor and int(minor[1]) >= 25 else "warning"


def _pull_request(item: Any) -> PullRequest:
    return PullRequest(
        number=integer(item, "number"),
        head=text(item, "head", "sha"),
        base=text(item, "base", "ref"),
        is_trusted=_is_trusted(item),
        title=text(item, "title"),
        url=text(item, "html_url"),
    )


def _is_trusted(item: Any) -> bool:
    """A branch of the repository itself. Who may only read can push to `refs/for/BRANCH`, which makes a pull request
    that counts as the repository's own: it has no label, as it has no branch."""
    branch = text(item, "head", "ref")
    is_own = integer(item, "head", "repo_id") == integer(item, "base", "repo_id") != 0
    return is_own and bool(branch) and branch == text(item, "head", "label")


def _comment(item: Any, us: Any) -> Comment:
    return Comment(str(integer(item, "id")), text(item, "body"), is_ours(at(item, "user", "id"), us))
