"""Azure DevOps' API as far as the provider uses it.

Shapes: "Azure DevOps Services REST API", Git, 7.0 (MicrosoftDocs/vsts-rest-api-specs, specification/git; Microsoft's
client azure-devops 7.1.0b4 of PyPI has them as its models of v7_0): GitStatus, GitPullRequest, CommentThread, Comment.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tests.forge.described import AnyBody, ProviderApi, Route, Shape
from tests.forge.local_forge import Asked, Reply

US = "6f168adb-59d4-4fc0-be3b-fb21b939b2a6"


class Versioned(Shape):
    version: Literal["7.0"] = Field(alias="api-version")


class Preview(Shape):
    version: Literal["7.0-preview"] = Field(alias="api-version")


class ListStatuses(Versioned):
    latestOnly: bool  # noqa: N815
    top: int = Field(ge=1, le=1000)


class ListPullRequests(Versioned):
    status: Literal["abandoned", "active", "all", "completed", "notSet"] = Field(alias="searchCriteria.status")
    target: Annotated[str, Field(pattern="refs/heads/.+")] = Field(alias="searchCriteria.targetRefName")
    top: int = Field(alias="$top", ge=1, le=1000)
    skip: int = Field(alias="$skip", ge=0)


class Context(Shape):
    genre: Literal["reconciler"]
    name: Annotated[str, Field(min_length=1, max_length=128)]


class GitStatus(Shape):
    context: Context
    state: Literal["notSet", "pending", "succeeded", "failed", "error", "notApplicable"]
    description: str
    targetUrl: Annotated[str, Field(pattern=r"https?://.+")] | None = None  # noqa: N815


class EditComment(Shape):
    content: Annotated[str, Field(min_length=1, max_length=150_000)]


class NewComment(EditComment):
    parentCommentId: int  # noqa: N815
    commentType: Literal["text"]  # noqa: N815


class Thread(Shape):
    comments: Annotated[list[NewComment], Field(min_length=1)]
    status: Literal["active", "byDesign", "closed", "fixed", "pending", "unknown", "wontFix"]


class AzureDevOpsApi(ProviderApi):
    def __init__(self) -> None:
        at = "/fabrikam/models/_apis/git/repositories/serving"
        threads = f"{at}/pullRequests/{{number}}/threads"
        nothing = "0" * 40
        super().__init__(
            [
                Route("GET", "/fabrikam/_apis/connectionData", self._who, Preview),
                Route("GET", at, lambda asked: self.gate("repository", Reply(200, {"name": "serving"})), Versioned),
                Route("POST", f"{at}/commits/{nothing}/statuses", self._probe_status, Versioned, AnyBody),
                Route("POST", f"{at}/pullRequests/0/threads", self._probe_comment, Versioned, AnyBody),
                Route("POST", f"{at}/commits/{{commit}}/statuses", self._post_status, Versioned, GitStatus),
                Route("GET", f"{at}/commits/{{commit}}/statuses", self._list_statuses, ListStatuses),
                Route("GET", f"{at}/pullrequests", self._list_pull_requests, ListPullRequests),
                Route("GET", threads, lambda asked, number: Reply(200, {"value": self.comments}), Versioned),
                Route("POST", threads, self._add_thread, Versioned, Thread),
                Route(
                    "PATCH", f"{threads}/{{thread}}/comments/{{comment}}", self._edit_comment, Versioned, EditComment
                ),
            ]
        )

    def __call__(self, asked: Asked) -> Reply:
        if asked.headers.get("x-tfs-fedauthredirect") != "Suppress":
            return Reply(302, None, {"Location": "https://login.example.com/_signin"})
        return super().__call__(asked)

    def _who(self, asked: Asked) -> Reply:
        return Reply(200, {"authenticatedUser": {"id": US}})

    def _probe_status(self, asked: Asked) -> Reply:
        return self.probe("status")

    def _probe_comment(self, asked: Asked) -> Reply:
        return self.probe("comment")

    def _post_status(self, asked: Asked, revision: str) -> Reply:
        if revision.startswith("dead"):
            return Reply(404, {"message": "TF401175: The version descriptor could not be resolved"})
        self.shown[revision, asked.body["context"]["name"]] = (asked.body["state"], asked.body["description"])
        return Reply(201, asked.body)

    def _list_statuses(self, asked: Asked, revision: str) -> Reply:
        found = [
            {"id": at, "state": said[0], "description": said[1], "context": {"genre": "reconciler", "name": name}}
            for at, ((sha, name), said) in enumerate(self.shown.items(), start=1)
            if sha == revision
        ]
        other = {"id": 99, "state": "failed", "context": {"genre": "ci", "name": "gpu-1"}}
        return Reply(200, {"value": [*found, other]})

    def _list_pull_requests(self, asked: Asked) -> Reply:
        found = [
            one for one in self.pull_requests if one["targetRefName"] == asked.query["searchCriteria.targetRefName"]
        ]
        skip, top = int(asked.query["$skip"]), int(asked.query["$top"])
        return Reply(200, {"value": found[skip : skip + top]})

    def _add_thread(self, asked: Asked, number: str) -> Reply:
        assert asked.body["status"] == "closed", "an open thread may keep the pull request from being completed"
        self.add_comment(asked.body["comments"][0]["content"], is_ours=True)
        return Reply(200, self.comments[-1])

    def _edit_comment(self, asked: Asked, number: str, thread: str, comment: str) -> Reply:
        found: list[Any] = [one for one in self.comments if (str(one["id"]), comment) == (thread, "1")]
        for one in found:
            one["comments"][0]["content"] = asked.body["content"]
        return Reply(200, found[0]) if found else Reply(404, {"message": "TF401180: no such comment"})

    def add_pull_request(self, number: int, head: str, base: str, *, is_fork: bool) -> None:
        fork = {"forkSource": {"name": "refs/heads/change", "repository": {"id": "2"}}} if is_fork else {}
        self.pull_requests.append(
            {
                "pullRequestId": number,
                "title": f"Change {number}",
                "sourceRefName": "refs/heads/change",
                "targetRefName": f"refs/heads/{base}",
                "lastMergeSourceCommit": {"commitId": head},
                **fork,
            }
        )

    def add_comment(self, body: str, *, is_ours: bool) -> None:
        comment = {"id": 1, "content": body, "author": {"id": US if is_ours else "another"}, "commentType": "text"}
        self.comments.append({"id": len(self.comments) + 1, "comments": [comment]})

    def bodies(self) -> list[str]:
        return [one["comments"][0]["content"] for one in self.comments]
