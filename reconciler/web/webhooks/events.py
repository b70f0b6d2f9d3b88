"""What a webhook's payload says happened, as far as it can be read. Pure.

Only a hint: it decides whether git is asked now instead of at the next poll. So whatever is missing or of another type
than expected counts as "may concern us", and nothing here raises for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_LONGEST = 400
_MOST_REFS = 1_000


class What(StrEnum):
    """Kinds of events, as far as they differ for us."""

    PUSH = "push"
    PULL_REQUEST = "pull_request"
    OTHER = "other"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Event:
    """`repository` is OWNER/NAME, `refs` are full names (`refs/heads/main`); empty where the payload does not say."""

    what: What
    repository: str = ""
    refs: tuple[str, ...] = ()


# Event names of the forges; all others concern nobody here. Among these are comments and statuses, so that our own ones
# do not wake us.
_PUSHES = {
    "github": ("push", "create"),
    "gitea": ("push", "create"),
    "gitlab": ("push", "tag_push"),
    "bitbucket": ("repo:push", "repo:refs_changed"),
}
_PULL_REQUESTS = {
    "github": ("pull_request",),
    "gitea": ("pull_request", "pull_request_sync"),
    "gitlab": ("merge_request",),
    "bitbucket": (
        "pullrequest:created",
        "pullrequest:updated",
        "pullrequest:fulfilled",
        "pullrequest:rejected",
        "pr:opened",
        "pr:from_ref_updated",
        "pr:modified",
        "pr:merged",
        "pr:declined",
        "pr:reopened",
    ),
}
_NAME_HEADERS = {
    "github": ("x-github-event",),
    "gitea": ("x-forgejo-event", "x-gitea-event"),
    "bitbucket": ("x-event-key",),
}


def read_event(kind: str, headers: Mapping[str, str], body: bytes) -> Event:
    """`kind` is the webhook's in the config; header names are in small letters."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Event(What.UNREADABLE)
    if not isinstance(document, dict):
        return Event(What.UNREADABLE)
    match _what(kind, _name(kind, headers, document)):
        case What.PUSH:
            return Event(What.PUSH, _repository(document), _refs(document))
        case What.PULL_REQUEST:
            return Event(What.PULL_REQUEST, _repository(document))
        case what:
            return Event(what)


def _name(kind: str, headers: Mapping[str, str], document: dict[str, Any]) -> str:
    if kind == "gitlab":
        return _text(document, "object_kind") or _text(document, "event_name")
    return next((headers[name] for name in _NAME_HEADERS.get(kind, ()) if name in headers), "")


def _what(kind: str, name: str) -> What:
    """An event without a name is taken for a push."""
    if not name or name in _PUSHES.get(kind, ()):
        return What.PUSH
    return What.PULL_REQUEST if name in _PULL_REQUESTS.get(kind, ()) else What.OTHER


def _repository(document: dict[str, Any]) -> str:
    """GitHub, Gitea and Bitbucket Cloud; GitLab; Bitbucket Server, also of a pull request; or just text."""
    found = (
        _text(document, "repository", "full_name")
        or _text(document, "project", "path_with_namespace")
        or _of_bitbucket_server(document.get("repository"))
        or _of_bitbucket_server(_at(document, "pullRequest", "toRef", "repository"))
    )
    return found or _text(document, "repository")


def _of_bitbucket_server(repository: object) -> str:
    project, slug = _text(repository, "project", "key"), _text(repository, "slug")
    return f"{project}/{slug}" if project and slug else ""


def _refs(document: dict[str, Any]) -> tuple[str, ...]:
    if "push" in document or "changes" in document:
        changes = document.get("changes") or _at(document, "push", "changes")
        found = [_changed_ref(change) for change in changes[:_MOST_REFS]] if isinstance(changes, list) else []
    else:
        found = [_pushed_ref(document)]
    # One that cannot be read may be ours.
    return tuple(found) if all(found) else ()


def _pushed_ref(document: dict[str, Any]) -> str:
    ref = _text(document, "ref")
    return _named(_text(document, "ref_type"), ref) if "ref_type" in document else ref


def _changed_ref(change: object) -> str:
    """Of Bitbucket: Server names the reference, Cloud says what was there before and what is now, each of which may be
    null."""
    ends = (_at(change, "new"), _at(change, "old"))
    return _text(change, "ref", "id") or next(
        (ref for end in ends if (ref := _named(_text(end, "type"), _text(end, "name")))), ""
    )


def _named(type_: str, name: str) -> str:
    prefix = {"branch": "refs/heads/", "tag": "refs/tags/"}.get(type_)
    return f"{prefix}{name}" if prefix and name else ""


def _text(document: object, *path: str) -> str:
    """The text at a path; empty where there is none, or far too much."""
    found = _at(document, *path)
    return found if isinstance(found, str) and len(found) <= _LONGEST else ""


def _at(document: object, *path: str) -> object:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document
