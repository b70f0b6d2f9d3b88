"""The provider for Gitea and Forgejo: what needs no Gitea."""

from __future__ import annotations

import pytest

from reconciler.forge.gitea import _superseded


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("1.26.0", "skipped"),
        ("1.25.0+dev-12-gabc", "skipped"),
        ("1.24.7", "warning"),
        ("11.0.1+gitea-1.22.0", "warning"),
        ("", "warning"),
    ],
)
def test_superseded_is_a_state_that_the_version_knows(version: str, state: str) -> None:
    assert _superseded(version) == state
