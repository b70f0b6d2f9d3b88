"""Commits' trailers `Reconciler-Approve`, and what is remembered of a rewritten history."""

from __future__ import annotations

from pathlib import Path

from reconciler.source import GitSource
from tests.source.parts import source_of
from tests.support.git_repository import Repository

_ONE, _TWO = "a" * 16, "b" * 16


def _hashes(source: GitSource) -> list[str]:
    return [one.hash for one in source.poll().approvals]


def test_trailer_of_the_first_revision_names_its_commit_and_author(repository: Repository, source: GitSource) -> None:
    commit = repository.commit(f"Delete all\n\nReconciler-Approve: {_ONE}\n")
    (found,) = source.poll().approvals
    assert (found.hash, found.commit, found.author) == (_ONE, commit, "Ada")


def test_trailers_of_all_commits_since_the_last_revision_count(repository: Repository, source: GitSource) -> None:
    repository.commit(f"Old\n\nReconciler-Approve: {_ONE}\n")
    source.poll()
    repository.commit(f"New\n\nReconciler-Approve: {_TWO}\n")
    repository.commit("Newest")
    assert _hashes(source) == [_TWO]
    repository.commit("Later")
    assert _hashes(source) == []


def test_trailer_in_a_merged_branch_counts(repository: Repository, source: GitSource) -> None:
    source.poll()
    repository.git("checkout", "--quiet", "-b", "side")
    repository.commit(f"Aside\n\nreconciler-approve: {_ONE.upper()}\n")
    repository.git("checkout", "--quiet", "main")
    repository.commit("Ahead")
    repository.git("merge", "--quiet", "--no-edit", "side")
    assert _hashes(source) == [_ONE]


def test_trailers_are_the_same_after_a_restart(repository: Repository, mirror: Path, source: GitSource) -> None:
    source.poll()
    repository.commit(f"Delete\n\nReconciler-Approve: {_ONE}\n")
    repository.commit("On top")
    source.poll()
    restarted = source_of(repository, mirror).last_good()
    assert restarted
    assert [one.hash for one in restarted.approvals] == [_ONE]
    assert _hashes(source_of(repository, mirror)) == [_ONE]


def test_hash_that_is_no_trailer_approves_nothing(repository: Repository, source: GitSource) -> None:
    source.poll()
    repository.commit(f"Talk of Reconciler-Approve: {_ONE}\n\nReconciler-Approve: {_ONE}\n\nand more text\n")
    repository.commit("Odd\n\nReconciler-Approve: everything; --output=/tmp/x\nReconciler-Approve:\n")
    assert _hashes(source) == []


def test_message_beyond_all_limits_approves_nothing(repository: Repository, source: GitSource) -> None:
    source.poll()
    lines = "".join(f"Reconciler-Approve: {number:016x}\n" for number in range(10_000))
    repository.git("commit", "--quiet", "--allow-empty", "--file", "-", stdin=f"Many\n\n{lines}".encode())
    assert _hashes(source) == []


def test_rewritten_history_is_remembered_over_later_commits(repository: Repository, mirror: Path) -> None:
    source = source_of(repository, mirror, allow_rewrites=True)
    repository.commit("Second")
    assert source.poll().rewrite == ""
    repository.git("commit", "--quiet", "--allow-empty", "--amend", "--message", "Second, again")
    rewritten = source.poll()
    assert rewritten.rewrite == rewritten.revision
    repository.commit("Third")
    assert source.poll().rewrite == rewritten.revision
    assert source_of(repository, mirror).poll().rewrite == rewritten.revision
