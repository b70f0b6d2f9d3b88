"""What people are shown of commits: read from the mirror beside a poll, within limits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.source import GitSource
from reconciler.source import commits as module
from reconciler.source.commits import MOST_FILES, ChangedFile, Commit, Commits
from tests.support.git_repository import Repository


@pytest.fixture
def commits(mirror: Path) -> Commits:
    return Commits(mirror)


def read(commits: Commits, revision: str) -> Commit:
    found = commits.read(revision)
    assert found is not None
    return found


def test_first_commit_has_all_its_files_and_no_parent(source: GitSource, commits: Commits):
    found = read(commits, source.poll().revision)
    assert (found.subject, found.body, found.parents) == ("Serve chat", "", ())
    assert (found.author.name, found.committer.email) == ("Ada", "ada@example.invalid")
    assert found.files[0] == ChangedFile("hosts/a/chat.yaml", 1, 0)
    assert found.file_count == len(found.files) == 4


def test_later_commit_shows_what_it_changed_line_by_line(repository: Repository, source: GitSource, commits: Commits):
    first = source.poll().revision
    repository.write("hosts/a/chat.yaml", "kind: InferenceService\nspec: {}\n")
    repository.write("a\tb\n.bin", b"\0binary")
    repository.git("rm", "--quiet", "hosts/b/other.yaml")
    second = repository.commit("Change chat\n\nBecause of\n\nthis.")
    source.poll()
    found = read(commits, second)
    assert found.parents == (first,)
    assert found.body == "Because of\n\nthis."
    assert set(found.files) == {
        ChangedFile("a\tb\n.bin", None, None),
        ChangedFile("hosts/a/chat.yaml", 1, 0),
        ChangedFile("hosts/b/other.yaml", 0, 1),
    }


def test_merge_is_compared_with_its_first_parent(repository: Repository, source: GitSource, commits: Commits):
    repository.git("checkout", "--quiet", "-b", "side")
    repository.write("hosts/a/side.yaml")
    repository.commit("Side")
    repository.git("checkout", "--quiet", "main")
    repository.write("hosts/a/main.yaml")
    repository.commit("Main")
    repository.git("merge", "--quiet", "--no-ff", "-m", "Merge side", "side")
    found = read(commits, source.poll().revision)
    assert len(found.parents) == 2
    assert found.files == (ChangedFile("hosts/a/side.yaml", 1, 0),)


def test_commit_is_found_by_its_first_digits(repository: Repository, source: GitSource, commits: Commits):
    revision = source.poll().revision
    assert commits.find(revision[:7]) == commits.find(revision) == revision
    tree = repository.git("rev-parse", "HEAD^{tree}")
    for other in (revision[:6], "0" * 40, "main", tree):
        assert commits.find(other) is None
        assert commits.read(other) is None


def test_before_the_first_fetch_nothing_is_known(commits: Commits):
    assert commits.find("a" * 40) is None
    assert commits.read("a" * 40) is None
    assert commits.lines(["a" * 40]) == {}


def test_lines_of_a_list_leave_out_what_is_not_here(repository: Repository, source: GitSource, commits: Commits):
    first = source.poll().revision
    second = repository.commit("Second")
    source.poll()
    found = commits.lines([second, "b" * 40, first, "not-a-revision"])
    assert {one: line.subject for one, line in found.items()} == {second: "Second", first: "Serve chat"}
    assert found[first].author == "Ada"


def test_many_files_and_long_texts_are_cut(repository: Repository, source: GitSource, commits: Commits):
    for number in range(MOST_FILES + 20):
        repository.write(f"hosts/a/many/{number}.txt")
    source.poll()
    revision = repository.commit("x" * 5_000 + "\n\n" + "y" * 50_000)
    source.poll()
    found = read(commits, revision)
    assert (len(found.files), found.file_count) == (MOST_FILES, MOST_FILES + 20)
    assert len(found.subject) == 300
    assert found.body.endswith("… (50,000 characters)")


def test_endless_message_is_left_out_and_the_rest_is_read(
    repository: Repository, source: GitSource, commits: Commits, tmp_path: Path
):
    (tmp_path / "message").write_text("a word\n" * 300_000)
    repository.git("commit", "--quiet", "--allow-empty", "--file", str(tmp_path / "message"))
    revision = source.poll().revision
    found = read(commits, revision)
    assert (found.subject, found.author.name) == ("", "Ada")
    assert "more than 1,048,576 bytes" in found.body


def test_reading_waits_for_no_poll_that_holds_the_mirror(source: GitSource, mirror: Path, commits: Commits):
    revision = source.poll().revision
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with source._lock, source._mirror.exclusive(None):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert entered.wait(30)
        assert read(commits, revision).subject == "Serve chat"
    finally:
        leave.set()
        thread.join()


def test_reader_that_waits_too_long_for_its_turn_is_told(
    source: GitSource, commits: Commits, monkeypatch: pytest.MonkeyPatch
):
    revision = source.poll().revision
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    with commits._turn, pytest.raises(Retryable, match="reload the page"):
        commits.read(revision)


def test_what_was_read_once_needs_no_mirror_any_more(source: GitSource, commits: Commits, mirror: Path):
    revision = source.poll().revision
    first = read(commits, revision)
    commits.lines([revision])
    (mirror / "repository").rename(mirror / "gone")
    assert commits.read(revision) is first
    assert commits.lines([revision])[revision].subject == "Serve chat"
    assert commits.find(revision) == revision
