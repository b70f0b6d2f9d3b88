"""An API as its makers describe it: which requests there are, and the shape of each. What is against it is a failure.

The shapes of each forge name the document they were written after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, ValidationError

from tests.forge.local_forge import Asked, Reply

Json = dict[str, Any]


class Shape(BaseModel):
    """Keys of a query or a body: no others, and no other types."""

    model_config = ConfigDict(extra="forbid")


class Nothing(Shape):
    pass


class AnyBody(Shape):
    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class Route:
    """`path`: with `{name}` for one quoted segment; each is unquoted and given to `answer` after the request."""

    method: str
    path: str
    answer: Callable[..., Reply]
    query: type[Shape] = Nothing
    body: type[Shape] | None = None

    def match(self, asked: Asked) -> list[str] | None:
        pattern = re.sub(r"\\{\w+\\}", "([^/]+)", re.escape(self.path))
        found = re.fullmatch(pattern, asked.path) if asked.method == self.method else None
        return [unquote(segment) for segment in found.groups()] if found else None


class Described:
    """Answers requests. `violations`: what was asked against the description; tests end with none."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes, self.violations = routes, list[str]()

    def __call__(self, asked: Asked) -> Reply:
        for route in self._routes:
            if (segments := route.match(asked)) is not None:
                return self._checked(route, asked, segments)
        return self._wrong(asked, "no such path")

    def _checked(self, route: Route, asked: Asked, segments: list[str]) -> Reply:
        try:
            route.query.model_validate(dict(asked.query))
            if route.body is not None:
                route.body.model_validate(asked.body, strict=True)
            elif asked.body is not None:
                return self._wrong(asked, "takes no body")
        except ValidationError as error:
            return self._wrong(asked, str(error))
        return route.answer(asked, *segments)

    def _wrong(self, asked: Asked, why: str) -> Reply:
        self.violations.append(f"{asked.method} {asked.path} {dict(asked.query)} {asked.body}: {why}")
        return Reply(400, {"message": "against the description"})


class ProviderApi(Described):
    """One repository, of whose commits all are known but those that begin with `dead`.

    `shown`: word and description of the latest status by revision and name. `refused`: of `repository`, `status` and
    `comment` what the token may not have.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        super().__init__(routes)
        self.shown: dict[tuple[str, str], tuple[str, str]] = {}
        self.pull_requests: list[Json] = []
        self.comments: list[Json] = []
        self.refused: dict[str, int] = {}

    def gate(self, what: str, reply: Reply) -> Reply:
        return Reply(self.refused[what], {"message": "no"}) if what in self.refused else reply

    def probe(self, what: str) -> Reply:
        """A request about nothing: refused, or else wrong."""
        return self.gate(what, Reply(404, {"message": "no such thing"}))

    def refuse(self, what: str) -> None:
        self.refused[what] = 403

    def edit(self, key: str, value: str, change: Json) -> Reply:
        """One of the comments."""
        for one in self.comments:
            if str(one[key]) == value:
                one |= change
                return Reply(200, one)
        return Reply(404, {"message": "no such comment"})

    def url_of(self, number: int) -> str:
        return f"https://forge.example.com/{number}"

    def add_pull_request(self, number: int, head: str, base: str, *, is_fork: bool) -> None:
        raise NotImplementedError

    def add_comment(self, body: str, *, is_ours: bool) -> None:
        raise NotImplementedError

    def bodies(self) -> list[str]:
        """Of the comments, as the forge has them."""
        raise NotImplementedError
