"""The Overview: all targets and services, and what needs a person first. Pure."""

from __future__ import annotations

from reconciler.report.status import Document

SCHEMA = "reconciler.page.overview/v1"


def overview_document(status: Document) -> Document:
    """What the Overview shows, from the status document."""
    return {"schema": SCHEMA, "revision": status["revision"], "targets": status["targets"]}
