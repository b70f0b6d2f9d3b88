"""Which pushes concern the configured repository and reference."""

from __future__ import annotations

import pytest

from reconciler.config.forge import ForgeSettings
from reconciler.config.settings import SourceSettings
from reconciler.web.webhooks.followed import Followed


def followed(repository: str | None = None, **source: str) -> Followed:
    given = {"url": "https://git.example.com/acme/models.git"} | source
    return Followed(SourceSettings(**given), ForgeSettings(repository=repository))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "named", "is_ours"),
    [
        ("https://git.example.com/acme/models.git", "acme/models", True),
        ("https://git.example.com/acme/models", "Acme/Models", True),
        ("ssh://git@git.example.com:7999/acme/models.git", "acme/models", True),
        ("git@git.example.com:acme/models.git", "acme/models", True),
        ("https://git.example.com/scm/acme/models.git", "ACME/models", True),
        ("https://git.example.com/scm/~ann/models.git", "~ANN/models", True),
        ("https://git.example.com/group/acme/models.git", "group/acme/models", True),
        ("https://git.example.com/a%20b/models.git", "a b/models", True),
        ("git@git.example.com:models.git", "acme/models", True),
        ("https://git.example.com/acme/models.git", "", True),
        ("https://git.example.com/acme/models.git", "/", True),
        ("https://git.example.com/acme/models.git", "acme/other", False),
        ("https://git.example.com/acme/models.git", "evil/models", False),
        ("https://git.example.com/acme/models.git", "not-acme/models", False),
        ("https://git.example.com/acme/models.git", "group/not/models", False),
        ("/srv/models.git", "anyone/anything", True),
        ("file:///srv/models.git", "anyone/anything", True),
    ],
)
def test_repository_is_known_by_the_end_of_its_path(url: str, named: str, is_ours: bool) -> None:
    assert followed(url=url).is_repository(named) is is_ours


def test_repository_of_the_forge_settings_is_ours_beside_that_of_the_source() -> None:
    """Where a mirror is fetched, and what is pushed to is the forge."""
    ours = followed("acme/models", url="https://mirror.example.com/copies/m.git")
    assert ours.is_repository("acme/models")
    assert ours.is_repository("copies/m")
    assert not ours.is_repository("acme/m")


@pytest.mark.parametrize(
    ("source", "ours", "others"),
    [
        ({}, ["refs/heads/main"], ["refs/heads/mainline", "refs/tags/main", "main"]),
        ({"branch": "a/b"}, ["refs/heads/a/b"], ["refs/heads/b", "refs/heads/a"]),
        ({"tag": "v1"}, ["refs/tags/v1"], ["refs/heads/v1", "refs/tags/v1.0"]),
        ({"semver": "1.x"}, ["refs/tags/v1.2.3", "refs/tags/2.0.0"], ["refs/heads/main"]),
        ({"commit": "a" * 40}, ["refs/heads/anything"], []),
    ],
)
def test_ref_is_the_configured_one(source: dict[str, str], ours: list[str], others: list[str]) -> None:
    known = followed(**source)
    assert all(known.is_one_of((ref,)) for ref in ours)
    assert not any(known.is_one_of((ref,)) for ref in others)
    assert known.is_one_of((*others, ours[0]))
    assert known.is_one_of(())
