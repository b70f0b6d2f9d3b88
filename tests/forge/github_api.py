"""GitHub, as far as we ask it: every request is held against GitHub's own description, every answer is GitHub's example
of it with our values in it. What the description does not say (caps, hidden things, rate limits) is from its manual.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from tests.forge.github_description import REPOSITORY, SERVER, Description
from tests.forge.local_forge import TOKEN, Asked, Reply

BASE = "/api/v3"
"""Where GitHub Enterprise has its API."""
MOST_STATUSES = 1000
MOST_DESCRIPTION = 140
MOST_CONTEXT = 255
MOST_COMMENT = 65_536
NAME = "team/models"
OWN_ID, USER_ID, APP_ID = 10, 77, 4711

_ROUTES: dict[tuple[str, str], str] = {
    ("GET", "/user"): "user",
    ("GET", REPOSITORY): "repository",
    ("POST", f"{REPOSITORY}/statuses/{{sha}}"): "add_status",
    ("GET", f"{REPOSITORY}/commits/{{ref}}/status"): "combined_status",
    ("GET", f"{REPOSITORY}/pulls"): "list_pulls",
    ("GET", f"{REPOSITORY}/issues/{{issue_number}}/comments"): "list_comments",
    ("POST", f"{REPOSITORY}/issues/{{issue_number}}/comments"): "add_comment",
    ("PATCH", f"{REPOSITORY}/issues/comments/{{comment_id}}"): "edit_comment",
    ("GET", f"{REPOSITORY}/deployments"): "list_deployments",
    ("POST", f"{REPOSITORY}/deployments"): "add_deployment",
    ("POST", f"{REPOSITORY}/deployments/{{deployment_id}}/statuses"): "add_deployment_status",
}
_PERMISSIONS = {
    "add_status": "statuses",
    "list_pulls": "pull_requests",
    "add_comment": "pull_requests",
    "edit_comment": "pull_requests",
    "add_deployment": "deployments",
    "add_deployment_status": "deployments",
}


@dataclass
class GitHubApi:
    """Answers for one repository, `NAME`. `problems`: requests that GitHub would not understand."""

    description: Description
    commits: set[str] = field(default_factory=set)
    token: str = TOKEN
    permissions: set[str] = field(default_factory=lambda: {"statuses", "pull_requests", "deployments"})
    scopes: str | None = None
    """Of a classic token, which may do what they say; None: a fine-grained one."""
    is_of_a_ci: bool = False
    """The token is GitHub Actions' own, which is an app's."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of every answer."""
    limit: Reply | None = None
    """The answer to everything, while there were too many requests."""
    statuses: list[dict[str, Any]] = field(default_factory=list)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    deployment_statuses: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Reply:
        asked = replace(asked, path=asked.path.removeprefix(BASE))
        if found := self.description.problems(asked):
            self.problems += found
            return refusal(400, found[0])
        reply = self.limit or self._answer(asked)
        return Reply(reply.status, reply.body, {**self.headers, **reply.headers})

    def shown(self, revision: str) -> dict[str, tuple[str, str]]:
        """Context → state and description, as people see them: the newest one counts."""
        return {one["context"]: (one["state"], one["description"]) for one in self.statuses if one["sha"] == revision}

    def _answer(self, asked: Asked) -> Reply:
        if asked.headers.get("authorization") != f"Bearer {self.token}":
            return refusal(401, "Bad credentials")
        template = self.description.template(asked.path)
        name = _ROUTES[asked.method, template]
        if template != "/user" and not asked.path.startswith(f"/repos/{NAME}"):
            return refusal(404, "Not Found")
        if (needed := _PERMISSIONS.get(name)) and needed not in self.permissions:
            is_classic = self.scopes is not None
            why = "Not Found" if is_classic else "Resource not accessible by personal access token"
            headers = {} if is_classic else {"X-Accepted-GitHub-Permissions": f"{needed}=write"}
            return replace(refusal(404 if is_classic else 403, why), headers=headers)
        handler: Callable[[Asked], Reply] = getattr(self, f"_{name}")
        return handler(asked)

    def _example(self, asked: Asked, status: int) -> Any:
        return self.description.example(self.description.template(asked.path), asked.method.lower(), status)

    def _user(self, asked: Asked) -> Reply:
        if self.is_of_a_ci:
            return Reply(403, {"message": "Resource not accessible by integration"})
        return Reply(200, {**self._example(asked, 200), "id": USER_ID})

    def _repository(self, asked: Asked) -> Reply:
        headers = {} if self.scopes is None else {"X-OAuth-Scopes": self.scopes}
        return Reply(200, {**self._example(asked, 200), "id": OWN_ID, "full_name": NAME}, headers)

    def _combined_status(self, asked: Asked) -> Reply:
        """The newest of each context, the newest first."""
        revision = unquote(asked.path).split("/")[-2]
        newest = {one["context"]: one for one in self.statuses if one["sha"] == revision}
        body = {**self._example(asked, 200), "sha": revision, "statuses": list(reversed(newest.values()))}
        etag = f'W/"{hashlib.sha256(json.dumps(body).encode()).hexdigest()}"'
        if asked.headers.get("if-none-match") == etag:
            return Reply(304, None, {"ETag": etag})
        return Reply(200, body, {"ETag": etag})

    def _add_status(self, asked: Asked) -> Reply:
        revision, body = _last(asked), asked.body
        if revision not in self.commits:
            return refusal(422, f"No commit found for SHA: {revision}")
        if len(body.get("description") or "") > MOST_DESCRIPTION:
            return _invalid("description", f"description is too long (maximum is {MOST_DESCRIPTION} characters)")
        if len(body.get("context") or "") > MOST_CONTEXT:
            return _invalid("context", f"context is too long (maximum is {MOST_CONTEXT} characters)")
        if not re.match("https?://|$", body.get("target_url") or ""):
            return _invalid("target_url", "target_url must use http(s) scheme")
        same = [one for one in self.statuses if (one["sha"], one["context"]) == (revision, body["context"])]
        if len(same) >= MOST_STATUSES:
            return _invalid("", "This SHA and context has reached the maximum number of statuses.")
        self.statuses.append({"sha": revision, "target_url": None, **body})
        return Reply(201, {**self._example(asked, 201), **body})

    def _list_pulls(self, asked: Asked) -> Reply:
        (example,) = self._example(asked, 200)
        found = [one for one in self.pulls if one["base"]["ref"] == asked.query.get("base", one["base"]["ref"])]
        return self._page(asked, [_merged(example, one) for one in found])

    def _list_comments(self, asked: Asked) -> Reply:
        (example,) = self._example(asked, 200)
        number = int(asked.path.split("/")[-2])
        if number not in self.comments:
            return refusal(404, "Not Found")
        return self._page(asked, [{**example, **one} for one in self.comments[number]])

    def _add_comment(self, asked: Asked) -> Reply:
        number = int(asked.path.split("/")[-2])
        if number not in self.comments:
            return refusal(404, "Not Found")
        if len(asked.body["body"]) > MOST_COMMENT:
            return _invalid("body", f"body is too long (maximum is {MOST_COMMENT} characters)")
        comment = written(1 + sum(map(len, self.comments.values())), asked.body["body"])
        comment["user"]["type"] = "Bot" if self.is_of_a_ci else "User"
        self.comments[number].append(comment)
        return Reply(201, {**self._example(asked, 201), **comment})

    def _edit_comment(self, asked: Asked) -> Reply:
        for comment in (one for many in self.comments.values() for one in many if str(one["id"]) == _last(asked)):
            comment["body"] = asked.body["body"]
            return Reply(200, {**self._example(asked, 200), **comment})
        return refusal(404, "Not Found")

    def _list_deployments(self, asked: Asked) -> Reply:
        wanted = {name: asked.query[name] for name in ("sha", "environment", "task") if name in asked.query}
        found = [one for one in self.deployments if all(one[name] == value for name, value in wanted.items())]
        return self._page(asked, found[::-1])

    def _add_deployment(self, asked: Asked) -> Reply:
        body = asked.body
        if body["ref"] not in self.commits:
            return refusal(422, f"No ref found for: {body['ref']}")
        if body.get("auto_merge", True):
            return Reply(202, {"message": "Auto-merged main into it on deployment."})
        if body.get("required_contexts") != []:
            return refusal(409, "Conflict: Commit status checks failed for it.")
        made = {**self._example(asked, 201), **body, "sha": body["ref"], "id": 100 + len(self.deployments)}
        self.deployments.append(made)
        return Reply(201, made)

    def _add_deployment_status(self, asked: Asked) -> Reply:
        number = int(asked.path.split("/")[-2])
        if number not in {one["id"] for one in self.deployments}:
            return refusal(404, "Not Found")
        if len(asked.body.get("description", "")) > MOST_DESCRIPTION:
            return _invalid("description", f"description is too long (maximum is {MOST_DESCRIPTION} characters)")
        self.deployment_statuses.append((number, asked.body))
        return Reply(201, {**self._example(asked, 201), **asked.body})

    def _page(self, asked: Asked, found: list[Any]) -> Reply:
        """With the mark by which it is asked for again, and the way to the next one."""
        size, number = min(int(asked.query.get("per_page", 30)), 100), int(asked.query.get("page", 1))
        shown = found[(number - 1) * size : number * size]
        etag = f'W/"{hashlib.sha256(json.dumps(shown).encode()).hexdigest()}"'
        headers = {"ETag": etag}
        if number * size < len(found):
            headers["Link"] = f'<{SERVER}{asked.path}?page={number + 1}>; rel="next", <{SERVER}/>; rel="last"'
        if asked.headers.get("if-none-match") == etag:
            return Reply(304, None, headers)
        return Reply(200, shown, headers)


def pull(number: int, head: str, base: str = "main", repository: int | None = OWN_ID) -> dict[str, Any]:
    """`repository`: where its branch is; None: it was deleted."""
    whose = {"sha": head, "repo": None if repository is None else {"id": repository}}
    return {"number": number, "head": whose, "base": {"ref": base, "repo": {"id": OWN_ID}}}


def written(number: int, body: str, user: int = USER_ID, app: int | None = None) -> dict[str, Any]:
    """A comment."""
    by = {"performed_via_github_app": None if app is None else {"id": app}}
    return {"id": number, "body": body, "user": {"login": "someone", "id": user}, **by}


def primary_limit(pause: int) -> Reply:
    """As GitHub says that an hour's requests are used up."""
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + pause)}
    return Reply(403, {"message": "API rate limit exceeded for user ID 77."}, headers)


def refusal(status: int, message: str, errors: Iterable[Mapping[str, str]] = ()) -> Reply:
    body: dict[str, Any] = {"message": message, "documentation_url": "https://docs.github.com/rest"}
    return Reply(status, body | ({"errors": list(errors)} if errors else {}))


def _invalid(name: str, message: str) -> Reply:
    return refusal(422, "Validation Failed", [{"code": "custom", "field": name, "message": message}])


def _merged(example: Any, ours: Any) -> Any:
    if isinstance(example, dict) and isinstance(ours, dict):
        return {**example, **{key: _merged(example.get(key), value) for key, value in ours.items()}}
    return ours


def _last(asked: Asked) -> str:
    return unquote(asked.path.rpartition("/")[2])
