"""What an API server does with a document that is applied: its stored form, and what is refused of it.

The one place where a single document is validated, for `validate` and for what runs alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.kserve import schema
from reconciler.kserve.objectmeta import metadata_flaws
from reconciler.kserve.schema_nodes import Flaw


def read(document: Mapping[str, Any], *, mutated: bool = False) -> tuple[dict[str, Any], tuple[Flaw, ...]]:
    """A document in the form a cluster stores it, and what its schema and the rules for metadata refuse about it.

    `mutated` is True for kinds whose webhook rewrites them before the schema is checked.
    """
    clean, flaws = schema.read(document, mutated=mutated)
    metadata = clean.get("metadata")
    return clean, (*flaws, *(metadata_flaws(clean) if isinstance(metadata, dict) else ()))


def is_checked(document: Mapping[str, Any]) -> bool:
    """Is there a schema for this kind?"""
    return schema.root_of(document) is not None
