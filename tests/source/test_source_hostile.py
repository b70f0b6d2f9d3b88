"""What a hostile server sends, and what a user with push access can put into a history: bounded, and reported."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from reconciler.errors import Retryable, Terminal
from reconciler.source import GitSource
from reconciler.source.git import MOST_MEMORY
from tests.source import hostile_server
from tests.source.parts import codes, make_pack, source_of
from tests.support.git_repository import Repository, entry

pytestmark = pytest.mark.slow


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def bytes_in(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def test_fetch_that_never_ends_is_stopped_and_leaves_nothing(on_path: Path, mirror: Path) -> None:
    source = source_of(hostile_server.install(on_path), mirror, max_repository_bytes=1 << 20)
    said = r"sends more than 1,048,576 bytes, and source\.max_repository_bytes allows no more; the last good"
    with pytest.raises(Terminal, match=said):
        source.poll()
    assert bytes_in(mirror) < 100_000


def test_fetch_that_would_fill_the_disk_is_stopped(
    on_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(hostile_server.install(on_path), mirror)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2 << 20}))
    with pytest.raises(Retryable, match=r"more than 1,048,576 bytes, half of what is free for .*free some space there"):
        source.poll()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _unfolding(base: bytes, times: int) -> tuple[int, bytes]:
    """A delta that repeats its base."""
    size = len(base)
    copy_all = bytes([0xF0, size & 255, size >> 8 & 255, size >> 16 & 255])
    name = hashlib.sha1(b"blob %d\0" % size + base).digest()
    return 7, name + _varint(size) + _varint(size * times) + copy_all * times


def test_delta_that_unfolds_to_gigabytes_takes_no_memory(on_path: Path, mirror: Path, tmp_path: Path) -> None:
    base = bytes(1 << 20)
    pack = make_pack([(3, base), _unfolding(base, 2 * MOST_MEMORY // len(base))])
    (tmp_path / "pack").write_bytes(pack)
    source = source_of(hostile_server.install(on_path, str(tmp_path / "pack")), mirror)
    with pytest.raises(Retryable, match=r"[Oo]ut of memory.*git is given 2 GiB of memory"):
        source.poll()


def test_what_was_fetched_and_belongs_to_nothing_is_dropped(repository: Repository, mirror: Path) -> None:
    source = source_of(repository, mirror, max_repository_bytes=1 << 20, allow_rewrites=True)
    source.poll()
    for number in range(6):
        repository.write("hosts/a/noise.bin", os.urandom(400_000))
        repository.commit(f"Noise {number}")
        assert source.poll().subject == f"Noise {number}"
        repository.git("reset", "--quiet", "--hard", "HEAD~1")
    assert bytes_in(mirror) < 2 << 20


def test_repository_that_grew_too_large_is_said_and_kept(repository: Repository, mirror: Path) -> None:
    source = source_of(repository, mirror, max_repository_bytes=1 << 20)
    for _ in range(2):
        repository.write("hosts/a/noise.bin", os.urandom(700_000))
        repository.commit()
        good = source.poll()
    repository.commit()
    with pytest.raises(
        Terminal, match=r"what was fetched of it has 1,4..,... bytes already, and source\.max_repository_b"
    ):
        source.poll()
    assert source_of(repository, mirror).last_good() == good


def test_empty_folders_that_multiply_are_refused_at_once(repository: Repository, source: GitSource) -> None:
    good = source.poll()
    tree = repository.git("mktree", stdin=b"")
    for _ in range(40):
        tree = repository.tree(entry("040000", tree, b"a"), entry("040000", tree, b"b"))
    repository.commit_tree(entry("040000", repository.tree(entry("040000", tree, b"a")), b"hosts"))
    with pytest.raises(Terminal, match=r"ls-tree: its output has more than .* bytes; the last good revision stays"):
        source.poll()
    assert source.last_good() is good


@pytest.mark.slow
def test_links_that_lead_on_and_on_are_refused_in_time(repository: Repository, mirror: Path) -> None:
    contents = [repository.blob(b"%d" % ((number + 1) % 50)) for number in range(50)]
    links = sorted(b"%d" % number for number in range(20_000))
    folder = repository.tree(*(entry("120000", contents[int(name) % 50], name) for name in links))
    good = repository.tree(entry("040000", folder, b"a"))
    repository.commit_tree(entry("040000", good, b"hosts"))
    assert set(codes(source_of(repository, mirror, timeout=3.0).poll()).values()) == {"Symlink"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", b"A subject\0and what follows\n"),
        (b"gpgsig " + b"A" * 100_000 + b"\n", b"A subject\n"),
        (b"mergetag no object\n nor type\n", b"A subject\n"),
        (b"encoding UTF-7\n", b"A subject\n"),
        (b"encoding nonsense\n", b"A subject\n"),
    ],
)
def test_commit_with_odd_headers_is_read_like_any_other(
    repository: Repository, source: GitSource, header: bytes, message: bytes
) -> None:
    tree = repository.git("rev-parse", "main^{tree}").encode()
    who = b"Ada <ada@example.invalid> 1 +0000"
    body = b"tree %s\nauthor %s\ncommitter %s\n%s\n%s" % (tree, who, who, header, message)
    commit = repository.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body)
    repository.git("update-ref", "refs/heads/main", commit)
    snapshot = source.poll()
    assert (snapshot.revision, snapshot.subject) == (commit, "A subject")


def test_submodules_that_look_like_options_do_nothing(repository: Repository, source: GitSource) -> None:
    modules = repository.blob(b'[submodule "x"]\n\tpath = -x\n\turl = -u./x\n\tupdate = !touch /tmp/x\n')
    module = repository.tree(entry("160000", repository.git("rev-parse", "main"), b"-x"))
    hosts = repository.tree(entry("040000", module, b"a"))
    repository.commit_tree(entry("100644", modules, b".gitmodules"), entry("040000", hosts, b"hosts"))
    assert codes(source.poll()) == {"hosts/a/-x": "Submodule"}


def test_hundred_thousand_references_change_nothing(repository: Repository, mirror: Path) -> None:
    commit = repository.commit()
    refs = "".join(f"{commit} refs/heads/--upload-pack=x{number:06}\n" for number in range(100_000))
    (repository.path / ".git/packed-refs").write_text(f"# pack-refs with: sorted\n{refs}")
    assert source_of(repository, mirror).poll().revision == commit
    with pytest.raises(Terminal, match=r"has 100,001 branches and tags, more than 50,000: .*; delete some, or name a"):
        source_of(repository, mirror, commit="1" * 40).poll()
    assert not re.search("upload-pack", "".join(each.name for each in mirror.rglob("*")))
