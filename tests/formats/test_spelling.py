"""A misspelt name gets a suggestion, also where only its case is wrong."""

from __future__ import annotations

import pytest

from reconciler.formats.spelling import nearest

FIELDS = ("storage", "storageUri", "minReplicas", "args")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("storageURI", "storageUri"),
        ("storage_uri", "storageUri"),
        ("min-replica", "minReplicas"),
        ("arg", "args"),
        ("colour", ""),
    ],
)
def test_nearest_name_is_found_whatever_its_case(word: str, meant: str) -> None:
    assert nearest(word, FIELDS) == meant
