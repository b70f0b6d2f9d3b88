"""Bitbucket Data Center's API as far as the provider uses it.

Shapes: Atlassian's "Bitbucket Data Center REST API" (its OpenAPI document as the types of @coderabbitai/bitbucket 1.1.4
of npm have it): RestBuildStatusSetRequest, RestPullRequest, RestPullRequestActivity, RestComment. Its caps are not in
it; they are those of "Updating build status for commits" and of its database.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tests.forge.described import Json, ProviderApi, Route, Shape
from tests.forge.local_forge import Asked, Reply

Short = Annotated[str, Field(max_length=255)]


class BuildStatus(Shape):
    key: Annotated[str, Field(min_length=1, max_length=255)]
    name: Short
    state: Literal["CANCELLED", "FAILED", "INPROGRESS", "SUCCESSFUL", "UNKNOWN"]
    description: Short
    url: Annotated[str, Field(max_length=450, pattern=r"https?://.+")]


class OneBuild(Shape):
    key: str


class Paged(Shape):
    limit: int = Field(25, ge=1, le=1000)
    start: int = Field(0, ge=0)


class ListPullRequests(Paged):
    state: Literal["OPEN", "DECLINED", "MERGED"]
    at: Annotated[str, Field(pattern="refs/heads/.+")]
    direction: Literal["INCOMING", "OUTGOING"]
    order: Literal["NEWEST", "OLDEST"]


class AddComment(Shape):
    text: Annotated[str, Field(min_length=1, max_length=32768)]


class EditComment(AddComment):
    version: int


class BitbucketServerApi(ProviderApi):
    def __init__(self) -> None:
        at = "/rest/api/1.0/projects/models/repos/serving"
        pull = f"{at}/pull-requests/{{number}}"
        super().__init__(
            [
                Route("GET", at, lambda asked: self._named("repository", Reply(200, {"id": 1}))),
                Route("POST", f"{at}/commits/{{commit}}/builds", self._post_status, body=BuildStatus),
                Route("GET", f"{at}/commits/{{commit}}/builds", self._get_status, OneBuild),
                Route("GET", f"{at}/pull-requests", self._list_pull_requests, ListPullRequests),
                Route("GET", f"{pull}/activities", self._activities, Paged),
                Route("POST", f"{pull}/comments", self._add_comment, body=AddComment),
                Route("GET", f"{pull}/comments/{{comment}}", self._read_comment),
                Route("PUT", f"{pull}/comments/{{comment}}", self._edit_comment, body=EditComment),
            ]
        )
        self.user = "build%20bot"
        self.is_overtaken = False
        """Somebody else edits a comment each time after it was read."""

    def refuse(self, what: str) -> None:
        """Whoever is known may all that is asked."""
        self.user = ""

    def _named(self, what: str, reply: Reply) -> Reply:
        return self.gate(what, Reply(reply.status, reply.body, {"X-AUSERNAME": self.user} if self.user else {}))

    def _post_status(self, asked: Asked, revision: str) -> Reply:
        if revision.startswith("dead"):
            return Reply(404, {"errors": [{"message": "Commit 'dead' does not exist in repository 'serving'."}]})
        self.shown[revision, asked.body["key"]] = (asked.body["state"], asked.body["description"])
        return Reply(204)

    def _get_status(self, asked: Asked, revision: str) -> Reply:
        found = self.shown.get((revision, asked.query["key"]))
        return Reply(200, {"state": found[0], "description": found[1]}) if found else Reply(404, {"errors": []})

    def _list_pull_requests(self, asked: Asked) -> Reply:
        return self._page(asked, [one for one in self.pull_requests if one["toRef"]["id"] == asked.query["at"]])

    def _page(self, asked: Asked, found: list[Json]) -> Reply:
        start, limit = int(asked.query.get("start", "0")), int(asked.query.get("limit", "25"))
        is_last = len(found) <= start + limit
        body = {"values": found[start : start + limit], "isLastPage": is_last, "start": start}
        return Reply(200, body | {"nextPageStart": None if is_last else start + limit})

    def _activities(self, asked: Asked, number: str) -> Reply:
        said = [{"action": "COMMENTED", "commentAction": "ADDED", "comment": one} for one in self.comments]
        return self._named("comments", self._page(asked, [{"action": "APPROVED"}, *said[::-1], {"action": "OPENED"}]))

    def _add_comment(self, asked: Asked, number: str) -> Reply:
        self.add_comment(asked.body["text"], is_ours=True)
        return Reply(201, self.comments[-1])

    def _read_comment(self, asked: Asked, number: str, identity: str) -> Reply:
        reply = self.edit("id", identity, {})
        found = Reply(reply.status, dict(reply.body))
        if self.is_overtaken:
            self.edit("id", identity, {"version": reply.body["version"] + 1})
        return found

    def _edit_comment(self, asked: Asked, number: str, identity: str) -> Reply:
        version = asked.body["version"]
        if any(str(one["id"]) == identity and one["version"] != version for one in self.comments):
            return Reply(409, {"errors": [{"message": "You are attempting to modify a comment that was changed."}]})
        return self.edit("id", identity, {"text": asked.body["text"], "version": version + 1})

    def add_pull_request(self, number: int, head: str, base: str, *, is_fork: bool) -> None:
        self.pull_requests.append(
            {
                "id": number,
                "title": f"Change {number}",
                "fromRef": {"repository": {"id": 2 if is_fork else 1}, "latestCommit": head, "id": "refs/heads/change"},
                "toRef": {"repository": {"id": 1}, "id": f"refs/heads/{base}"},
                "links": {"self": [{"href": self.url_of(number)}]},
            }
        )

    def add_comment(self, body: str, *, is_ours: bool) -> None:
        author = {"name": "build bot" if is_ours else "another"}
        self.comments.append({"id": len(self.comments) + 1, "version": 0, "text": body, "author": author})

    def bodies(self) -> list[str]:
        return [one["text"] for one in self.comments]
