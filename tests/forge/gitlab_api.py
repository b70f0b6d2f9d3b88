"""GitLab's API as far as the provider uses it.

Shapes: GitLab's REST API documentation (doc/api/commits.md, deployments.md, merge_requests.md, notes.md,
personal_access_tokens.md) and lib/api of gitlabhq/gitlabhq, GitLab 18. What becomes of a status:
app/services/ci/create_commit_status_service.rb; of a deployment: app/models/deployment.rb there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tests.forge.described import Json, Nothing, ProviderApi, Route, Shape
from tests.forge.local_forge import Asked, Reply

Short = Annotated[str, Field(max_length=255)]
State = Literal["pending", "running", "success", "failed", "canceled", "skipped"]
UNFINISHED = ("pending", "running")
US = 7


class Paged(Shape):
    page: int = Field(1, ge=1)
    per_page: int = Field(20, ge=1, le=100)


class ListStatuses(Paged):
    name: str
    all: bool = False


class PostStatus(Shape):
    state: State
    name: Annotated[str, Field(min_length=1, max_length=255)]
    description: Short | None = None
    target_url: Annotated[str, Field(max_length=255, pattern=r"https?://.+")] | None = None
    pipeline_id: int | None = None
    ref: Annotated[str, Field(max_length=255, min_length=1)] | None = None


class ListMergeRequests(Paged):
    state: Literal["opened", "closed", "locked", "merged"]
    target_branch: str
    order_by: Literal["created_at", "updated_at"]
    sort: Literal["asc", "desc"]


class ListNotes(Paged):
    order_by: Literal["created_at", "updated_at"]
    sort: Literal["asc", "desc"]


class WriteNote(Shape):
    body: Annotated[str, Field(min_length=1, max_length=1_000_000)]


class ListDeployments(Paged):
    environment: str
    order_by: Literal["id", "iid", "created_at", "updated_at", "ref"]
    sort: Literal["asc", "desc"]


class CreateDeployment(Shape):
    environment: Annotated[str, Field(min_length=1, max_length=255, pattern=r"[a-zA-Z0-9_/\$\{\}\. -]+")]
    sha: str
    ref: str
    tag: bool
    status: Literal["running", "success", "failed", "canceled"]


class UpdateDeployment(Shape):
    status: Literal["running", "success", "failed", "canceled"]


class GitLabApi(ProviderApi):
    def __init__(self) -> None:
        at = "/api/v4/projects/models%2Fserving"
        notes = f"{at}/merge_requests/{{number}}/notes"
        super().__init__(
            [
                Route("GET", "/api/v4/user", lambda asked: Reply(200, {"id": US})),
                Route("GET", "/api/v4/personal_access_tokens/self", lambda asked: self.token),
                Route("GET", at, lambda asked: self.gate("repository", self.project)),
                Route("GET", f"{at}/repository/commits/{{sha}}/statuses", self._list_statuses, ListStatuses),
                Route("POST", f"{at}/statuses/{{sha}}", self._post_status, Nothing, PostStatus),
                Route("GET", f"{at}/merge_requests", self._list_merge_requests, ListMergeRequests),
                Route("GET", notes, lambda asked, number: self._page(asked, self.comments), ListNotes),
                Route("POST", notes, self._add_note, Nothing, WriteNote),
                Route("PUT", f"{notes}/{{note}}", self._edit_note, Nothing, WriteNote),
                Route("GET", f"{at}/deployments", self._list_deployments, ListDeployments),
                Route("POST", f"{at}/deployments", self._create_deployment, Nothing, CreateDeployment),
                Route("PUT", f"{at}/deployments/{{id}}", self._update_deployment, Nothing, UpdateDeployment),
            ]
        )
        self.token = Reply(200, {"scopes": ["api"], "active": True})
        access = {"project_access": {"access_level": 30}, "group_access": None}
        self.project = Reply(200, {"id": 1, "permissions": access})
        self.statuses: list[Json] = []
        self.deployments: list[Json] = []
        self.pipelines: list[str] = []

    def begin_pipeline(self, sha: str) -> None:
        """As a push to a merge request does."""
        self.pipelines.append(sha)

    def _pipeline(self, sha: str) -> int:
        if sha not in self.pipelines:
            self.pipelines.append(sha)
        return max(at for at, one in enumerate(self.pipelines) if one == sha) + 1

    def _list_statuses(self, asked: Asked, sha: str) -> Reply:
        if sha.startswith("dead"):
            return Reply(404, {"message": "404 Commit Not Found"})
        named = [one for one in self.statuses if one["sha"] == sha and one["name"] == asked.query["name"]]
        newest = {one["pipeline_id"]: one for one in named}
        return Reply(200, list(newest.values()))

    def _post_status(self, asked: Asked, sha: str) -> Reply:
        if sha.startswith("dead"):
            return Reply(404, {"message": "404 Commit Not Found"})
        body = asked.body
        pipeline = body.get("pipeline_id") or self._pipeline(sha)
        same = [one for one in self.statuses if (one["pipeline_id"], one["name"]) == (pipeline, body["name"])]
        job = same[-1] if same and same[-1]["status"] in UNFINISHED else None
        if job and body["state"] in ("pending", "running") and job["status"] == body["state"]:
            text = f"Cannot transition status via :enqueue from :{job['status']} (Reason(s): ...)"
            return Reply(400, {"message": text})
        if job is None:
            job = {"id": len(self.statuses) + 1, "sha": sha, "pipeline_id": pipeline, "ref": "main"}
            self.statuses.append(job)
        job |= {"name": body["name"], "status": body["state"]}
        job |= {key: body.get(key) for key in ("description", "target_url")}
        self.shown[sha, body["name"]] = (body["state"], body.get("description", ""))
        return Reply(201, job)

    def _page(self, asked: Asked, found: list[Json]) -> Reply:
        page, size = int(asked.query.get("page", "1")), int(asked.query.get("per_page", "20"))
        more = {"Link": f'<https://x/?page={page + 1}>; rel="next"'} if len(found) > page * size else {}
        return Reply(200, found[(page - 1) * size : page * size], more)

    def _list_merge_requests(self, asked: Asked) -> Reply:
        branch = asked.query["target_branch"]
        return self._page(asked, [one for one in self.pull_requests if one["target_branch"] == branch])

    def _add_note(self, asked: Asked, number: str) -> Reply:
        self.add_comment(asked.body["body"], is_ours=True)
        return Reply(201, self.comments[-1])

    def _edit_note(self, asked: Asked, number: str, identity: str) -> Reply:
        return self.edit("id", identity, {"body": asked.body["body"]})

    def _list_deployments(self, asked: Asked) -> Reply:
        named = [one for one in self.deployments if one["environment"]["name"] == asked.query["environment"]]
        return self._page(asked, named[::-1] if asked.query["sort"] == "desc" else named)

    def _create_deployment(self, asked: Asked) -> Reply:
        body: Any = asked.body
        made = {"id": len(self.deployments) + 1, "sha": body["sha"], "status": body["status"]}
        self.deployments.append(made | {"environment": {"name": body["environment"]}})
        return Reply(201, made)

    def _update_deployment(self, asked: Asked, identity: str) -> Reply:
        found, state = self.deployments[int(identity) - 1], asked.body["status"]
        if found["status"] == state or state == "running":
            return Reply(400, {"message": {"status": ["cannot transition"]}})
        found["status"] = state
        return Reply(200, found)

    def refuse(self, what: str) -> None:
        self.token = Reply(200, {"scopes": ["read_api"]})

    def add_pull_request(self, number: int, head: str, base: str, *, is_fork: bool) -> None:
        self.pull_requests.append(
            {
                "iid": number,
                "title": f"Change {number}",
                "sha": head,
                "target_branch": base,
                "source_project_id": 2 if is_fork else 1,
                "target_project_id": 1,
                "web_url": self.url_of(number),
            }
        )

    def add_comment(self, body: str, *, is_ours: bool) -> None:
        author = {"id": US if is_ours else 8}
        self.comments.append({"id": len(self.comments) + 1, "body": body, "system": False, "author": author})

    def bodies(self) -> list[str]:
        return [one["body"] for one in self.comments]
