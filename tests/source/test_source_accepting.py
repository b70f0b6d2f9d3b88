"""Which revision is wanted, and which is accepted: real local repositories."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.errors import Retryable, Terminal
from reconciler.source import GitSource
from tests.source.parts import source_of
from tests.support.git_repository import Repository, git

# ---------------------------------------------------------------- references


def test_branch_a_light_tag_an_annotated_tag_and_a_commit_can_be_followed(
    repository: Repository, tmp_path: Path
) -> None:
    first = repository.git("rev-parse", "main")
    repository.git("tag", "light")
    repository.git("tag", "--annotate", "--message", "Yes", "heavy")
    repository.git("tag", "--annotate", "--message", "Yes", "twice", "heavy")
    repository.commit("Later")
    later = repository.git("rev-parse", "main")
    repository.git("branch", "feature/x")
    wishes = [{"tag": "light"}, {"tag": "heavy"}, {"tag": "twice"}, {"commit": first}, {"commit": first.upper()}]
    for number, wish in enumerate([*wishes, {"branch": "feature/x"}, {}]):
        found = source_of(repository, tmp_path / f"mirror{number}", **wish).poll()
        assert found.revision == (first if wish in wishes else later)


def test_name_is_taken_exactly_where_git_would_match_loosely(repository: Repository, mirror: Path) -> None:
    repository.git("update-ref", "refs/heads/other/refs/heads/wanted", "main")
    with pytest.raises(Terminal, match="has no branch wanted"):
        source_of(repository, mirror, branch="wanted").poll()


def test_absent_branch_is_named_with_those_that_exist(repository: Repository, mirror: Path) -> None:
    repository.git("branch", "production")
    with pytest.raises(
        Terminal, match=r"has no branch prodution; it has production; push it, or change source\.branch"
    ):
        source_of(repository, mirror, branch="prodution").poll()
    with pytest.raises(Terminal, match="it has no tag at all"):
        source_of(repository, mirror, tag="v1").poll()


def test_repository_without_a_commit_is_named_as_such(tmp_path: Path, mirror: Path) -> None:
    with pytest.raises(Terminal, match="has no branch main: it has no branch at all; push one"):
        source_of(Repository(tmp_path / "fresh"), mirror).poll()


def test_commit_that_nobody_has_is_refused(repository: Repository, mirror: Path) -> None:
    with pytest.raises(Terminal, match="is not a commit of any branch or tag"):
        source_of(repository, mirror, commit="1" * 40).poll()
    tree = repository.git("rev-parse", "main^{tree}")
    repository.git("tag", "picture", tree)
    for wish in ({"commit": tree}, {"tag": "picture"}):
        with pytest.raises(Terminal, match="is not a commit"):
            source_of(repository, mirror, **wish).poll()


def test_pinned_commit_needs_no_network_once_it_is_here(repository: Repository, mirror: Path) -> None:
    source = source_of(repository, mirror, commit=repository.git("rev-parse", "main"))
    first = source.poll()
    repository.path.rename(repository.path.with_name("moved"))
    assert source.poll() is first


def test_highest_tag_of_a_range_is_followed_even_downwards(repository: Repository, mirror: Path) -> None:
    revisions = {}
    for tag in ("v1.0.0", "1.2.0", "v2.0.0", "v1.3.0-rc.1", "v1.10.0", "nightly"):
        revisions[tag] = repository.commit(tag)
        repository.git("tag", tag)
    source = source_of(repository, mirror, semver=">=1.0.0 <2.0.0")
    assert source.poll().revision == revisions["v1.10.0"]
    repository.git("tag", "--delete", "v1.10.0")
    assert source.poll().revision == revisions["1.2.0"]
    with pytest.raises(Terminal, match=r"no tag in the range >=3.0.0; it has .*v2.0.0"):
        source_of(repository, mirror, semver=">=3.0.0").poll()


def test_sha256_repository_is_refused_by_name(tmp_path: Path, mirror: Path) -> None:
    path = tmp_path / "sha256"
    subprocess.run(["git", "init", "--quiet", "--object-format=sha256", "-b", "main", path], check=True)
    git(path, "commit", "--quiet", "--allow-empty", "--message", "x")
    with pytest.raises(Terminal, match="SHA-256, which is not supported"):
        source_of(path, mirror).poll()


# ---------------------------------------------------------------- rewritten history


def test_rewritten_history_is_refused_until_allowed(repository: Repository, mirror: Path) -> None:
    source = source_of(repository, mirror)
    repository.commit("Second")
    good = source.poll()
    repository.git("commit", "--quiet", "--allow-empty", "--amend", "--message", "Second, again")
    rewritten = repository.git("rev-parse", "main")
    for _ in range(2):
        with pytest.raises(Terminal, match=rf"{good.revision} was accepted, {rewritten} .* source\.allow_rewrites"):
            source.poll()
    assert source.last_good() is good
    restarted = source_of(repository, mirror)
    with pytest.raises(Terminal, match="was rewritten"):
        restarted.poll()
    assert restarted.last_good() == good
    allowed = source_of(repository, mirror, allow_rewrites=True)
    assert allowed.poll().revision == rewritten
    assert restarted.poll().revision == rewritten


def test_branch_that_goes_back_is_a_rewrite_and_one_that_merges_is_not(
    repository: Repository, source: GitSource
) -> None:
    repository.git("checkout", "--quiet", "-b", "side")
    repository.write("hosts/a/side.yaml")
    repository.commit("Aside")
    repository.git("checkout", "--quiet", "main")
    repository.write("hosts/a/main.yaml")
    repository.commit("Ahead")
    source.poll()
    repository.git("merge", "--quiet", "--no-edit", "side")
    merged = source.poll().revision
    assert merged == repository.git("rev-parse", "main")
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    with pytest.raises(Terminal, match="was rewritten"):
        source.poll()


def test_following_another_name_is_no_rewrite(repository: Repository, mirror: Path) -> None:
    repository.git("tag", "v1.0.0")
    repository.commit("Second")
    source_of(repository, mirror).poll()
    older = source_of(repository, mirror, tag="v1.0.0").poll()
    assert older.revision == repository.git("rev-parse", "v1.0.0")
    assert source_of(repository, mirror).poll().revision == repository.git("rev-parse", "main")


def test_moved_tag_is_a_rewrite_whether_named_or_chosen_by_a_range(repository: Repository, mirror: Path) -> None:
    repository.git("tag", "v1.0.0")
    accepted = source_of(repository, mirror, tag="v1.0.0").poll().revision
    moved = repository.commit("Second")
    repository.git("tag", "--force", "v1.0.0")
    for wish in ({"tag": "v1.0.0"}, {"semver": "1.x"}):
        with pytest.raises(Terminal, match=rf"is a tag that was moved: {accepted} was accepted, {moved}"):
            source_of(repository, mirror, **wish).poll()
    repository.git("tag", "v1.0.1")
    assert source_of(repository, mirror, semver="1.x").poll().revision == moved


def test_rewritten_history_is_refused_even_after_the_mirror_was_lost(repository: Repository, mirror: Path) -> None:
    source_of(repository, mirror).poll()
    shutil.rmtree(mirror / "repository")
    repository.git("commit", "--quiet", "--allow-empty", "--amend", "--message", "Other")
    with pytest.raises(Terminal, match="was rewritten"):
        source_of(repository, mirror).poll()


# ---------------------------------------------------------------- another revision, for plan --revision


def test_another_revision_is_found_by_branch_tag_commit_and_digits(repository: Repository, source: GitSource) -> None:
    first = repository.git("rev-parse", "main")
    repository.git("tag", "--annotate", "--message", "Yes", "v1")
    repository.git("checkout", "--quiet", "-b", "feature/x")
    repository.write("hosts/a/new.yaml")
    feature = repository.commit("Try")
    good = source.poll()
    for name in ("feature/x", feature, feature[:7], feature[:9].upper()):
        snapshot = source.snapshot(name)
        assert (snapshot.revision, len(snapshot.files)) == (feature, 3)
    assert source.snapshot("v1").revision == first
    assert source.snapshot("main") is good
    assert source.last_good() is good
    assert source.poll() is good
    assert json.loads((source._mirror.folder.accepted).read_text())["revision"] == first


def test_revision_that_moved_is_looked_up_again(repository: Repository, source: GitSource) -> None:
    source.poll()
    repository.git("checkout", "--quiet", "-b", "topic")
    old = repository.commit("Try")
    assert source.snapshot("topic").revision == old
    repository.git("commit", "--quiet", "--allow-empty", "--amend", "--message", "Again")
    assert source.snapshot("topic").revision == repository.git("rev-parse", "topic")
    repository.git("checkout", "--quiet", "main")
    repository.git("branch", "--quiet", "-D", "topic")
    repository.git("branch", "topic/deeper")
    assert source.snapshot("topic/deeper").revision == repository.git("rev-parse", "main")
    with pytest.raises(Terminal, match="has no branch, tag or commit topic"):
        source.snapshot("topic")


def test_revision_that_is_here_needs_no_remote(repository: Repository, source: GitSource) -> None:
    good = source.poll()
    revision = repository.commit("Later")
    assert source.poll().revision == revision
    repository.path.rename(repository.path.with_name("away"))
    assert source.snapshot(good.revision) == good
    with pytest.raises(Retryable):
        source.snapshot("main")


@pytest.mark.parametrize(
    "text", ["", "HEAD~1", "--upload-pack=x", "-x", "main^", "a b", "@{-1}", "x:y", "\0", "é\ud800"]
)
def test_what_is_no_revision_is_refused(source: GitSource, text: str) -> None:
    with pytest.raises(Terminal, match="is not a revision; give a branch, a tag"):
        source.snapshot(text)


def test_closing_forgets_what_was_read_but_not_what_was_accepted(source: GitSource) -> None:
    good = source.poll()
    source.close()
    assert source.last_good() == good
