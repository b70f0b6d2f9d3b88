"""Bitbucket Data Center, 8 or later (once Bitbucket Server). The base address of `http` ends in `/rest`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from reconciler.forge.answers import at, integer, is_ours, items, requests_into, state_of, text
from reconciler.forge.caps import short_name, short_url
from reconciler.forge.checks import Right, given, lacking, reach
from reconciler.forge.http import Answer, Http, Request
from reconciler.forge.messages import Comment, CommitState, CommitStatus, Deployment, PullRequest
from reconciler.forge.plain_markdown import with_html, without_html
from reconciler.report.findings import CheckResult

_MOST, _MOST_URL = 255, 450
_MOST_PAGES = 20
_STATES = {
    CommitState.PENDING: "INPROGRESS",
    CommitState.SUCCESS: "SUCCESSFUL",
    CommitState.FAILURE: "FAILED",
    CommitState.ERROR: "FAILED",
    CommitState.SUPERSEDED: "CANCELLED",
}
_RIGHT = Right(
    "post build statuses and comment on pull requests",
    "create an HTTP access token of the repository (Repository settings, HTTP access tokens) with `Repository read`",
    needed_for=("statuses", "pull_requests"),
)


class BitbucketServer:
    """One repository, `PROJECT/NAME`; a person's project is `~USER`."""

    def __init__(self, http: Http, repository: str) -> None:
        self._http, self._repository = http, repository
        project, _, name = repository.partition("/")
        self._page = f"/projects/{quote(project)}/repos/{quote(name)}"
        self._path = f"/api/1.0{self._page}"

    @property
    def name(self) -> str:
        return f"{self._http.called}, {self._repository}"

    def set_status(self, status: CommitStatus) -> None:
        """Each key has one status, which this replaces. Bitbucket insists on a URL."""
        page = f"{self._http.base.removesuffix('/rest')}{self._page}/commits/{status.revision}"
        body = {
            "key": short_name(status.context, _MOST),
            "name": short_name(status.context, _MOST),
            "state": _STATES[status.state],
            "description": status.description,
            "url": short_url(status.url, _MOST_URL) or page,
        }
        self._http.ask(Request("POST", f"{self._path}/commits/{quote(status.revision)}/builds", body=body))

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        query = {"key": short_name(context, _MOST)}
        path = f"{self._path}/commits/{quote(revision)}/builds"
        found = self._http.ask(Request("GET", path, query, also_fine=(404,))).body
        state = state_of(_STATES, text(found, "state"))
        return CommitStatus(revision, context, state, text(found, "description")) if state else None

    def set_deployment(self, deployment: Deployment) -> None:
        """Bitbucket's deployments are not answered."""

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        query = {"state": "OPEN", "at": f"refs/heads/{base}", "direction": "INCOMING", "order": "NEWEST"}
        pages = self._pages(f"{self._path}/pull-requests", {**query, "limit": "50"})
        return requests_into(base, (_pull_request(item) for page in pages for item in items(page, "values")))

    def comments(self, number: int) -> tuple[Comment, ...]:
        """They are told among all that happened, the newest first."""
        pages = self._pages(f"{self._pull(number)}/activities", {"limit": "100"})
        found = [_comment(item, page) for page in pages for item in items(page, "values") if _is_comment(item)]
        return tuple({one.id: one for one in reversed(found)}.values())

    def add_comment(self, number: int, body: str) -> None:
        self._http.ask(Request("POST", f"{self._pull(number)}/comments", body={"text": without_html(body)}))

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        """Bitbucket wants to know which version is edited, and answers 409 when another edit came in between."""
        path = f"{self._pull(number)}/comments/{quote(comment, safe='')}"
        version = at(self._http.ask(Request("GET", path)).body, "version")
        self._http.ask(Request("PUT", path, body={"text": without_html(body), "version": version}))

    def check(self) -> tuple[CheckResult, ...]:
        """Who may read the repository may do all that is needed. A public one is read without a login, too."""
        reached, answer = reach(self._http, self.name, Request("GET", self._path))
        if answer is None:
            return (reached,)
        return (reached, given(_RIGHT) if _us(answer) else lacking(_RIGHT, "it is taken for nobody's"))

    def _pull(self, number: int) -> str:
        return f"{self._path}/pull-requests/{number}"

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Answer]:
        for _ in range(_MOST_PAGES):
            answer = self._http.ask(Request("GET", path, query))
            yield answer
            start = integer(answer.body, "nextPageStart")
            if at(answer.body, "isLastPage") is not False or not start:
                return
            query = {**query, "start": str(start)}


def _pull_request(item: Any) -> PullRequest:
    source, target = (integer(item, side, "repository", "id") for side in ("fromRef", "toRef"))
    links = at(item, "links", "self")
    return PullRequest(
        number=integer(item, "id"),
        head=text(item, "fromRef", "latestCommit"),
        base=text(item, "toRef", "id").removeprefix("refs/heads/"),
        is_trusted=source == target != 0,
        title=text(item, "title"),
        url=text(links[0], "href") if isinstance(links, list) and links else "",
    )


def _is_comment(item: Any) -> bool:
    return text(item, "action") == "COMMENTED" and integer(item, "comment", "id") != 0


def _comment(item: Any, page: Answer) -> Comment:
    body = with_html(text(item, "comment", "text"))
    ours = is_ours(at(item, "comment", "author", "name"), _us(page))
    return Comment(str(integer(item, "comment", "id")), body, ours)


def _us(answer: Answer) -> str | None:
    """The user that the login is, whom every answer names; None: nobody's login."""
    return unquote(answer.headers.get("x-ausername", "")) or None
