"""`plan --comment`: the plan of a pull request's revision, told to its forge at once. For any CI; needs no daemon."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from reconciler.config.settings import Settings, SourceSettings
from reconciler.errors import ReconcileError
from reconciler.forge.open import open_forge
from reconciler.forge.port import Forge
from reconciler.forge.pull_requests import (
    answers_to,
    answers_without_plan,
    find_pull_request,
    group_of,
    pull_request_of,
    send,
)
from reconciler.loop.once import preview
from reconciler.report.planned import plan_document
from reconciler.report.status import Document
from reconciler.source.reference import Kind, configured_reference


def plan_and_comment(
    settings: Settings,
    target: str | None,
    revision: str,
    pull_request: int | None,
    progress: Callable[[str], None],
) -> Document:
    """The plan's document, after the forge was told. What cannot be planned is told as well. Raises ReconcileError."""
    forge, group = open_forge(settings), group_of(settings.forge)
    names = [one.name for one in settings.targets if target in (None, one.name)]
    try:
        found = preview(settings, target, revision, progress, is_proposed=True)
    except ReconcileError as error:
        # A status needs a commit, and only its digits are known without git.
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            number = pull_request or _number(forge, settings, revision)
            send(forge, answers_without_plan(revision, names, number, str(error), group=group))
        raise
    document = plan_document(found.status, found.plans)
    number = pull_request or _number(forge, settings, document["revision"]["desired"])
    progress(f"telling {forge.name}, pull request {number}")
    send(forge, answers_to(document, number, group=group, url=settings.web.url or ""))
    return document


def followed_branch(settings: SourceSettings) -> str | None:
    """The branch that pull requests go into; None: a tag or commit is followed."""
    wanted = configured_reference(settings)
    return wanted.text if wanted.kind is Kind.BRANCH else None


def _number(forge: Forge, settings: Settings, revision: str) -> int:
    known = pull_request_of(os.environ)
    return known if known is not None else find_pull_request(forge, followed_branch(settings.source), revision)
