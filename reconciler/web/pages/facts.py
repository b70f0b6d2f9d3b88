"""What pages of git show beyond the status, as the loop offers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from reconciler.page.change import ChangeFacts, ChangesFacts
from reconciler.page.links import ForgeLinks
from reconciler.page.repository import TargetTree
from reconciler.report.status import Document


class PageNotFound(Exception):
    """There is no such page; the message says what to do."""


class PageFacts(Protocol):
    """Called from other threads. Nothing waits for a pass or a fetch. Raises ReconcileError.

    `status`: the status document that all parts of a page follow from.
    """

    def links(self) -> ForgeLinks:
        """Where the forge shows what is in git."""

    def find(self, digits: str, status: Document) -> Sequence[str]:
        """The revisions that begin with these digits, at least 7; more than one where they are ambiguous."""

    def change(self, revision: str, status: Document) -> ChangeFacts:
        """All that is known of one; `find` has found it."""

    def changes(self, status: Document, limit: int, before: int | None) -> ChangesFacts:
        """The revisions that were seen, the latest first; `before`: the place from which older ones follow."""

    def trees(self) -> Sequence[TargetTree]:
        """By target, what is read of git and what was found in it."""
