"""Pages of what git says: a revision, the revisions that were seen, and the tree that is read."""

from __future__ import annotations

import re

from starlette.requests import Request

from reconciler.page.change import change_document, changes_document
from reconciler.page.repository import TreeFilter, repository_document
from reconciler.report.status import Document
from reconciler.web.control import Control
from reconciler.web.pages.facts import PageNotFound

_DIGITS = re.compile(r"[0-9a-f]{7,40}")
_ROWS = 50
_LONGEST_TEXT = 200
_MOST_PAGES = 10_000


def change(control: Control, request: Request) -> Document:
    """`revision` of the path has at least the first 7 digits. Raises PageNotFound."""
    digits = request.path_params["revision"].lower()
    if not _DIGITS.fullmatch(digits):
        raise PageNotFound(
            f'"{digits[:50]}" is not a revision: give 7 to 40 digits of a commit. /changes lists revisions.'
        )
    facts, status = control.page_facts(), control.status()
    found = facts.find(digits, status)
    if len(found) > 1:
        named = ", ".join(one[:12] for one in found)
        raise PageNotFound(f"{digits} may be any of several revisions; give more digits of one: {named}.")
    if not found:
        raise PageNotFound(
            f"This daemon knows no revision that begins with {digits}. It knows those of the branch or tag that it "
            "follows, once it has fetched them: /changes lists them. If it was pushed just now, reload this page soon."
        )
    return change_document(facts.change(found[0], status), facts.links())


def changes(control: Control, request: Request) -> Document:
    """The revisions that were seen, the latest first."""
    facts = control.page_facts()
    return changes_document(facts.changes(control.status(), _ROWS, _number(request, "before")), facts.links())


def repository(control: Control, request: Request) -> Document:
    """The tree that is read. Raises PageNotFound for a target that there is not."""
    asked = request.query_params
    facts = control.page_facts()
    trees, target = facts.trees(), asked.get("target", "")
    if target and target not in (tree.name for tree in trees):
        raise PageNotFound(
            f'There is no target "{target[:100]}". Targets are {", ".join(tree.name for tree in trees)}.'
        )
    shown = TreeFilter(
        target=target,
        only_findings=asked.get("only") == "findings",
        text=asked.get("q", "").strip()[:_LONGEST_TEXT],
        page=min(_number(request, "page") or 1, _MOST_PAGES),
    )
    return repository_document(trees, shown, facts.links(), control.status())


def _number(request: Request, name: str) -> int | None:
    """None where it is not given, or is no number that can be meant."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
