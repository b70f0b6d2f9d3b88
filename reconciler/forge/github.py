"""GitHub and GitHub Enterprise. The base address of `http` is `https://api.github.com`, or ends in `/api/v3`.

Checked against GitHub's own description of its API, version 2022-11-28, which GitHub Enterprise Server has as of 3.9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from reconciler.forge.answers import at, integer, is_ours, items, login_of, numbered_pages, requests_into, text
from reconciler.forge.checks import Right, probe, reach
from reconciler.forge.github_scopes import check_token
from reconciler.forge.http import Answer, ForgeRefused, Http, LoginRefused, Request
from reconciler.forge.messages import Comment, CommitState, CommitStatus, Deployment, PullRequest
from reconciler.report.findings import CheckResult

HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
# A comment has at most 256 KiB, which also a pull request's first one has: no page is larger than `Http` reads.
_PER_PAGE = "30"
_PAGES_OF_PULL_REQUESTS = 10
_PAGES_OF_COMMENTS = 20
# Tells our deployments from others' of the same commit and environment.
_TASK = "deploy:reconciler"
_NOWHERE = "0" * 40
_MOST_STANDING = 50
_STATES = {state.value: state for state in CommitState}
_DEPLOYMENT_STATES = {
    CommitState.PENDING: "in_progress",
    CommitState.SUCCESS: "success",
    CommitState.FAILURE: "failure",
    CommitState.ERROR: "error",
    CommitState.SUPERSEDED: "inactive",
}
_PERMISSION = "give the token, or the app, the repository permission"
_POST_STATUSES = Right("post commit statuses", f"{_PERMISSION} `Commit statuses: write`", ("statuses",))
_READ_PULL_REQUESTS = Right(
    "read pull requests", f"for forge.pull_requests, {_PERMISSION} `Pull requests: write`", ("pull_requests",)
)
_REPORT_DEPLOYMENTS = Right(
    "report deployments", f"for forge.deployments, {_PERMISSION} `Deployments: write`", ("deployments",)
)


@dataclass(frozen=True, slots=True)
class _Page:
    """Pull requests as they were when GitHub marked them with `etag`."""

    etag: str
    found: tuple[PullRequest, ...]
    has_next: bool


class GitHub:
    """One repository, `OWNER/NAME`. `app`: the id of the GitHub App that we are; None: the token is a user's."""

    def __init__(self, http: Http, repository: str, app: int | None = None) -> None:
        self._http, self._repository, self._app = http, repository, app
        self._path = f"/repos/{quote(repository)}"
        self._pages: dict[tuple[str, int], _Page] = {}
        self._standing: dict[str, tuple[str, tuple[CommitStatus, ...]]] = {}

    @property
    def name(self) -> str:
        return f"{self._http.called}, {self._repository}"

    def set_status(self, status: CommitStatus) -> None:
        state = CommitState.ERROR if status.state is CommitState.SUPERSEDED else status.state
        body = {"state": state.value, "context": status.context, "description": status.description}
        body |= {"target_url": status.url} if status.url else {}
        try:
            self._ask(_request("POST", f"{self._path}/statuses/{quote(status.revision)}", body=body))
        except ForgeRefused as error:
            if not _is_cap(error):
                raise self._explained(error, status.revision) from None

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        """Of what did not change since it was asked for last, nothing is sent, and nothing counts towards the limit."""
        etag, known = self._standing.get(revision, ("", ()))
        headers = {"If-None-Match": etag} if etag else {}
        path = f"{self._path}/commits/{quote(revision)}/status"
        answer = self._ask(_request("GET", path, {"per_page": "100"}, headers=headers))
        if answer.status != 304:
            known = tuple(
                CommitStatus(revision, text(one, "context"), state, text(one, "description"))
                for one in items(answer, "statuses")
                if (state := _STATES.get(text(one, "state")))
            )
            if len(self._standing) >= _MOST_STANDING:
                self._standing.pop(next(iter(self._standing)))
            self._standing[revision] = (answer.headers.get("etag", ""), known)
        return next((one for one in known if one.context == context), None)

    def set_deployment(self, deployment: Deployment) -> None:
        known = self._find_deployment(deployment)
        if not known and deployment.state is CommitState.SUPERSEDED:
            return
        known = known or self._create_deployment(deployment)
        body = {"state": _DEPLOYMENT_STATES[deployment.state], "description": deployment.description}
        body |= {"log_url": deployment.url} if deployment.url else {}
        self._ask(_request("POST", f"{self._path}/deployments/{known}/statuses", body=body))

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        """Pages that did not change are not sent again, and do not count towards GitHub's limit of requests."""
        found: dict[int, PullRequest] = {}
        for number in range(1, _PAGES_OF_PULL_REQUESTS + 1):
            page = self._page(base, number)
            found |= {request.number: request for request in page.found if request.number not in found}
            if not page.has_next:
                break
        return tuple(found.values())

    def comments(self, number: int) -> tuple[Comment, ...]:
        us = self._app or login_of(self._http, _request("GET", "/user"), "id")
        request = _request("GET", f"{self._path}/issues/{number}/comments", {"per_page": _PER_PAGE})
        pages = numbered_pages(self._http, request, _PAGES_OF_COMMENTS)
        return tuple(self._comment(item, us) for item in pages if integer(item, "id"))

    def add_comment(self, number: int, body: str) -> None:
        self._http.ask(_request("POST", f"{self._path}/issues/{number}/comments", body={"body": body}))

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        self._http.ask(_request("PATCH", f"{self._path}/issues/comments/{quote(comment)}", body={"body": body}))

    def check(self) -> tuple[CheckResult, ...]:
        """What may be posted is asked by posting it for a commit that no repository has."""
        first, answer = reach(self._http, self.name, _request("GET", self._path))
        return (first, *self._rights(), *check_token(answer.headers)) if answer else (first,)

    # ---------------------------------------------------------------- requests

    def _ask(self, request: Request) -> Answer:
        """GitHub hides from a token what it may not see, and has no 404 for a commit."""
        try:
            return self._http.ask(request)
        except ForgeRefused as error:
            if error.status == 404:
                raise LoginRefused(f"{error}; check forge.repository, and what the token may do") from None
            raise

    def _explained(self, error: ForgeRefused, revision: str) -> ForgeRefused:
        if re.search(r"no (commit|ref) found", str(error), re.IGNORECASE):
            why = f"it does not know this commit: {revision}; was it pushed to another repository?"
            return ForgeRefused(f"{self.name}: {why}", error.status)
        return error

    def _find_deployment(self, deployment: Deployment) -> int:
        """0: none that can be told this: GitHub shows the newest one, so a revision that is back needs another."""
        query = {"environment": deployment.environment, "task": _TASK, "per_page": "100"}
        found = items(self._ask(_request("GET", f"{self._path}/deployments", query)))
        if deployment.state is not CommitState.SUPERSEDED:
            found = found[:1]
        return next((integer(one, "id") for one in found if text(one, "sha") == deployment.revision), 0)

    def _create_deployment(self, deployment: Deployment) -> int:
        try:
            answer = self._ask(self._deployment(deployment.revision, deployment.environment))
        except ForgeRefused as error:
            raise self._explained(error, deployment.revision) from None
        return integer(answer.body, "id")

    def _deployment(self, revision: str, environment: str, also_fine: tuple[int, ...] = ()) -> Request:
        """What merges nothing, and waits for no other status."""
        body = {
            "ref": revision,
            "environment": environment,
            "task": _TASK,
            "auto_merge": False,
            "required_contexts": [],
            "description": "Reconciled from git",
        }
        return _request("POST", f"{self._path}/deployments", body=body, also_fine=also_fine)

    def _page(self, base: str, number: int) -> _Page:
        query = {"state": "open", "base": base, "sort": "updated", "direction": "desc"}
        query |= {"per_page": _PER_PAGE, "page": str(number)}
        known = self._pages.get((base, number))
        headers = {"If-None-Match": known.etag} if known and known.etag else {}
        answer = self._ask(_request("GET", f"{self._path}/pulls", query, headers=headers))
        if known and answer.status == 304:
            return known
        found = requests_into(base, map(_pull_request, items(answer)))
        has_next = 'rel="next"' in answer.headers.get("link", "")
        page = self._pages[base, number] = _Page(answer.headers.get("etag", ""), found, has_next)
        return page

    def _comment(self, item: Any, us: Any) -> Comment:
        author = at(item, "performed_via_github_app", "id") if self._app else at(item, "user", "id")
        ours = is_ours(author or 0, us)
        if us is None and text(item, "user", "type") != "Bot":
            # Only an app's token may not ask whose it is, as that of GitHub Actions: no person's comment is its own.
            ours = False
        return Comment(str(integer(item, "id")), text(item, "body"), ours)

    def _rights(self) -> Iterator[CheckResult]:
        body = {"state": "pending", "context": "reconciler"}
        request = _request("POST", f"{self._path}/statuses/{_NOWHERE}", body=body, also_fine=(422,))
        yield probe(self._http, _POST_STATUSES, request)
        yield probe(self._http, _READ_PULL_REQUESTS, _request("GET", f"{self._path}/pulls", {"per_page": "1"}))
        request = self._deployment(_NOWHERE, "reconciler", also_fine=(409, 422))
        yield probe(self._http, _REPORT_DEPLOYMENTS, request)


def _request(
    method: str,
    path: str,
    query: Mapping[str, str] | None = None,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    also_fine: tuple[int, ...] = (),
) -> Request:
    return Request(method, path, query or {}, body, HEADERS | dict(headers or {}), also_fine)


def _is_cap(error: ForgeRefused) -> bool:
    """1000 statuses of one commit and context: what is shown stays as it is."""
    return error.status == 422 and re.search(r"maximum (number )?of (\d+ )?statuses", str(error)) is not None


def _pull_request(item: Any) -> PullRequest:
    own = integer(item, "base", "repo", "id")
    return PullRequest(
        number=integer(item, "number"),
        head=text(item, "head", "sha"),
        base=text(item, "base", "ref"),
        is_trusted=own != 0 and integer(item, "head", "repo", "id") == own,
        title=text(item, "title"),
        url=text(item, "html_url"),
    )
