"""Azure DevOps, Services and Server 2022 or later. The base address of `http` is the one above all organizations.

A login that is refused is answered with a page to sign in, or a redirect to one, unless that is declined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from reconciler.forge.answers import at, integer, is_ours, items, login_of, requests_into, state_of, text
from reconciler.forge.caps import short_name, short_url
from reconciler.forge.checks import Right, probe, reach
from reconciler.forge.http import Answer, Http, Request
from reconciler.forge.messages import Comment, CommitState, CommitStatus, Deployment, PullRequest
from reconciler.forge.plain_markdown import with_html, without_html
from reconciler.report.findings import CheckResult

_VERSION = "7.0"
_GENRE = "reconciler"
# No caps are stated; these are ours.
_MOST_NAME, _MOST_URL = 128, 1024
_PAGE, _MOST_PAGES = 50, 4
_STATES = {
    CommitState.PENDING: "pending",
    CommitState.SUCCESS: "succeeded",
    CommitState.FAILURE: "failed",
    CommitState.ERROR: "error",
    CommitState.SUPERSEDED: "notApplicable",
}
_POST = Right(
    "post commit statuses",
    "create a personal access token (User settings, Personal access tokens) with `Code: Read` and `Code: Status`",
    needed_for=("statuses", "pull_requests"),
)
_COMMENT = Right(
    "comment on pull requests",
    "create the token with `Pull Request Threads: Read & write` as well",
    needed_for=("pull_requests",),
)


class AzureDevOps:
    """One repository, `ORGANIZATION/PROJECT/NAME`."""

    def __init__(self, http: Http, repository: str) -> None:
        self._http, self._repository = http, repository
        self._organization, project, name = (quote(part, safe="") for part in repository.split("/"))
        self._page = f"{http.base}/{self._organization}/{project}/_git/{name}"
        self._path = f"/{self._organization}/{project}/_apis/git/repositories/{name}"

    @property
    def name(self) -> str:
        return f"{self._http.called}, {self._repository}"

    def set_status(self, status: CommitStatus) -> None:
        """Azure DevOps shows the latest one of each genre and name."""
        body: dict[str, Any] = {"state": _STATES[status.state], "description": status.description}
        body["context"] = {"genre": _GENRE, "name": _name(status.context)}
        body |= {"targetUrl": url} if (url := short_url(status.url, _MOST_URL)) else {}
        self._ask(Request("POST", f"{self._path}/commits/{quote(status.revision)}/statuses", body=body))

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        query = {"latestOnly": "true", "top": "1000"}
        answer = self._ask(Request("GET", f"{self._path}/commits/{quote(revision)}/statuses", query))
        mine = (_GENRE, _name(context))
        same = [one for one in items(answer, "value") if _name_of(one) == mine]
        last = max(same, key=lambda one: integer(one, "id"), default=None)
        state = state_of(_STATES, text(last, "state"))
        return CommitStatus(revision, context, state, text(last, "description")) if state else None

    def set_deployment(self, deployment: Deployment) -> None:
        """Azure DevOps has deployments of its own pipelines only."""

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        """The latest opened first: Azure DevOps does not say which changed."""
        query = {"searchCriteria.status": "active", "searchCriteria.targetRefName": f"refs/heads/{base}"}
        return requests_into(base, map(self._pull_request, self._pages("/pullrequests", query)))

    def comments(self, number: int) -> tuple[Comment, ...]:
        """The first one of each thread, which Azure DevOps gives all at once."""
        who = Request("GET", f"/{self._organization}/_apis/connectionData", {"api-version": f"{_VERSION}-preview"})
        us = login_of(self._http, _versioned(who), "authenticatedUser", "id")
        threads = items(self._ask(Request("GET", f"{self._path}/pullRequests/{number}/threads")), "value")
        found = (_comment(thread, us) for thread in sorted(threads, key=lambda thread: integer(thread, "id")))
        return tuple(one for one in found if one)

    def add_comment(self, number: int, body: str) -> None:
        """In a thread that is closed: an open one can keep a pull request from being completed."""
        comment = {"parentCommentId": 0, "content": without_html(body), "commentType": "text"}
        thread = {"comments": [comment], "status": "closed"}
        self._ask(Request("POST", f"{self._path}/pullRequests/{number}/threads", body=thread))

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        thread, _, identity = comment.partition("/")
        path = f"/pullRequests/{number}/threads/{quote(thread, safe='')}/comments/{quote(identity, safe='')}"
        self._ask(Request("PATCH", f"{self._path}{path}", body={"content": without_html(body)}))

    def check(self) -> tuple[CheckResult, ...]:
        """What the token may do is asked by requests about nothing: who may not send them is refused first."""
        reached, answer = reach(self._http, self.name, _versioned(Request("GET", self._path)))
        if answer is None:
            return (reached,)
        fine = (400, 404)
        status = Request("POST", f"{self._path}/commits/{'0' * 40}/statuses", body={}, also_fine=fine)
        comment = Request("POST", f"{self._path}/pullRequests/0/threads", body={"comments": []}, also_fine=fine)
        return (reached, probe(self._http, _POST, _versioned(status)), probe(self._http, _COMMENT, _versioned(comment)))

    def _ask(self, request: Request) -> Answer:
        return self._http.ask(_versioned(request))

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Any]:
        for page in range(_MOST_PAGES):
            part = {"$top": str(_PAGE), "$skip": str(page * _PAGE)}
            found = items(self._ask(Request("GET", f"{self._path}{path}", {**query, **part})), "value")
            yield from found
            if len(found) < _PAGE:
                return

    def _pull_request(self, item: Any) -> PullRequest:
        """Those of forks name their source; its absence alone makes none trusted."""
        number, branch = integer(item, "pullRequestId"), text(item, "sourceRefName")
        return PullRequest(
            number=number,
            head=text(item, "lastMergeSourceCommit", "commitId"),
            base=text(item, "targetRefName").removeprefix("refs/heads/"),
            is_trusted=branch.startswith("refs/heads/") and at(item, "forkSource") is None,
            title=text(item, "title"),
            url=f"{self._page}/pullrequest/{number}",
        )


def _name(context: str) -> str:
    return short_name(context.removeprefix(f"{_GENRE}/"), _MOST_NAME)


def _name_of(status: Any) -> tuple[str, str]:
    return text(status, "context", "genre"), text(status, "context", "name")


def _versioned(request: Request) -> Request:
    """With the version of the API, and without a redirect to a page to sign in."""
    query = {"api-version": _VERSION, **request.query}
    return replace(request, query=query, headers={"X-TFS-FedAuthRedirect": "Suppress"})


def _comment(thread: Any, us: Any) -> Comment | None:
    """Its id is the thread's and its own in it."""
    comments = at(thread, "comments")
    first = comments[0] if isinstance(comments, list) and comments else None
    numbers = integer(thread, "id"), integer(first, "id")
    if not all(numbers) or at(first, "isDeleted") is True or text(first, "commentType") == "system":
        return None
    body = with_html(text(first, "content"))
    return Comment("{}/{}".format(*numbers), body, is_ours(at(first, "author", "id"), us))
