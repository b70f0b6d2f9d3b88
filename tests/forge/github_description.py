"""GitHub's own description of its API, cut to what we ask: what a request must be, and what an answer looks like.

It comes from the npm package `@octokit/openapi`, which `tests/run.sh` installs.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest

from tests.forge.local_forge import Asked

SERVER = "https://api.github.com"
REPOSITORY = "/repos/{owner}/{repo}"
PATHS = (
    "/user",
    REPOSITORY,
    f"{REPOSITORY}/statuses/{{sha}}",
    f"{REPOSITORY}/commits/{{ref}}/status",
    f"{REPOSITORY}/pulls",
    f"{REPOSITORY}/issues/{{issue_number}}/comments",
    f"{REPOSITORY}/issues/comments/{{comment_id}}",
    f"{REPOSITORY}/deployments",
    f"{REPOSITORY}/deployments/{{deployment_id}}/statuses",
    f"{REPOSITORY}/installation",
    "/app/installations/{installation_id}/access_tokens",
)


class Description:
    """`full`: the whole document."""

    def __init__(self, full: Mapping[str, Any]) -> None:
        self._part = _cut(full)
        self._api = OpenAPI.from_dict(self._part)

    def problems(self, asked: Asked) -> list[str]:
        """What GitHub would not understand of a request."""
        request = MockRequest(
            SERVER,
            asked.method.lower(),
            unquote(asked.path),
            args=dict(asked.query),
            headers=dict(asked.headers),
            data=None if asked.body is None else json.dumps(asked.body).encode(),
            content_type=asked.headers.get("content-type", ""),
        )
        found = [
            f"{type(error).__name__}: {error.__cause__ or error}" for error in self._api.iter_request_errors(request)
        ]
        return [f"{asked.method} {asked.path}: {each}" for each in found or self._unknown(asked)]

    def template(self, path: str) -> str:
        """Of a request's path; empty: GitHub has none."""
        forms = {one: re.sub(r"\\{\w+\\}", "[^/]+", re.escape(one)) for one in PATHS}
        return next((one for one, form in forms.items() if re.fullmatch(form, path)), "")

    def _unknown(self, asked: Asked) -> list[str]:
        """Parameters and fields that GitHub would pass over: a slip of the pen."""
        operation = self._part["paths"][self.template(asked.path)][asked.method.lower()]
        parameters = {self._resolved(one)["name"] for one in operation.get("parameters", ())}
        found = [f"no parameter {name}" for name in asked.query if name not in parameters]
        if asked.body is not None:
            fields = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
            found += [f"no field {name}" for name in asked.body if name not in fields]
        return found

    def example(self, path: str, method: str, status: int) -> Any:
        """The body of an answer, as GitHub shows it."""
        media = self._part["paths"][path][method]["responses"][str(status)]["content"]["application/json"]
        return copy.deepcopy(self._resolved(next(iter(media["examples"].values())))["value"])

    def _resolved(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in value:
            return value
        found: Any = self._part
        for key in value["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        return found  # type: ignore[no-any-return]


def _cut(full: Mapping[str, Any]) -> dict[str, Any]:
    """What the paths refer to, and what that refers to in turn."""
    part: dict[str, Any] = {
        "openapi": full["openapi"],
        "info": {"title": "part", "version": full["info"]["version"]},
        "servers": [{"url": SERVER}],
        "paths": {path: full["paths"][path] for path in PATHS},
        "components": {},
    }
    todo: list[Any] = [part]
    while todo:
        for kind, name in re.findall(r'"\$ref": "#/components/(\w+)/([^"]+)"', json.dumps(todo.pop())):
            known = part["components"].setdefault(kind, {})
            if name not in known:
                known[name] = full["components"][kind][name]
                todo.append(known[name])
    return part


@cache
def description() -> Description:
    """Skips the test where it is not installed."""
    folder = os.environ.get("RECONCILER_TEST_OCTOKIT")
    path = Path(folder or "/nowhere") / "api.github.com.json"
    if not path.is_file():
        pytest.skip("GitHub's description of its API is not installed; tests/run.sh forge installs it")
    return Description(json.loads(path.read_bytes()))
