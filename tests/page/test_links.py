"""Addresses of commits and lines at each kind of forge."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.forge import ForgeSettings
from reconciler.forge.remote import Kind, find_remote
from reconciler.page.links import ForgeLinks

REVISION = "0123456789abcdef0123456789abcdef01234567"
PLACES = {
    "https://github.com/team/models.git": (
        f"https://github.com/team/models/commit/{REVISION}",
        f"https://github.com/team/models/blob/{REVISION}/a%20b/c.yaml#L7",
    ),
    "git@team.ghe.com:team/models.git": (
        f"https://team.ghe.com/team/models/commit/{REVISION}",
        f"https://team.ghe.com/team/models/blob/{REVISION}/a%20b/c.yaml#L7",
    ),
    "https://gitlab.example.com/g/sub/models": (
        f"https://gitlab.example.com/g/sub/models/-/commit/{REVISION}",
        f"https://gitlab.example.com/g/sub/models/-/blob/{REVISION}/a%20b/c.yaml#L7",
    ),
    "https://codeberg.org/team/models": (
        f"https://codeberg.org/team/models/commit/{REVISION}",
        f"https://codeberg.org/team/models/src/commit/{REVISION}/a%20b/c.yaml#L7",
    ),
    "git@bitbucket.org:team/models.git": (
        f"https://bitbucket.org/team/models/commits/{REVISION}",
        f"https://bitbucket.org/team/models/src/{REVISION}/a%20b/c.yaml#lines-7",
    ),
    "https://git.example.com/code/scm/~eve/models.git": (
        f"https://git.example.com/code/projects/~eve/repos/models/commits/{REVISION}",
        f"https://git.example.com/code/projects/~eve/repos/models/browse/a%20b/c.yaml?at={REVISION}#7",
    ),
    "https://org@dev.azure.com/org/My%20Project/_git/models": (
        f"https://dev.azure.com/org/My%20Project/_git/models/commit/{REVISION}",
        f"https://dev.azure.com/org/My%20Project/_git/models?path=/a%20b/c.yaml&version=GC{REVISION}"
        "&line=7&lineEnd=8&lineStartColumn=1&lineEndColumn=1",
    ),
}
KINDS: dict[Kind, str] = {
    "github": "a/b",
    "gitlab": "a/b/c",
    "gitea": "a/b",
    "bitbucket": "a/b",
    "bitbucket-server": "a/b",
    "azure-devops": "a/b/c",
}


def links(source: str, **forge: str) -> ForgeLinks:
    return ForgeLinks(find_remote(source, ForgeSettings.model_validate(forge)))


@pytest.mark.parametrize("url", PLACES)
def test_each_forge_shows_commits_and_lines_at_its_own_addresses(url: str) -> None:
    found = links(url)
    assert (found.commit(REVISION), found.line(REVISION, "a b/c.yaml", 7)) == PLACES[url]


def test_forge_below_a_path_of_its_host_is_linked_there() -> None:
    found = links("git@git.example.com:a/b.git", kind="gitlab", url="https://git.example.com/lab/")
    assert found.commit(REVISION) == f"https://git.example.com/lab/a/b/-/commit/{REVISION}"


def test_file_without_line_and_folder_have_no_fragment() -> None:
    found = links("https://github.com/a/b")
    assert found.line(REVISION, "c.yaml").endswith("/c.yaml")
    assert found.line(REVISION, "models/", 1).endswith("/models")


@pytest.mark.parametrize("revision", ["", "abc", "main", "../../evil", REVISION.upper()])
def test_what_is_no_revision_has_no_address(revision: str) -> None:
    found = links("https://github.com/a/b")
    assert found.commit(revision) == found.line(revision, "c.yaml", 1) == ""


def test_unknown_forge_and_missing_file_give_no_link() -> None:
    assert ForgeLinks().commit(REVISION) == ForgeLinks().line(REVISION, "c.yaml", 1) == ""
    assert links("https://github.com/a/b").line(REVISION, None, None) == ""


@given(st.sampled_from(sorted(KINDS)), st.text(min_size=1), st.integers(0, 10**6))
def test_path_of_any_text_stays_below_the_repository_and_readable(kind: Kind, path: str, line: int) -> None:
    found = links(f"https://git.example.com/{KINDS[kind]}", kind=kind, url="https://git.example.com")
    address = found.line(REVISION, path, line)
    if not path.strip("/"):
        assert not address
        return
    assert address.isascii()
    assert not set(address) & set("<>\"' \\\n")
    assert urlsplit(address)[:2] == ("https", "git.example.com")
    assert path.strip("/") in unquote(address, errors="surrogateescape")
