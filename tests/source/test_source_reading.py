"""What is read of a revision, and what is refused inside it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from pathlib import Path

import pytest

from reconciler.config.settings import HostSettings, SourceSettings
from reconciler.desired.context import unreadable_places
from reconciler.errors import Terminal
from reconciler.manifests import narrow, read_manifests
from reconciler.source import GitSource
from reconciler.source import poll as poll_module
from tests.source.parts import PATHS, codes, make_pack, source_of
from tests.support.git_repository import Repository, entry

# ---------------------------------------------------------------- reading


def test_revision_is_read_with_its_files_subject_and_time(repository: Repository, source: GitSource) -> None:
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


def test_same_revision_is_the_same_object_and_writes_nothing(source: GitSource, mirror: Path) -> None:
    first = source.poll()
    before = {path: path.stat().st_mtime_ns for path in mirror.rglob("*")}
    assert source.poll() is first
    assert source.last_good() is first
    assert {path: path.stat().st_mtime_ns for path in mirror.rglob("*")} == before


def test_unchanged_remote_is_asked_but_not_fetched(source: GitSource, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_push_is_seen_and_what_did_not_change_keeps_its_object_id(repository: Repository, source: GitSource) -> None:
    before = {file.path: file.oid for file in source.poll().files}
    repository.write("hosts/a/chat.yaml", "kind: Changed\n")
    revision = repository.commit()
    after = source.poll()
    assert after.revision == revision
    assert {file.path for file in after.files if before[file.path] != file.oid} == {"hosts/a/chat.yaml"}
    assert after.files[0].data == b"kind: Changed\n"


@pytest.mark.parametrize("whole", ["", ".", "/", "./"])
def test_whole_tree_can_be_asked_for(repository: Repository, mirror: Path, whole: str) -> None:
    snapshot = source_of(repository, mirror, (whole,)).poll()
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml", "hosts/b/other.yaml", "runtimes/vllm.yaml"]


def test_paths_may_overlap_have_slashes_or_name_one_file(repository: Repository, mirror: Path) -> None:
    snapshot = source_of(repository, mirror, ("/hosts/", "hosts/a/", "./hosts/a", "runtimes/vllm.yaml")).poll()
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml", "hosts/b/other.yaml", "runtimes/vllm.yaml"]
    assert snapshot.missing == ()


def test_path_is_no_pattern_and_no_prefix_of_a_name(repository: Repository, mirror: Path) -> None:
    asked = ("hosts/*", ":(glob)**", "hosts/a/cha", "host", "runtimes/vllm.yaml/x")
    snapshot = source_of(repository, mirror, asked).poll()
    assert snapshot.files == ()
    assert snapshot.missing == asked


def test_missing_paths_are_named_as_they_were_asked_for(repository: Repository, mirror: Path) -> None:
    snapshot = source_of(repository, mirror, ("hosts/a/", "hosts/gone/", "clusters")).poll()
    assert snapshot.missing == ("hosts/gone/", "clusters")
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml"]


def test_folder_without_yaml_is_not_missing(repository: Repository, source: GitSource) -> None:
    repository.git("rm", "--quiet", "hosts/a/chat.yaml")
    repository.commit()
    snapshot = source.poll()
    assert [file.path for file in snapshot.files] == ["runtimes/vllm.yaml"]
    assert snapshot.missing == ()


@pytest.mark.parametrize("paths", [PATHS, ("",)])
def test_empty_tree_is_valid_and_misses_every_path(
    repository: Repository, mirror: Path, paths: tuple[str, ...]
) -> None:
    repository.git("rm", "-r", "--quiet", ".")
    repository.commit("Remove everything")
    snapshot = source_of(repository, mirror, paths).poll()
    assert snapshot.files == ()
    assert snapshot.missing == paths


@pytest.mark.parametrize("path", ["../etc", "hosts/../../etc", "..", "hosts/a\n"])
def test_path_that_leaves_the_repository_is_refused(repository: Repository, mirror: Path, path: str) -> None:
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
    repository.write("hosts/a/large.yaml", "kind: InferenceService\n".ljust(1001, "#"))
    repository.write("hosts/a/strange.json", "{}".ljust(1001))
    repository.write("hosts/a/exact.yaml", "x" * 1000)
    repository.write("hosts/a/binary.yml", b"a: \0b\n")
    repository.write("hosts/a/picture.png", b"\0" * 5000)
    repository.commit()
    snapshot = source_of(repository, mirror, max_file_bytes=1000).poll()
    assert codes(snapshot) == {"hosts/a/large.yaml": "FileTooLarge", "hosts/a/binary.yml": "NotText"}
    assert [file.path for file in snapshot.files] == ["hosts/a/chat.yaml", "hosts/a/exact.yaml", "runtimes/vllm.yaml"]
    assert "1,001 bytes, more than source.max_file_bytes = 1,000" in str(snapshot.refused[1])
    # What does not name a service hides none.
    assert {path: why.code for path, why in snapshot.skipped.items()} == {"hosts/a/strange.json": "FileTooLarge"}


def test_hidden_and_ignored_files_are_passed_over(repository: Repository, mirror: Path) -> None:
    repository.write(".reconcilerignore", "# of the whole tree\n*.tmpl.yaml\nhosts/*/old/\n")
    repository.write("hosts/a/.reconcilerignore", "!chat.tmpl.yaml\nx.json\n")
    for name in ("chat.tmpl.yaml", "b.tmpl.yaml", "old/b.yaml", ".github/ci.yaml", ".sops.yaml", "x.json", "y.json"):
        repository.write(f"hosts/a/{name}", "a: 1\n")
    repository.commit()
    snapshot = source_of(repository, mirror).poll()
    names = ["chat.tmpl.yaml", "chat.yaml", "y.json"]
    assert [file.path for file in snapshot.files] == [*(f"hosts/a/{name}" for name in names), "runtimes/vllm.yaml"]
    assert {path.removeprefix("hosts/a/"): str(why.origin or why.code) for path, why in snapshot.skipped.items()} == {
        "b.tmpl.yaml": ".reconcilerignore:2",
        "old/b.yaml": ".reconcilerignore:3",
        "x.json": "hosts/a/.reconcilerignore:2",
        ".github/ci.yaml": "Hidden",
        ".sops.yaml": "Hidden",
    }
    assert snapshot.refused == ()


def test_hidden_folder_that_is_asked_for_is_read(repository: Repository, mirror: Path) -> None:
    repository.write(".deploy/a/x.yaml", "a: 1\n")
    repository.write(".deploy/a/.y.yaml", "a: 1\n")
    repository.commit()
    assert [file.path for file in source_of(repository, mirror, (".deploy",)).poll().files] == [".deploy/a/x.yaml"]


@pytest.mark.parametrize("text", [b"!\n", b"a" * 201, b"\xff\n", b"x\n" * 40_000])
def test_ignore_file_without_meaning_refuses_the_revision(
    repository: Repository, source: GitSource, text: bytes
) -> None:
    good = source.poll()
    (repository.path / ".reconcilerignore").write_bytes(text)
    repository.commit()
    with pytest.raises(Terminal, match=r"\.reconcilerignore.*the last good revision stays"):
        source.poll()
    assert source.last_good() is good
    (repository.path / ".reconcilerignore").unlink()
    repository.write("hosts/b/.reconcilerignore", "!\n")
    repository.commit()
    assert source.poll().files == good.files


def test_link_to_a_file_that_is_no_manifest_is_not_refused(repository: Repository, mirror: Path) -> None:
    repository.write("docs/read.md", "x")
    refused = {"up": "../..", "gone": "nowhere", "out": "/etc/hosts", "c.yaml": "chat.yaml"}
    for name, to in {"README.md": "../../docs/read.md", **refused}.items():
        (repository.path / "hosts/a" / name).symlink_to(to)
    repository.commit()
    snapshot = source_of(repository, mirror).poll()
    assert codes(snapshot) == dict.fromkeys((f"hosts/a/{name}" for name in refused), "Symlink")


@pytest.mark.slow
def test_file_of_a_hundred_megabytes_is_never_read(repository: Repository, source: GitSource) -> None:
    with open(repository.path / "hosts/a/weights.yaml", "wb") as file:
        file.truncate(100 << 20)
    repository.commit()
    assert codes(source.poll()) == {"hosts/a/weights.yaml": "FileTooLarge"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "shown"),
    [
        (b"bell\x07.yaml", "InvalidPath", r"bell\x07.yaml"),
        (b"line\nend.yaml", "InvalidPath", r"line\nend.yaml"),
        (b"caf\xe9.yaml", "InvalidPath", r"caf\xe9.yaml"),
        ("rtl\u202e.yaml".encode(), "InvalidPath", r"rtl\u202e.yaml"),
        (b"x" * 1100 + b".yaml", "InvalidPath", "x" * 200 + "…"),
    ],
)
def test_name_that_cannot_be_printed_is_refused(
    repository: Repository, mirror: Path, name: bytes, code: str, shown: str
) -> None:
    blob = repository.blob(b"kind: Any\n")
    repository.commit_tree(entry("100644", blob, name), entry("100644", blob, b"good.yaml"))
    snapshot = source_of(repository, mirror, ("",)).poll()
    assert codes(snapshot) == {shown: code}
    assert [file.path for file in snapshot.files] == ["good.yaml"]


def test_name_in_another_language_is_fine(repository: Repository, source: GitSource) -> None:
    repository.write("hosts/a/größe 模型.yaml")
    repository.commit()
    assert "hosts/a/größe 模型.yaml" in [file.path for file in source.poll().files]


@pytest.mark.slow
def test_ten_thousand_folders_inside_each_other_break_nothing(repository: Repository, source: GitSource) -> None:
    good = source.poll()
    tree = repository.tree(entry("100644", repository.blob(b"a: 1\n"), b"x.yaml"))
    repository.commit_tree(entry("040000", nest(repository, tree, 10_000), b"hosts"))
    # Newer git refuses to walk so deep, older git lists it.
    with contextlib.suppress(Terminal):
        deep = source.poll()
        assert set(codes(deep).values()) == {"InvalidPath"}
        assert deep.files == ()
        good = deep
    assert source.last_good() is good


@pytest.mark.slow
def test_trees_that_multiply_are_refused_and_the_next_revision_is_read(
    repository: Repository, source: GitSource, mirror: Path
) -> None:
    good = source.poll()
    tree = repository.tree(entry("100644", repository.blob(b"a: 1\n"), b"x.yaml"))
    for _ in range(10):
        tree = repository.tree(*(entry("040000", tree, b"%d" % n) for n in range(10)))
    before = repository.git("rev-parse", "main")
    repository.commit_tree(entry("040000", repository.tree(entry("040000", tree, b"a")), b"hosts"))
    with pytest.raises(Terminal, match=r"ls-tree: its output has more than .* bytes; the last good revision stays"):
        source.poll()
    assert source.last_good() is good
    repository.git("update-ref", "refs/heads/main", before)
    assert source.poll() is good


@pytest.mark.parametrize("date", [b"xyz", b"99999999999999999999 +0000", b"-1 +0000", b""])
def test_commit_with_a_broken_date_is_read_like_any_other(
    repository: Repository, source: GitSource, date: bytes
) -> None:
    tree = repository.git("rev-parse", "main^{tree}").encode()
    who = b"Ada <ada@example.invalid> "
    body = b"tree %s\nauthor %s1 +0000\ncommitter %s\n\nOld clock\n" % (tree, who, who + date)
    commit = repository.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body)
    repository.git("update-ref", "refs/heads/main", commit)
    snapshot = source.poll()
    assert (snapshot.revision, snapshot.subject) == (commit, "Old clock")
    assert datetime.datetime.fromtimestamp(snapshot.committed_at, datetime.UTC)


def test_long_line_of_gitattributes_in_the_history_stops_no_revision(repository: Repository, source: GitSource) -> None:
    source.poll()
    repository.write("docs/.gitattributes", "*.bin " + " ".join(f"attr{n}=x" for n in range(400)) + "\n")
    assert repository.commit() == source.poll().revision
    repository.git("rm", "--quiet", "docs/.gitattributes")
    assert repository.commit() == source.poll().revision


def nest(repository: Repository, tree: str, depth: int) -> str:
    """The tree inside `depth` folders named `a`, written by one git call."""
    objects = []
    for _ in range(depth):
        body = b"40000 a\0" + bytes.fromhex(tree)
        objects.append((2, body))
        tree = hashlib.sha1(b"tree %d\0" % len(body) + body).hexdigest()
    repository.git("index-pack", "--stdin", stdin=make_pack(objects))
    return tree


def test_revision_beyond_limits_is_refused_whole_and_last_good_stays(repository: Repository, mirror: Path) -> None:
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


def test_ignore_files_with_too_many_lines_close_only_folders_of_their_root(
    repository: Repository, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.source.tree._MOST_IGNORE_LINES", 20)
    for folder in ("hosts/b/w", "hosts/b/x", "hosts/b/y", "hosts/a/deeper/z"):
        repository.write(f"{folder}/.reconcilerignore", "*.tmp\n" * 9)
        repository.write(f"{folder}/x.yaml")
    repository.commit()
    found = source_of(repository, mirror, paths=("hosts/a", "hosts/b")).poll()
    read = [file.path for file in found.files if file.path.endswith("x.yaml")]
    assert read == ["hosts/a/deeper/z/x.yaml", "hosts/b/w/x.yaml", "hosts/b/x/x.yaml"]
    (refused,) = found.refused
    assert str(refused.origin) == "hosts/b/y/.reconcilerignore:1"
    assert "more than 20 lines in this and other ignore files; ignore whole folders" in refused.message


def test_ignore_files_in_folders_of_each_other_are_followed_to_a_depth(
    repository: Repository, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.source.tree._MOST_IGNORES_ABOVE", 2)
    for depth in range(1, 6):
        folder = "hosts/a" + "/d" * depth
        repository.write(f"{folder}/.reconcilerignore", "*.tmp\n")
        repository.write(f"{folder}/x.yaml")
    repository.commit()
    found = source_of(repository, mirror, paths=("hosts/a",)).poll()
    read = [file.path for file in found.files if file.path.endswith("x.yaml")]
    assert sorted(read, key=len) == ["hosts/a/d/x.yaml", "hosts/a/d/d/x.yaml"]
    assert codes(found) == {"hosts/a/d/d/d/.reconcilerignore": "InvalidIgnoreFile"}
    assert "2 folders above have ignore files as well; write one file for all of them" in found.refused[0].message


TWO = (("runtimes", "hosts/a"), ("runtimes", "hosts/b"))


@pytest.mark.parametrize(
    ("limits", "files", "text", "share"),
    [
        ({"max_files": 4}, 4, "a: 1\n", "it has 5 of the revision's 7 manifest files, more than source.max_files = 4"),
        ({"max_files": 4}, 3, "a: 1\n", "it has 4 of the revision's 6 manifest files, more than source.max_files = 4"),
        (
            {"max_total_bytes": 200},
            2,
            "a" * 99,
            " bytes of manifests, more than source.max_total_bytes = 200",
        ),
    ],
)
def test_folder_beyond_the_limits_concerns_only_targets_that_read_it(
    repository: Repository, mirror: Path, limits: dict[str, int], files: int, text: str, share: str
) -> None:
    paths = ("runtimes", "hosts/a", "hosts/b")
    source = GitSource(SourceSettings(url=str(repository.path), **limits), mirror, paths, readers=TWO)
    for number in range(files):
        repository.write(f"hosts/b/{number}.yaml", text)
    revision = repository.commit()
    found = source.poll()
    assert found.revision == revision
    assert [file.path for file in found.files] == ["hosts/a/chat.yaml", "runtimes/vllm.yaml"]
    (refused,) = found.refused
    assert (refused.code, refused.origin and refused.origin.file) == ("FolderTooLarge", "hosts/b")
    assert share in refused.message
    assert "remove files, list them in .reconcilerignore, or raise the limit" in refused.message
    for name, paths in zip("ab", TWO, strict=True):
        target = HostSettings.model_validate({"name": name, "paths": paths})
        places = unreadable_places(read_manifests(part := narrow(found, target.paths)), part)
        kept = [each.origin and each.origin.file for each in places if each.code == "FolderTooLarge"]
        assert kept == (["hosts/b", "hosts/b/"] if name == "b" else [])


@pytest.mark.parametrize("shared", [False, True])
def test_folder_whose_list_has_no_end_concerns_only_its_readers(
    repository: Repository, mirror: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr("reconciler.source.tree._LONGEST_LISTING", 3_000)
    source = GitSource(
        SourceSettings(url=str(repository.path)), mirror, ("runtimes", "hosts/a", "hosts/b"), readers=TWO
    )
    good = source.poll()
    for number in range(100):
        repository.write(f"{'runtimes' if shared else 'hosts/b'}/{number}.txt", "")
    repository.write("hosts/a/new.yaml")
    repository.commit()
    if shared:
        with pytest.raises(Terminal, match=r"ls-tree: its output has more than 3,000 bytes; the last good revision"):
            source.poll()
        assert source.last_good() is good
        return
    found = source.poll()
    assert [file.path for file in found.files] == ["hosts/a/chat.yaml", "hosts/a/new.yaml", "runtimes/vllm.yaml"]
    assert codes(found) == {"hosts/b": "FolderTooLarge"}
    assert found.missing == ()


def test_folder_above_others_beyond_the_limits_leaves_them_readable(repository: Repository, mirror: Path) -> None:
    for name in "xyz":
        repository.write(f"hosts/{name}.yaml", "a: 1\n")
    repository.commit()
    readers = (("hosts",), ("hosts/a",))
    source = GitSource(
        SourceSettings(url=str(repository.path), max_files=3), mirror, ("hosts", "hosts/a"), readers=readers
    )
    found = source.poll()
    assert [file.path for file in found.files] == ["hosts/a/chat.yaml"]
    concerned = [
        narrow(found, HostSettings.model_validate({"name": "n", "paths": each}).paths).refused for each in readers
    ]
    assert [len(each) for each in concerned] == [1, 0]


def test_shared_folder_beyond_the_limits_refuses_the_revision(repository: Repository, mirror: Path) -> None:
    paths = ("runtimes", "hosts/a", "hosts/b")
    source = GitSource(SourceSettings(url=str(repository.path), max_files=3), mirror, paths, readers=TWO)
    good = source.poll()
    for number in range(3):
        repository.write(f"runtimes/{number}.yaml", "a: 1\n")
    repository.commit()
    with pytest.raises(Terminal, match=r"has 6 manifest files, more than source\.max_files = 3"):
        source.poll()
    assert source.last_good() is good


def commit_raw_tree(repository: Repository, body: bytes) -> str:
    tree = repository.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=body)
    revision = repository.git("commit-tree", tree, "-p", "main", "-m", "Made by hand")
    repository.git("update-ref", "refs/heads/main", revision)
    return revision


@pytest.mark.slow
@pytest.mark.parametrize("header", [b"author A\0B <a@b> 1 +0000\n", b"author A <a@b> 1 +0000\nx\0y z\n"])
def test_commit_with_a_zero_byte_in_its_header_leaves_the_last_good_one(
    repository: Repository, source: GitSource, header: bytes
) -> None:
    good, before = source.poll(), repository.git("rev-parse", "main")
    head = b"tree %s\nparent %s\n" % (repository.git("rev-parse", "main^{tree}").encode(), before.encode())
    body = head + header + b"committer A <a@b> 1 +0000\n\nmessage\n"
    bad = repository.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body)
    repository.git("update-ref", "refs/heads/main", bad)
    for _ in range(2):
        with pytest.raises(Terminal, match=rf"object {bad}: nulInHeader.*; the last good revision stays: push a hist"):
            source.poll()
    assert source.last_good() is good
    repository.git("update-ref", "refs/heads/main", before)
    assert source.poll() is good
    repaired = repository.commit()
    assert source.poll().revision == repaired


def test_tree_with_a_name_that_leaves_it_is_refused_whole(repository: Repository, source: GitSource) -> None:
    good = source.poll()
    blob = bytes.fromhex(repository.blob(b"a: 1\n"))
    commit_raw_tree(repository, b"100644 ..\0" + blob + b"100644 x.yaml\0" + blob)
    with pytest.raises(Terminal, match=r"hasDotdot.*its history is damaged"):
        source.poll()
    assert source.last_good() is good


def test_harmless_fault_in_an_old_history_is_forgiven(repository: Repository, mirror: Path) -> None:
    blob = bytes.fromhex(repository.blob(b"a: 1\n"))
    folder = repository.git("mktree", stdin=b"100644 blob %b\tx.yaml\n" % blob.hex().encode())
    revision = commit_raw_tree(repository, b"040000 hosts\0" + bytes.fromhex(folder))
    snapshot = source_of(repository, mirror, ("hosts",)).poll()
    assert snapshot.revision == revision
    assert [file.path for file in snapshot.files] == ["hosts/x.yaml"]


def test_subject_cannot_play_tricks_on_a_terminal(repository: Repository, source: GitSource) -> None:
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
