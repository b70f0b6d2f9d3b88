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


class Shape(BaseModel):
    """Keys of a query or a body: no others, and no other types."""

    model_config = ConfigDict(extra="forbid")


class Nothing(Shape):
    pass


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


Json = dict[str, Any]
