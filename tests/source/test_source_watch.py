"""Watching a local repository: every kind of push wakes, reading and unrelated files do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.config.settings import SourceSettings
from reconciler.source import GitSource, LocalWatch
from tests.support.git_repository import Repository, git

pytestmark = pytest.mark.slow


class Waker:
    """Counts wakes, and waits for one."""

    def __init__(self) -> None:
        self.count = 0
        self._woken = threading.Event()

    def __call__(self) -> None:
        self.count += 1
        self._woken.set()

    def arrives(self, timeout: float = 10) -> bool:
        arrived = self._woken.wait(timeout)
        self._woken.clear()
        return arrived

    def settle(self) -> None:
        """Wait until nothing more comes."""
        while self.arrives(0.3):
            pass
        self.count = 0


@pytest.fixture
def work(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "work")
    made.commit()
    git(tmp_path, "clone", "--quiet", "--bare", "work", "bare.git")
    made.git("remote", "add", "origin", str(tmp_path / "bare.git"))
    return made


@pytest.fixture
def bare(work: Repository) -> Path:
    return work.path.with_name("bare.git")


@pytest.fixture
def watch() -> Iterator[Callable[..., Waker]]:
    started: list[LocalWatch] = []

    def start(url: Path | str, **settings: object) -> Waker:
        waker = Waker()
        started.append(LocalWatch(SourceSettings.model_validate({"url": str(url), **settings}), waker))
        started[-1].start()
        return waker

    yield start
    for one in started:
        one.close()


def test_push_to_a_bare_repository_wakes(work: Repository, bare: Path, watch: Callable[..., Waker]) -> None:
    waker = watch(bare)
    for number in range(3):
        work.commit(f"Push {number}")
        work.git("push", "--quiet", "origin", "main")
        assert waker.arrives()


def test_commit_in_a_working_folder_wakes(work: Repository, watch: Callable[..., Waker]) -> None:
    waker = watch(f"file://{work.path}")
    work.commit()
    assert waker.arrives()


def test_new_deep_branches_tags_and_deletions_wake(work: Repository, bare: Path, watch: Callable[..., Waker]) -> None:
    waker = watch(bare)
    for refspec in ("main:refs/heads/team/one/two", "main:refs/tags/v1.0.0", ":refs/heads/team/one/two"):
        work.git("push", "--quiet", "origin", refspec)
        assert waker.arrives(), refspec
        waker.settle()
    work.commit()
    work.git("push", "--quiet", "origin", "main:refs/heads/team/one/two")
    assert waker.arrives()


def test_change_that_is_only_in_packed_refs_wakes(work: Repository, bare: Path, watch: Callable[..., Waker]) -> None:
    work.git("push", "--quiet", "origin", "main:refs/heads/packed")
    git(bare, "pack-refs", "--all")
    waker = watch(bare)
    work.git("push", "--quiet", "origin", ":refs/heads/packed")
    assert waker.arrives()


def test_polling_and_unrelated_files_do_not_wake(
    work: Repository, bare: Path, watch: Callable[..., Waker], tmp_path: Path
) -> None:
    source = GitSource(SourceSettings(url=str(bare)), tmp_path / "elsewhere" / "git", ("",))
    source.poll()
    waker = watch(bare)
    waker.settle()
    for _ in range(3):
        source.poll()
    (tmp_path / "neighbour").write_text("")
    (bare / "gc.log").write_text("")
    git(bare, "hash-object", "-w", "--stdin", stdin=b"new")
    assert not waker.arrives(0.5)
    assert waker.count == 0


def test_many_changes_at_once_wake_a_few_times_and_once_after_the_last(
    work: Repository, bare: Path, watch: Callable[..., Waker]
) -> None:
    tip = work.git("rev-parse", "main")
    waker = watch(bare)
    seen_at_wake: list[int] = []
    waker.settle()
    commands = "".join(f"create refs/tags/t{number} {tip}\n" for number in range(500))
    git(bare, "update-ref", "--stdin", stdin=commands.encode())
    while waker.arrives(1):
        seen_at_wake.append(len(git(bare, "tag").splitlines()))
    assert seen_at_wake[-1] == 500
    assert waker.count < 100


def test_repository_that_comes_back_is_watched_again(
    work: Repository, bare: Path, watch: Callable[..., Waker], tmp_path: Path
) -> None:
    waker = watch(bare)
    shutil.rmtree(bare)
    assert waker.arrives()
    waker.settle()
    git(tmp_path, "clone", "--quiet", "--bare", "work", "bare.git")
    assert waker.arrives()
    waker.settle()
    work.commit()
    work.git("push", "--quiet", "origin", "main")
    assert waker.arrives()


def test_repository_that_appears_later_or_is_swapped_in_is_noticed(
    work: Repository, bare: Path, watch: Callable[..., Waker], tmp_path: Path
) -> None:
    waker = watch(tmp_path / "later")
    bare.rename(tmp_path / "later")
    assert waker.arrives()
    waker.settle()
    work.commit()
    work.git("push", "--quiet", str(tmp_path / "later"), "main")
    assert waker.arrives()


def test_linked_working_tree_wakes_on_its_common_references(
    work: Repository, watch: Callable[..., Waker], tmp_path: Path
) -> None:
    work.git("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "linked"))
    waker = watch(tmp_path / "linked")
    work.commit()
    assert waker.arrives()


def test_symbolic_link_to_a_repository_is_followed(
    work: Repository, bare: Path, watch: Callable[..., Waker], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(bare)
    waker = watch(tmp_path / "link")
    work.commit()
    work.git("push", "--quiet", "origin", "main")
    assert waker.arrives()


@pytest.mark.parametrize("url", ["https://example.com/m", "git@example.com:m", "ext::sh"])
def test_remote_or_senseless_url_is_not_watched(url: str, watch: Callable[..., Waker]) -> None:
    before = threading.active_count()
    watch(url)
    assert threading.active_count() == before


def test_closing_ends_every_thread_and_descriptor(work: Repository, bare: Path) -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        watching = LocalWatch(SourceSettings(url=str(bare)), Waker())
        watching.start()
        watching.close()
        watching.close()
    assert threading.active_count() == threads
    # The library keeps one inotify instance of its own for the whole process.
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 6


def test_machine_without_watches_left_is_one_clear_error(bare: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _WATCH_WITH_NO_DESCRIPTOR_LEFT, bare], capture_output=True, text=True)
    assert done.stdout.startswith(f"Retryable {bare} cannot be watched: ")
    assert "it is polled only. Raise the limits fs.inotify" in done.stdout


_WATCH_WITH_NO_DESCRIPTOR_LEFT = """
import os, resource, sys
from reconciler.config.settings import SourceSettings as Source
from reconciler.source import LocalWatch
watch = LocalWatch(Source(url=sys.argv[1]), print)
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
while True:
    try:
        os.dup(0)
    except OSError:
        break
try:
    watch.start()
except Exception as error:
    print(type(error).__name__, error)
watch.close()
"""


class LateEvent(threading.Event):
    """Is cleared only once somebody has asked for the end."""

    def __init__(self, stopping: threading.Event) -> None:
        super().__init__()
        self._stopping = stopping
        self.clearing = threading.Event()

    def clear(self) -> None:
        self.clearing.set()
        self._stopping.wait(10)
        assert self.wait(10)
        super().clear()


def test_watch_that_ends_while_something_changes_ends(work: Repository) -> None:
    watch = LocalWatch(SourceSettings(url=str(work.path)), Waker())
    changed = watch._changed = LateEvent(watch._stopping)
    watch.start()
    changed.set()
    assert changed.clearing.wait(10)
    closing = threading.Thread(target=watch.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
