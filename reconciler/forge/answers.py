"""Reading what forges answer: lists page by page, and fields that may be missing or of another kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from reconciler.forge.http import Answer, ForgeAway, ForgeRefused, Http, LoginRefused, Request
from reconciler.forge.messages import CommitState, PullRequest


def items(answer: Answer, *path: str) -> list[Any]:
    """The list in an answer, at a path of keys. Raises ForgeAway when there is none: that is not an empty list."""
    found = at(answer.body, *path)
    if not isinstance(found, list):
        raise ForgeAway("the forge answered something else than the list that its API describes; check forge.url")
    return found


def numbered_pages(http: Http, request: Request, most: int) -> Iterator[Any]:
    """The items of at most so many pages, where pages have numbers and the header `Link` says that another follows."""
    for page in range(1, most + 1):
        answer = http.ask(replace(request, query={**request.query, "page": str(page)}))
        yield from items(answer)
        if 'rel="next"' not in answer.headers.get("link", ""):
            return


def at(value: Any, *path: str) -> Any:
    """None where a key is missing or something on the way is no object."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text(value: Any, *path: str) -> str:
    """Without halves of characters, which JSON may hold and no request takes."""
    found = at(value, *path)
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else ""


def integer(value: Any, *path: str) -> int:
    """0 where there is none: forges count from 1."""
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def query_of(url: str) -> dict[str, str]:
    """Of the address of a next page; the rest of it is not used, because the token would go along."""
    try:
        return dict(parse_qsl(urlsplit(url).query))
    except ValueError:
        raise ForgeAway("the forge gave a next page by something else than a URL; trying again later") from None


def is_revision(value: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", value) is not None


def state_of(states: Mapping[CommitState, str], theirs: str) -> CommitState | None:
    """Ours for a forge's word, the first where it has one word for several; None for a word that we never say."""
    return next((ours for ours, word in states.items() if word == theirs), None)


def requests_into(base: str, found: Iterable[PullRequest]) -> tuple[PullRequest, ...]:
    """Those into a branch, without what has no number or no revision. Each once: pages move while they are read."""
    fine = (one for one in found if one.number and is_revision(one.head) and one.base == base)
    return tuple({one.number: one for one in fine}.values())


def login_of(http: Http, request: Request, *path: str) -> Any:
    """What tells the login that we use from others, at a path of an answer. None: the token may not ask that."""
    try:
        return at(http.ask(request).body, *path) or None
    except (LoginRefused, ForgeRefused):
        return None


def is_ours(author: Any, us: Any) -> bool | None:
    """Of something written: None where either is unknown."""
    return None if author is None or us is None else bool(author == us)
