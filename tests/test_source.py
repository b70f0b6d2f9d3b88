"""The source on real local repositories: what it reads, accepts, refuses and survives."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from reconciler.config import Source
from reconciler.errors import Retryable, Terminal
from reconciler.model import Snapshot
from reconciler.source import GitSource
from reconciler.source import poll as poll_module
from tests.git_repository import Repository, entry, git

PATHS = ("runtimes", "hosts/a")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "origin")
    made.write("runtimes/vllm.yaml", "kind: ServingRuntime\n")
    made.write("hosts/a/chat.yaml", "kind: InferenceService\n")
    made.write("hosts/a/notes.md", "not for us\n")
    made.write("hosts/b/other.yaml", "kind: InferenceService\n")
    made.commit("Serve chat")
    return made


def source_of(
    where: Repository | Path | str, mirror: Path, paths: tuple[str, ...] = PATHS, **settings: object
) -> GitSource:
    url = str(where.path if isinstance(where, Repository) else where)
    return GitSource(Source.model_validate({"url": url, **settings}), mirror, paths)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "state" / "git"


@pytest.fixture
def source(repository: Repository, mirror: Path) -> GitSource:
    return source_of(repository, mirror)


def codes(snapshot: Snapshot) -> dict[str, str]:
    return {reason.origin.file: reason.code for reason in snapshot.refused if reason.origin}


# ---------------------------------------------------------------- reading


def test_a_revision_is_read_with_its_files_subject_and_time(repository: Repository, source: GitSource) -> None:
    snapshot = source.poll()
    assert snapshot.revision == repository.git("rev-parse", "main")
    assert [(file.path, file.data) for file in snapshot.files] == [
        ("hosts/a/chat.yaml", b"kind: InferenceService\n"),
        ("runtimes/vllm.yaml", b"kind: ServingRuntime\n"),
    ]
    assert snapshot.files[0].oid == repository.git("rev-parse", "main:hosts/a/chat.yaml")
    assert snapshot.subject == "Serve chat"
    assert snapshot.committed_at == float(repository.git("log", "-1", "--format=%ct"))
    assert snapshot.refused == snapshot.missing == ()


def test_the_same_revision_is_the_same_object_and_writes_nothing(source: GitSource, mirror: Path) -> None:
    first = source.poll()
    before = {path: path.stat().st_mtime_ns for path in mirror.rglob("*")}
    assert source.poll() is first
    assert source.last_good() is first
    assert {path: path.stat().st_mtime_ns for path in mirror.rglob("*")} == before


def test_an_unchanged_remote_is_asked_but_not_fetched(source: GitSource, monkeypatch: pytest.MonkeyPatch) -> None:
    source.poll()
    calls: list[tuple[str, ...]] = []
    real = poll_module.run_git

    def noting(*arguments: str, **options: object) -> bytes:
        calls.append(arguments)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("reconciler.source.poll.run_git", noting)
    monkeypatch.setattr("reconciler.source.mirror.run_git", noting)
    source.poll()
    assert [next(word for word in call if not word.startswith("-")) for call in calls] == ["ls-remote"]


def test_a_push_is_seen_and_what_did_not_change_keeps_its_object_id(repository: Repository, source: GitSource) -> None:
    before = {file.path: file.oid for file in source.poll().files}
    repository.write("hosts/a/chat.yaml", "kind: Changed\n")
    revision = repository.commit()
    after = source.poll()
    assert after.revision == revision
    assert {file.path for file in after.files if before[file.path] != file.oid} == {"hosts/a/chat.yaml"}
    assert after.files[0].data == b"kind: Changed\n"


@pytest.mark.parametrize("whole", ["", ".", "/", "./"])
def test_the_whole_tree_can_be_asked_for(repository: Repository, mirror: Path, whole: str) -> None:
    snapshot = source_of(repository, mirror, (whole,)).poll()
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml", "hosts/b/other.yaml", "runtimes/vllm.yaml"]


def test_paths_may_overlap_have_slashes_or_name_one_file(repository: Repository, mirror: Path) -> None:
    snapshot = source_of(repository, mirror, ("/hosts/", "hosts/a/", "./hosts/a", "runtimes/vllm.yaml")).poll()
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml", "hosts/b/other.yaml", "runtimes/vllm.yaml"]
    assert snapshot.missing == ()


def test_a_path_is_no_pattern_and_no_prefix_of_a_name(repository: Repository, mirror: Path) -> None:
    asked = ("hosts/*", ":(glob)**", "hosts/a/cha", "host", "runtimes/vllm.yaml/x")
    snapshot = source_of(repository, mirror, asked).poll()
    assert snapshot.files == ()
    assert snapshot.missing == asked


def test_missing_paths_are_named_as_they_were_asked_for(repository: Repository, mirror: Path) -> None:
    snapshot = source_of(repository, mirror, ("hosts/a/", "hosts/gone/", "clusters")).poll()
    assert snapshot.missing == ("hosts/gone/", "clusters")
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml"]


def test_a_folder_without_yaml_is_not_missing(repository: Repository, source: GitSource) -> None:
    repository.git("rm", "--quiet", "hosts/a/chat.yaml")
    repository.commit()
    snapshot = source.poll()
    assert [file.path for file in snapshot.files] == ["runtimes/vllm.yaml"]
    assert snapshot.missing == ()


@pytest.mark.parametrize("paths", [PATHS, ("",)])
def test_an_empty_tree_is_valid_and_misses_every_path(
    repository: Repository, mirror: Path, paths: tuple[str, ...]
) -> None:
    repository.git("rm", "-r", "--quiet", ".")
    repository.commit("Remove everything")
    snapshot = source_of(repository, mirror, paths).poll()
    assert snapshot.files == ()
    assert snapshot.missing == paths


@pytest.mark.parametrize("path", ["../etc", "hosts/../../etc", "..", "hosts/a\n"])
def test_a_path_that_leaves_the_repository_is_refused(repository: Repository, mirror: Path, path: str) -> None:
    with pytest.raises(Terminal, match=r"targets\.paths: .* leaves the repository"):
        source_of(repository, mirror, (path,)).poll()


# ---------------------------------------------------------------- what is refused inside a revision


def test_links_and_submodules_are_refused_and_the_rest_is_read(repository: Repository, source: GitSource) -> None:
    link, chat = repository.blob(b"/etc/passwd"), repository.blob(b"kind: InferenceService\n")
    inner = repository.tree(
        entry("100644", chat, b"chat.yaml"),
        entry("120000", link, b"evil.yaml"),
        entry("120000", link, b"folder"),
        entry("160000", "1" * 40, b"sub"),
    )
    hosts = repository.tree(entry("040000", inner, b"a"))
    repository.commit_tree(entry("040000", hosts, b"hosts"), entry("120000", link, b"runtimes"))
    snapshot = source.poll()
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml"]
    assert codes(snapshot) == {
        "hosts/a/evil.yaml": "Symlink",
        "hosts/a/folder": "Symlink",
        "hosts/a/sub": "Submodule",
        "runtimes": "Symlink",
    }
    assert snapshot.missing == ()


def test_nothing_behind_a_linked_folder_is_read(repository: Repository, source: GitSource) -> None:
    repository.commit_tree(entry("120000", repository.blob(b"elsewhere"), b"hosts"))
    snapshot = source.poll()
    assert snapshot.files == ()
    assert snapshot.missing == PATHS


def test_large_and_binary_files_are_refused_alone(repository: Repository, mirror: Path) -> None:
    repository.write("hosts/a/large.yaml", "x" * 1001)
    repository.write("hosts/a/exact.yaml", "x" * 1000)
    repository.write("hosts/a/binary.yml", b"a: \0b\n")
    repository.write("hosts/a/picture.png", b"\0" * 5000)
    repository.commit()
    snapshot = source_of(repository, mirror, max_file_bytes=1000).poll()
    assert codes(snapshot) == {"hosts/a/large.yaml": "FileTooLarge", "hosts/a/binary.yml": "BinaryFile"}
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml", "hosts/a/exact.yaml", "runtimes/vllm.yaml"]
    assert "1,001 bytes, more than source.max_file_bytes = 1,000" in str(snapshot.refused[1])


def test_a_file_of_a_hundred_megabytes_is_never_read(repository: Repository, source: GitSource) -> None:
    with open(repository.path / "hosts/a/weights.yaml", "wb") as file:
        file.truncate(100 << 20)
    repository.commit()
    assert codes(source.poll()) == {"hosts/a/weights.yaml": "FileTooLarge"}


@pytest.mark.parametrize(
    ("name", "code", "shown"),
    [
        (b"bell\x07.yaml", "UnprintablePath", r"bell\x07.yaml"),
        (b"line\nend.yaml", "UnprintablePath", r"line\nend.yaml"),
        (b"caf\xe9.yaml", "PathNotUtf8", r"caf\xe9.yaml"),
        ("rtl\u202e.yaml".encode(), "UnprintablePath", r"rtl\u202e.yaml"),
        (b"x" * 1100 + b".yaml", "PathTooLong", "x" * 200 + "…"),
    ],
)
def test_a_name_that_cannot_be_printed_is_refused(
    repository: Repository, mirror: Path, name: bytes, code: str, shown: str
) -> None:
    blob = repository.blob(b"kind: Any\n")
    repository.commit_tree(entry("100644", blob, name), entry("100644", blob, b"good.yaml"))
    snapshot = source_of(repository, mirror, ("",)).poll()
    assert codes(snapshot) == {shown: code}
    assert [file.path for file in snapshot.files] == ["good.yaml"]


def test_a_name_in_another_language_is_fine(repository: Repository, source: GitSource) -> None:
    repository.write("hosts/a/größe 模型.yaml")
    repository.commit()
    assert "hosts/a/größe 模型.yaml" in [file.path for file in source.poll().files]


def test_ten_thousand_folders_inside_each_other_break_nothing(repository: Repository, source: GitSource) -> None:
    good = source.poll()
    tree = repository.tree(entry("100644", repository.blob(b"a: 1\n"), b"x.yaml"))
    repository.commit_tree(entry("040000", nest(repository, tree, 10_000), b"hosts"))
    # Newer git refuses to walk so deep, older git lists it.
    with contextlib.suppress(Terminal):
        deep = source.poll()
        assert set(codes(deep).values()) == {"PathTooLong"}
        assert deep.files == ()
        good = deep
    assert source.last_good() is good


def nest(repository: Repository, tree: str, depth: int) -> str:
    """The tree inside `depth` folders named `a`, written by one git call."""
    objects = []
    for _ in range(depth):
        body = b"40000 a\0" + bytes.fromhex(tree)
        objects.append((2, body))
        tree = hashlib.sha1(b"tree %d\0" % len(body) + body).hexdigest()
    repository.git("index-pack", "--stdin", stdin=make_pack(objects))
    return tree


def make_pack(objects: list[tuple[int, bytes]]) -> bytes:
    """Objects (2 is a tree, 3 a blob) as one pack: ten thousand calls of git would take a minute."""
    pack = bytearray(b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big"))
    for kind, body in objects:
        size, first = len(body) >> 4, kind << 4 | len(body) & 15
        while size:
            pack.append(first | 0x80)
            size, first = size >> 7, size & 0x7F
        pack.append(first)
        pack += zlib.compress(body, 1)
    return bytes(pack) + hashlib.sha1(pack).digest()


def test_a_revision_beyond_the_limits_is_refused_whole_and_the_last_good_stays(
    repository: Repository, mirror: Path
) -> None:
    source = source_of(repository, mirror, max_files=3, max_total_bytes=200)
    good = source.poll()
    repository.write("hosts/a/1.yaml", "a" * 200)
    repository.commit()
    with pytest.raises(Terminal, match=r"has 244 bytes of manifests, more than source\.max_total_bytes = 200"):
        source.poll()
    repository.write("hosts/a/2.yaml")
    repository.commit()
    with pytest.raises(Terminal, match=r"has 4 manifest files, more than source\.max_files = 3"):
        source.poll()
    assert source.last_good() is good
    repository.git("rm", "--quiet", "hosts/a/1.yaml")
    revision = repository.commit()
    assert source.poll().revision == revision


def commit_raw_tree(repository: Repository, body: bytes) -> str:
    tree = repository.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=body)
    revision = repository.git("commit-tree", tree, "-p", "main", "-m", "Made by hand")
    repository.git("update-ref", "refs/heads/main", revision)
    return revision


def test_a_tree_with_a_name_that_leaves_it_is_refused_whole(repository: Repository, source: GitSource) -> None:
    good = source.poll()
    blob = bytes.fromhex(repository.blob(b"a: 1\n"))
    commit_raw_tree(repository, b"100644 ..\0" + blob + b"100644 x.yaml\0" + blob)
    with pytest.raises(Terminal, match=r"hasDotdot.*its history is damaged"):
        source.poll()
    assert source.last_good() is good


def test_a_harmless_fault_in_an_old_history_is_forgiven(repository: Repository, mirror: Path) -> None:
    blob = bytes.fromhex(repository.blob(b"a: 1\n"))
    folder = repository.git("mktree", stdin=b"100644 blob %b\tx.yaml\n" % blob.hex().encode())
    revision = commit_raw_tree(repository, b"040000 hosts\0" + bytes.fromhex(folder))
    snapshot = source_of(repository, mirror, ("hosts",)).poll()
    assert snapshot.revision == revision
    assert [file.path for file in snapshot.files] == ["hosts/x.yaml"]


def test_a_subject_cannot_play_tricks_on_a_terminal(repository: Repository, source: GitSource) -> None:
    repository.commit("\x1b[2JGone" + "x" * 500)
    subject = source.poll().subject
    assert subject.isprintable()
    assert subject.startswith("[2JGone")
    assert len(subject) == 200


def test_hooks_filters_and_replace_refs_of_the_repository_have_no_effect(
    repository: Repository, source: GitSource, tmp_path: Path
) -> None:
    repository.write(".gitattributes", "*.yaml filter=evil ident export-ignore\n")
    repository.write("hosts/a/chat.yaml", "id: $Id$\n")
    revision = repository.commit()
    for hook in ("post-checkout", "reference-transaction", "post-upload-pack"):
        script = repository.path / ".git" / "hooks" / hook
        script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        script.chmod(0o755)
    repository.git("config", "filter.evil.smudge", f"touch {tmp_path}/ran")
    repository.git("config", "uploadpack.packObjectsHook", f"touch {tmp_path}/ran; false")
    other = repository.git("commit-tree", "-m", "Evil", repository.git("mktree", stdin=b""))
    repository.git("replace", revision, other)
    (tmp_path / "ran").unlink(missing_ok=True)
    snapshot = source.poll()
    assert snapshot.revision == revision
    assert snapshot.files[0].data == b"id: $Id$\n"
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- references


def test_a_branch_a_light_tag_an_annotated_tag_and_a_commit_can_be_followed(
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


def test_a_name_is_taken_exactly_where_git_would_match_loosely(repository: Repository, mirror: Path) -> None:
    repository.git("update-ref", "refs/heads/other/refs/heads/wanted", "main")
    with pytest.raises(Terminal, match="has no branch wanted"):
        source_of(repository, mirror, branch="wanted").poll()


def test_an_absent_branch_is_named_with_those_that_exist(repository: Repository, mirror: Path) -> None:
    repository.git("branch", "production")
    with pytest.raises(
        Terminal, match=r"has no branch prodution; it has production; push it, or change source\.branch"
    ):
        source_of(repository, mirror, branch="prodution").poll()
    with pytest.raises(Terminal, match="it has no tag at all"):
        source_of(repository, mirror, tag="v1").poll()


def test_a_repository_without_a_commit_is_named_as_such(tmp_path: Path, mirror: Path) -> None:
    with pytest.raises(Terminal, match="has no branch main: it has no branch at all; push one"):
        source_of(Repository(tmp_path / "fresh"), mirror).poll()


def test_a_commit_that_nobody_has_is_refused(repository: Repository, mirror: Path) -> None:
    with pytest.raises(Terminal, match="is no commit of any branch or tag"):
        source_of(repository, mirror, commit="1" * 40).poll()
    tree = repository.git("rev-parse", "main^{tree}")
    repository.git("tag", "picture", tree)
    for wish in ({"commit": tree}, {"tag": "picture"}):
        with pytest.raises(Terminal, match="is no commit"):
            source_of(repository, mirror, **wish).poll()


def test_a_pinned_commit_needs_no_network_once_it_is_here(repository: Repository, mirror: Path) -> None:
    source = source_of(repository, mirror, commit=repository.git("rev-parse", "main"))
    first = source.poll()
    repository.path.rename(repository.path.with_name("moved"))
    assert source.poll() is first


def test_the_highest_tag_of_a_range_is_followed_even_downwards(repository: Repository, mirror: Path) -> None:
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


def test_a_sha256_repository_is_refused_by_name(tmp_path: Path, mirror: Path) -> None:
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


def test_a_branch_that_goes_back_is_a_rewrite_and_one_that_merges_is_not(
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


def test_a_moved_tag_is_a_rewrite_whether_named_or_chosen_by_a_range(repository: Repository, mirror: Path) -> None:
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


# ---------------------------------------------------------------- failures and restarts


def test_the_last_good_revision_survives_a_restart_without_the_remote(repository: Repository, mirror: Path) -> None:
    good = source_of(repository, mirror).poll()
    repository.path.rename(repository.path.with_name("away"))
    restarted = source_of(repository, mirror)
    assert restarted.last_good() == good
    with pytest.raises(Retryable, match="is not there or cannot be read"):
        restarted.poll()
    assert restarted.last_good() == good
    repository.path.with_name("away").rename(repository.path)
    assert restarted.poll() == good


def test_before_the_first_poll_nothing_is_good_and_nothing_is_written(source: GitSource, mirror: Path) -> None:
    assert source.last_good() is None
    assert not mirror.exists()


def test_a_folder_that_is_no_repository_is_named(tmp_path: Path, mirror: Path) -> None:
    with pytest.raises(Retryable, match=r"cannot ask .*not appear to be a git repository; check source\.url"):
        source_of(tmp_path, mirror).poll()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
@pytest.mark.parametrize("bare", [False, True])
def test_a_local_repository_of_another_user_can_be_read(repository: Repository, mirror: Path, bare: bool) -> None:
    path = repository.path
    if bare:
        path = path.with_name("bare.git")
        git(repository.path, "clone", "--quiet", "--bare", ".", str(path))
    subprocess.run(["chown", "-R", "65534:65534", path], check=True)
    assert source_of(path, mirror).poll().files
    link = path.with_name("link")
    link.symlink_to(path)
    assert source_of(f"file://{link}", mirror.with_name("git2")).poll().files


def test_a_linked_working_tree_is_a_source_too(repository: Repository, mirror: Path, tmp_path: Path) -> None:
    repository.git("worktree", "add", "--quiet", "-b", "linked", str(tmp_path / "linked tree"))
    assert source_of(tmp_path / "linked tree", mirror).poll().files
    assert source_of(f"file://{tmp_path}/linked%20tree", mirror.with_name("git2")).poll().files


def test_the_folder_is_closed_to_others(source: GitSource, mirror: Path) -> None:
    mirror.mkdir(parents=True, mode=0o755)
    source.poll()
    assert mirror.stat().st_mode & 0o777 == 0o700
    assert (mirror / "askpass").stat().st_mode & 0o777 == 0o700
    assert list((mirror / "home").iterdir()) == []


def damage_pack(mirror: Path) -> None:
    for pack in (mirror / "repository/objects/pack").glob("*.pack"):
        pack.chmod(0o600)
        data = bytearray(pack.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        pack.write_bytes(data)


DAMAGES = {
    "gone": lambda mirror: shutil.rmtree(mirror / "repository"),
    "a file": lambda mirror: (shutil.rmtree(mirror / "repository"), (mirror / "repository").write_text("?")),
    "no head": lambda mirror: (mirror / "repository/HEAD").unlink(),
    "bad head": lambda mirror: (mirror / "repository/HEAD").write_bytes(b"\0\0"),
    "bad config": lambda mirror: (mirror / "repository/config").write_text("[[["),
    "no objects": lambda mirror: shutil.rmtree(mirror / "repository/objects"),
    "empty objects": lambda mirror: (
        shutil.rmtree(mirror / "repository/objects"),
        (mirror / "repository/objects").mkdir(),
    ),
    "bad packs": damage_pack,
    "bad reference": lambda mirror: (mirror / "repository/refs/reconciler/accepted").write_bytes(b"\0" * 41),
    "bad record": lambda mirror: (mirror / "accepted.json").write_bytes(b"\0" * 41),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pushed", [False, True])
def test_a_damaged_mirror_is_built_anew(repository: Repository, mirror: Path, damage: str, pushed: bool) -> None:
    source_of(repository, mirror).poll()
    if pushed:
        repository.write("hosts/a/new.yaml")
        repository.commit()
    DAMAGES[damage](mirror)
    restarted = source_of(repository, mirror)
    restarted.last_good()
    snapshot = restarted.poll()
    assert snapshot.revision == repository.git("rev-parse", "main")
    assert len(snapshot.files) == 2 + pushed
    assert source_of(repository, mirror).last_good() == snapshot


def test_other_bytes_under_an_object_id_are_noticed(repository: Repository, mirror: Path) -> None:
    source_of(repository, mirror).poll()
    oid = repository.git("rev-parse", "main:hosts/a/chat.yaml")
    git(mirror / "repository", "unpack-objects", "-q", stdin=_all_packs(mirror))
    forged = repository.git("hash-object", "-w", "--stdin", stdin=b"kind: Forged\n")
    loose = mirror / "repository/objects" / oid[:2] / oid[2:]
    loose.chmod(0o600)
    loose.write_bytes((repository.path / ".git/objects" / forged[:2] / forged[2:]).read_bytes())
    restarted = source_of(repository, mirror)
    assert restarted.last_good() is None
    assert restarted.poll().files[0].data == b"kind: InferenceService\n"


def _all_packs(mirror: Path) -> bytes:
    folder = mirror / "repository/objects/pack"
    (pack,) = folder.glob("*.pack")
    data = pack.read_bytes()
    for file in list(folder.iterdir()):
        file.unlink()
    return data


def test_what_a_killed_git_left_behind_blocks_nothing(repository: Repository, mirror: Path) -> None:
    source_of(repository, mirror).poll()
    inside = mirror / "repository"
    for name in ("HEAD.lock", "config.lock", "packed-refs.lock", "refs/reconciler/accepted.lock", "shallow.lock"):
        (inside / name).write_text("")
    (inside / "refs/reconciler/wanted.lock").write_text("")
    (inside / "objects/pack/tmp_pack_x").write_text("half")
    (mirror / "repository.new").mkdir()
    revision = repository.commit()
    assert source_of(repository, mirror).poll().revision == revision
    assert not [path for path in inside.rglob("*") if path.suffix == ".lock" or path.name.startswith("tmp_")]


def test_killed_anywhere_the_next_poll_repairs(repository: Repository, mirror: Path) -> None:
    """Kill a poll just before its n-th git call or write, for every n until it gets through."""
    for name in range(30):
        repository.write(f"hosts/a/{name}.yaml", f"a: {name}\n")
    base = repository.commit()
    source_of(repository, mirror).poll()
    with subprocess.Popen(
        [sys.executable, "-c", _POLL_AND_DIE, repository.path, mirror], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for step in range(50):
            revision = repository.commit(f"Step {step}")
            child.stdin.write(b"%d\n" % step)
            child.stdin.flush()
            status = int(child.stdout.readline())
            good = source_of(repository, mirror).last_good()
            assert good is not None
            assert good.revision in (base, revision)
            assert source_of(repository, mirror).poll().revision == revision
            base = revision
            if status == 0:
                break
            assert status == -9
    assert status == 0
    assert step >= 8


_POLL_AND_DIE = """
import os, signal, sys
from pathlib import Path
import git
from reconciler.config import Source
from reconciler.source import GitSource, access, mirror, poll
def deadly(real):
    def call(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*arguments, **options)
    return call
poll.run_git = mirror.run_git = deadly(mirror.run_git)
mirror.write_file = deadly(mirror.write_file)
access.os.rename = deadly(os.rename)
for line in sys.stdin:
    left = int(line)
    child = os.fork()
    if child == 0:
        GitSource(Source(url=sys.argv[1]), Path(sys.argv[2]), ("runtimes", "hosts/a")).poll()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_two_processes_take_turns_on_one_mirror(repository: Repository, mirror: Path) -> None:
    sources = [source_of(repository, mirror) for _ in range(4)]
    found: list[Snapshot] = []
    threads = [threading.Thread(target=lambda s=source: found.append(s.poll())) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_a_mirror_in_use_by_another_process_is_retried_later(repository: Repository, mirror: Path) -> None:
    source_of(repository, mirror).poll()
    with open(mirror / "lock", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Retryable, match="is in use by another git call"):
            source_of(repository, mirror, timeout=0.1).poll()
    assert source_of(repository, mirror).poll()


def test_an_unwritable_state_directory_is_one_clear_error(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Retryable, match=r"cannot prepare .*: Not a directory; check the owner of state_dir"):
        source_of(repository, tmp_path / "file" / "git").poll()


def test_many_small_pushes_do_not_pile_up_packs(repository: Repository, source: GitSource, mirror: Path) -> None:
    source.poll()
    for number in range(55):
        pack = make_pack([(3, b"%d" % number)])
        git(mirror / "repository", "index-pack", "--stdin", stdin=pack)
    repository.commit()
    source.poll()
    assert len(list((mirror / "repository/objects/pack").glob("*.pack"))) < 5
    assert source.last_good() == source_of(repository, mirror).last_good()


def test_variables_of_the_daemon_and_configuration_of_its_user_reach_no_git(
    repository: Repository, source: GitSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text('[url "/nowhere/"]\n\tinsteadOf = /\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "url./nowhere/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "/")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nowhere")
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "ext")
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    monkeypatch.chdir(repository.path)
    assert source.poll().files
    assert not (tmp_path / "trace").exists()


def test_git_missing_from_the_machine_is_one_clear_error(repository: Repository, mirror: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _POLL_AND_SAY, repository.path, mirror],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "Terminal git cannot be run: no git was found on PATH; install git 2.32 or newer\n"


_POLL_AND_SAY = """
import sys
from pathlib import Path
from reconciler.config import Source
from reconciler.source import GitSource
try:
    GitSource(Source(url=sys.argv[1]), Path(sys.argv[2]), ("",)).poll()
except Exception as error:
    print(type(error).__name__, error)
"""


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


def test_a_revision_that_moved_is_looked_up_again(repository: Repository, source: GitSource) -> None:
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


def test_a_revision_that_is_here_needs_no_remote(repository: Repository, source: GitSource) -> None:
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
    with pytest.raises(Terminal, match="is no revision; name a branch, a tag"):
        source.snapshot(text)


def test_closing_forgets_what_was_read_but_not_what_was_accepted(source: GitSource) -> None:
    good = source.poll()
    source.close()
    assert source.last_good() == good
