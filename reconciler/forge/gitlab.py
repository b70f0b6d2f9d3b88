"""GitLab, as a service and of one's own. The base address of `http` ends in `/api/v4`.

A status is a job of a pipeline there: one that is over is never changed, another one follows it; and one that waits
cannot be told again that it waits.
"""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import quote

from reconciler.forge.answers import (
    at,
    integer,
    is_ours,
    items,
    login_of,
    numbered_pages,
    requests_into,
    state_of,
    text,
)
from reconciler.forge.caps import short_name, short_url
from reconciler.forge.checks import Right, given, lacking, reach, untold
from reconciler.forge.http import Answer, ForgeRefused, Http, LoginRefused, Request
from reconciler.forge.messages import Comment, CommitState, CommitStatus, Deployment, PullRequest
from reconciler.report.findings import CheckResult

_MOST = 255
"""Characters of a name, a description and a URL."""
_MOST_PAGES = 10
_STATES = {
    CommitState.PENDING: "pending",
    CommitState.SUCCESS: "success",
    CommitState.FAILURE: "failed",
    CommitState.ERROR: "failed",
    CommitState.SUPERSEDED: "canceled",
}
_DEPLOYMENT_STATES = _STATES | {CommitState.PENDING: "running"}
_UNFINISHED = ("created", "pending", "running", "blocked")
_DEVELOPER = 30
_TICK = "create a project access token with the role Developer and the scope `api` (Settings, Access tokens)"
_POST = Right("post commit statuses and comment on merge requests", _TICK, ("statuses", "pull_requests", "deployments"))
_SLASH_AT_START = re.compile(r"^([ \t\r]*\\*)/", re.MULTILINE)
_ESCAPED_SLASH_AT_START = re.compile(r"^([ \t\r]*\\*)\\/", re.MULTILINE)


class GitLab:
    """One project, `GROUP/NAME`, with any number of groups."""

    def __init__(self, http: Http, repository: str) -> None:
        self._http, self._repository = http, repository
        self._path = f"/projects/{quote(repository, safe='')}"

    @property
    def name(self) -> str:
        return f"{self._http.called}, {self._repository}"

    def set_status(self, status: CommitStatus) -> None:
        """The job that the last one of this name is, is finished where it is, even if a newer pipeline has begun."""
        body = {"state": _STATES[status.state], "name": short_name(status.context, _MOST)}
        body |= {"description": status.description, "target_url": short_url(status.url, _MOST)}
        last = self._last_status(status.revision, body["name"])
        if _says(last, body):
            return
        place = {key: at(last, key) for key in ("pipeline_id", "ref") if text(last, "status") in _UNFINISHED}
        filled = {key: value for key, value in {**body, **place}.items() if value}
        try:
            self._http.ask(Request("POST", f"{self._path}/statuses/{quote(status.revision)}", body=filled))
        except ForgeRefused as error:
            if not _is_done(error):
                raise

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        last = self._last_status(revision, short_name(context, _MOST))
        state = state_of(_STATES, text(last, "status"))
        return CommitStatus(revision, context, state, text(last, "description")) if state else None

    def set_deployment(self, deployment: Deployment) -> None:
        state = _DEPLOYMENT_STATES[deployment.state]
        steps = _steps(self._deployments(deployment.environment), deployment.revision, state)
        for step in steps:
            if step == "create":
                self._create_deployment(deployment, state)
            else:
                self._http.ask(Request("PUT", f"{self._path}/deployments/{step}", body={"status": state}))

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        query = {"state": "opened", "target_branch": base, "order_by": "updated_at", "sort": "desc", "per_page": "20"}
        pages = numbered_pages(self._http, Request("GET", f"{self._path}/merge_requests", query), _MOST_PAGES)
        return requests_into(base, map(_pull_request, pages))

    def comments(self, number: int) -> tuple[Comment, ...]:
        us = login_of(self._http, Request("GET", "/user"), "id")
        query = {"order_by": "created_at", "sort": "asc", "per_page": "50"}
        pages = numbered_pages(self._http, Request("GET", self._notes(number), query), _MOST_PAGES)
        return tuple(_comment(note, us) for note in pages if integer(note, "id") and at(note, "system") is not True)

    def add_comment(self, number: int, body: str) -> None:
        self._http.ask(Request("POST", self._notes(number), body={"body": _without_commands(body)}))

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        path = f"{self._notes(number)}/{quote(comment, safe='')}"
        self._http.ask(Request("PUT", path, body={"body": _without_commands(body)}))

    def check(self) -> tuple[CheckResult, ...]:
        reached, answer = reach(self._http, self.name, Request("GET", self._path))
        return (reached,) if answer is None else (reached, self._rights(answer))

    def _rights(self, project: Answer) -> CheckResult:
        roles = [
            integer(project.body, "permissions", kind, "access_level") for kind in ("project_access", "group_access")
        ]
        if any(roles) and max(roles) < _DEVELOPER:
            return lacking(_POST, "its role in the project is below Developer")
        try:
            scopes = items(self._http.ask(Request("GET", "/personal_access_tokens/self")), "scopes")
        except (LoginRefused, ForgeRefused) as error:
            return untold(_POST, str(error))
        return given(_POST) if "api" in scopes else lacking(_POST, f"its scopes are {', '.join(map(str, scopes))}")

    def _notes(self, number: int) -> str:
        return f"{self._path}/merge_requests/{number}/notes"

    def _last_status(self, revision: str, name: str) -> Any:
        """None where there is none yet."""
        path = f"{self._path}/repository/commits/{quote(revision)}/statuses"
        found = items(self._http.ask(Request("GET", path, {"name": name, "per_page": "100"})))
        return max(
            (one for one in found if text(one, "name") == name), key=lambda one: integer(one, "id"), default=None
        )

    def _deployments(self, environment: str) -> list[Any]:
        """The newest ones, newest first."""
        query = {"environment": environment, "order_by": "id", "sort": "desc", "per_page": "50"}
        return items(self._http.ask(Request("GET", f"{self._path}/deployments", query)))

    def _create_deployment(self, deployment: Deployment, state: str) -> None:
        """GitLab asks for a branch or a tag, and takes a revision: which branch it came by is not known here."""
        body = {"environment": deployment.environment, "sha": deployment.revision, "ref": deployment.revision}
        self._http.ask(Request("POST", f"{self._path}/deployments", body={**body, "tag": False, "status": state}))


def _is_done(error: ForgeRefused) -> bool:
    """What is asked for is so already, or there is no room for it in the commit's pipeline."""
    return (error.status == 400 and "Cannot transition status" in str(error)) or (
        error.status == 422 and "exceeded the limit" in str(error)
    )


def _says(status: Any, body: dict[str, str]) -> bool:
    same = text(status, "status") == body["state"] and text(status, "description") == body["description"]
    return same and text(status, "target_url") == body["target_url"]


def _steps(known: list[Any], revision: str, state: str) -> tuple[Literal["create"] | int, ...]:
    """What is to be done about one environment's deployments, the newest of which comes first: the ids of those to
    update, and whether to add one. Repeated, it is nothing.

    One that is over is left alone once another came after it; and none is over that waits again. What is over is the
    newest afterwards, unless it was canceled.
    """
    same = next((one for one in known if text(one, "sha") == revision), None)
    if same is None:
        return () if state == "canceled" else ("create",)
    is_newest, before = same is known[0], text(same, "status")
    if before == state and (is_newest or before in _UNFINISHED):
        return ()
    if before in _UNFINISHED:
        return (integer(same, "id"),) if is_newest or state == "canceled" else (integer(same, "id"), "create")
    if state == "canceled":
        return ()
    return (integer(same, "id"),) if is_newest and state != "running" else ("create",)


def _pull_request(item: Any) -> PullRequest:
    source, target = integer(item, "source_project_id"), integer(item, "target_project_id")
    return PullRequest(
        number=integer(item, "iid"),
        head=text(item, "sha"),
        base=text(item, "target_branch"),
        is_trusted=source == target != 0,
        title=text(item, "title"),
        url=text(item, "web_url"),
    )


def _comment(note: Any, us: Any) -> Comment:
    body = _ESCAPED_SLASH_AT_START.sub(r"\1/", text(note, "body"))
    return Comment(str(integer(note, "id")), body, is_ours(at(note, "author", "id"), us))


def _without_commands(body: str) -> str:
    """A line like `/merge` in a comment is an order to GitLab, and what a pull request shows is written by others."""
    return _SLASH_AT_START.sub(r"\1\\/", body)
