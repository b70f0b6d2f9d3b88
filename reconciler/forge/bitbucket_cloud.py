"""Bitbucket Cloud. The base address of `http` is `https://api.bitbucket.org/2.0`.

Pull requests have abbreviated revisions there; each is asked for once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from reconciler.forge.answers import (
    at,
    integer,
    is_ours,
    is_revision,
    items,
    login_of,
    query_of,
    requests_into,
    state_of,
    text,
)
from reconciler.forge.caps import short_name, short_url
from reconciler.forge.checks import Right, probe, reach
from reconciler.forge.http import Http, Request
from reconciler.forge.messages import Comment, CommitState, CommitStatus, Deployment, PullRequest
from reconciler.forge.plain_markdown import with_html, without_html
from reconciler.report.findings import CheckResult

_MOST_KEY, _MOST = 40, 255
_MOST_PAGES = 10
_MOST_REMEMBERED = 1000
_STATES = {
    CommitState.PENDING: "INPROGRESS",
    CommitState.SUCCESS: "SUCCESSFUL",
    CommitState.FAILURE: "FAILED",
    CommitState.ERROR: "FAILED",
    CommitState.SUPERSEDED: "STOPPED",
}
_POST = Right(
    "post build statuses",
    "create a repository access token (Repository settings, Access tokens) with `Repositories: Write`",
    needed_for=("statuses", "pull_requests"),
)
_COMMENT = Right(
    "comment on pull requests",
    "create the token with `Pull requests: Write` as well",
    needed_for=("pull_requests",),
)


class BitbucketCloud:
    """One repository, `WORKSPACE/NAME`."""

    def __init__(self, http: Http, repository: str) -> None:
        self._http, self._repository = http, repository
        self._path = f"/repositories/{quote(repository)}"
        self._whole: dict[str, str] = {}

    @property
    def name(self) -> str:
        return f"{self._http.called}, {self._repository}"

    def set_status(self, status: CommitStatus) -> None:
        """Each key has one status, which this replaces. Bitbucket insists on a URL."""
        page = f"https://bitbucket.org/{quote(self._repository)}/commits/{status.revision}"
        body = {
            "key": short_name(status.context, _MOST_KEY),
            "name": short_name(status.context, _MOST),
            "state": _STATES[status.state],
            "description": status.description,
            "url": short_url(status.url, _MOST) or page,
        }
        self._http.ask(Request("POST", f"{self._path}/commit/{quote(status.revision)}/statuses/build", body=body))

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        key = quote(short_name(context, _MOST_KEY), safe="")
        path = f"{self._path}/commit/{quote(revision)}/statuses/build/{key}"
        found = self._http.ask(Request("GET", path, also_fine=(404,))).body
        state = state_of(_STATES, text(found, "state"))
        return CommitStatus(revision, context, state, text(found, "description")) if state else None

    def set_deployment(self, deployment: Deployment) -> None:
        """Bitbucket has deployments of its own pipelines only."""

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        named = base.replace("\\", "\\\\").replace('"', '\\"')
        query = {"q": f'state="OPEN" AND destination.branch.name="{named}"', "sort": "-updated_on", "pagelen": "50"}
        return requests_into(base, map(self._pull_request, self._pages(f"{self._path}/pullrequests", query)))

    def comments(self, number: int) -> tuple[Comment, ...]:
        us = login_of(self._http, Request("GET", "/user"), "uuid")
        found = self._pages(self._comments(number), {"pagelen": "100"})
        return tuple(_comment(one, us) for one in found if integer(one, "id") and at(one, "deleted") is not True)

    def add_comment(self, number: int, body: str) -> None:
        self._http.ask(Request("POST", self._comments(number), body={"content": {"raw": without_html(body)}}))

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        path = f"{self._comments(number)}/{quote(comment, safe='')}"
        self._http.ask(Request("PUT", path, body={"content": {"raw": without_html(body)}}))

    def check(self) -> tuple[CheckResult, ...]:
        """What the token may do is asked by requests about nothing: who may not send them is refused first."""
        reached, answer = reach(self._http, self.name, Request("GET", self._path))
        if answer is None:
            return (reached,)
        fine = (400, 404)
        status = Request("POST", f"{self._path}/commit/{'0' * 40}/statuses/build", body={}, also_fine=fine)
        comment = Request("PUT", f"{self._comments(0)}/0", body={}, also_fine=fine)
        return (reached, probe(self._http, _POST, status), probe(self._http, _COMMENT, comment))

    def _comments(self, number: int) -> str:
        return f"{self._path}/pullrequests/{number}/comments"

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Any]:
        """The next page is named by a URL; of that only the query is used, because the token goes along."""
        for _ in range(_MOST_PAGES):
            answer = self._http.ask(Request("GET", path, query))
            yield from items(answer, "values")
            query = query_of(text(answer.body, "next"))
            if not query:
                return

    def _pull_request(self, item: Any) -> PullRequest:
        """Without a revision where our repository does not have it."""
        source, destination = (text(item, side, "repository", "uuid") for side in ("source", "destination"))
        is_trusted = source == destination != ""
        return PullRequest(
            number=integer(item, "id"),
            head=self._revision(text(item, "source", "commit", "hash"), is_trusted=is_trusted),
            base=text(item, "destination", "branch", "name"),
            is_trusted=is_trusted,
            title=text(item, "title"),
            url=text(item, "links", "html", "href"),
        )

    def _revision(self, short: str, *, is_trusted: bool) -> str:
        """With all its digits; empty where there is none. What strangers propose is asked for once, found or not:
        they may open as many as they like."""
        if not short or is_revision(short):
            return short
        known = self._whole.get(short)
        if known is None or (is_trusted and not known):
            known = self._whole[short] = self._asked(short)
            while len(self._whole) > _MOST_REMEMBERED:
                self._whole.pop(next(iter(self._whole)), None)
        return known

    def _asked(self, short: str) -> str:
        path = f"{self._path}/commit/{quote(short, safe='')}"
        whole = text(self._http.ask(Request("GET", path, {"fields": "hash"}, also_fine=(404,))).body, "hash")
        return whole if is_revision(whole) and whole.startswith(short) else ""


def _comment(item: Any, us: Any) -> Comment:
    body = with_html(text(item, "content", "raw"))
    return Comment(str(integer(item, "id")), body, is_ours(at(item, "user", "uuid"), us))
