"""What the daemon's side of fetching does by itself, whatever the program is."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reconciler.errors import Retryable
from reconciler.host.staging import stager
from reconciler.host.staging import state as states
from reconciler.host.staging.fetcher import FetchProcess
from reconciler.host.staging.state import State
from reconciler.model import Fetch, Mount, ReasonCode, Staging
from tests.host.staging.models import Models
from tests.support.world import eventually, exists

# Each test starts the program that downloads.
pytestmark = pytest.mark.slow

MOUNT = Mount("s3://bucket/a")


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    found = Models(tmp_path / "models", Path("/bin/false"))
    yield found
    found.close()


def make_sleeper(folder: Path) -> Path:
    """A program that says nothing and does not end."""
    sleeper = folder / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    return sleeper


def test_files_that_are_there_are_not_fetched_again_for_a_second_service(models: Models) -> None:
    folder = models.folder / models.key(MOUNT)
    (folder / "content").mkdir(parents=True)
    states.write_state(folder, State(states.STAGED, 1, 1, content="content"))
    models.begin_mount(MOUNT)
    assert models.look(MOUNT).fetch is Fetch.STAGED
    assert models.found(MOUNT) == folder / "content"


def test_program_that_is_cut_off_again_and_again_is_counted_each_time(models: Models) -> None:
    """Otherwise the pauses would never grow, and no error would be reported."""
    for count in (1, 2, 3):
        models.begin_mount(MOUNT)
        eventually(lambda: models.look(MOUNT).fetch is Fetch.FAILED)
        assert models.look(MOUNT).failures == count


def test_fetch_that_was_stopped_is_ended_and_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stager, "_SILENT_AFTER", 0.5)
    models = Models(tmp_path / "models", make_sleeper(tmp_path))
    fetcher, folder = FetchProcess(models.python), models.folder / models.key(MOUNT)
    models.begin_mount(MOUNT)
    assert models.look(MOUNT).fetch is Fetch.RUNNING
    first = fetcher.find(folder)
    assert first
    os.kill(first.pid, signal.SIGSTOP)
    models.begin_mount(MOUNT)
    assert fetcher.find(folder) == first
    eventually(lambda: models.look(MOUNT).fetch is Fetch.FAILED)
    assert "stopped or hangs" in str(models.look(MOUNT).reason)
    models.begin_mount(MOUNT)
    second = fetcher.find(folder)
    assert second not in (None, first)
    assert not exists(first.pid)
    assert models.look(MOUNT) == Staging(Fetch.RUNNING, failures=1, at=models.look(MOUNT).at)
    models.stager.unstage(models.key(MOUNT))
    models.close()


def test_fetch_that_tells_how_far_it_is_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stager, "_SILENT_AFTER", 0.5)
    models = Models(tmp_path / "models", make_sleeper(tmp_path))
    models.begin_mount(MOUNT)
    for done in range(10):
        time.sleep(0.1)
        states.write_state(models.folder / models.key(MOUNT), State(states.RUNNING, done))
        assert models.look(MOUNT).fetch is Fetch.RUNNING
    models.stager.unstage(models.key(MOUNT))
    models.close()


def test_program_that_is_not_there_is_counted_each_time(tmp_path: Path) -> None:
    models = Models(tmp_path / "models", tmp_path / "no-python")
    for count in (1, 2, 3):
        with pytest.raises(Retryable, match="no-python"):
            models.begin_mount(MOUNT)
        assert models.look(MOUNT).failures == count
    models.close()


def test_what_is_deleted_is_gone_at_once_and_nobody_waits_for_it(models: Models, held: Held) -> None:
    lay_down(models)
    models.stager.unstage(models.key(MOUNT))
    assert held.wait(), "it is still being deleted"
    assert not (models.folder / models.key(MOUNT)).exists()
    lay_down(models)
    models.stager.unstage(models.key(MOUNT))
    assert not (models.folder / models.key(MOUNT)).exists()
    held.let_go()
    eventually(lambda: not list(models.folder.iterdir()))


def test_what_a_daemon_had_no_time_to_delete_its_successor_deletes(models: Models, held: Held) -> None:
    lay_down(models)
    models.stager.unstage(models.key(MOUNT))
    assert held.wait()
    models.stager.close()
    held.let_go()
    eventually(lambda: "garbage" not in [thread.name for thread in threading.enumerate()])
    assert list(models.folder.iterdir())
    models.stager = models.open()
    eventually(lambda: not list(models.folder.iterdir()))


def test_only_what_we_put_aside_is_deleted(models: Models) -> None:
    """The folder may be one where others keep files."""
    others = [models.folder / name for name in (".gone-fishing", ".gone-0123456789abcdef-x", ".gone-0123456789abcdef")]
    for other in others:
        other.mkdir(parents=True)
    staged(models)
    models.stager.unstage(models.key(MOUNT))
    eventually(lambda: sorted(models.folder.iterdir()) == sorted(others))
    eventually(lambda: "garbage" not in [thread.name for thread in threading.enumerate()])
    assert sorted(models.folder.iterdir()) == sorted(others)


def test_what_cannot_be_deleted_keeps_nothing_from_being_fetched(models: Models, held: Held) -> None:
    held.error = OSError(errno.EBUSY, "busy")
    lay_down(models)
    models.stager.unstage(models.key(MOUNT))
    held.let_go()
    models.begin_mount(MOUNT)
    eventually(lambda: models.look(MOUNT).fetch is Fetch.FAILED)


def lay_down(models: Models) -> None:
    """A model as it lies there when it is fetched: read-only."""
    folder = models.folder / models.key(MOUNT) / "content"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    folder.chmod(0o555)


class Held:
    """Deleting a file waits until the test lets go, and may then fail."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._begun, self._go = threading.Event(), threading.Event()

    def unlink(self, path: str) -> None:
        self._begun.set()
        assert self._go.wait(60)
        if self.error:
            raise self.error
        os.remove(path)

    def wait(self) -> bool:
        return self._begun.wait(30)

    def let_go(self) -> None:
        self._go.set()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    made = Held()
    monkeypatch.setattr("reconciler.host.staging.garbage._unlink", made.unlink)
    return made


@pytest.mark.parametrize(
    "written",
    [
        {"fetch": "staged", "content": ".."},
        {"fetch": "staged", "content": "a/../../b"},
        {"fetch": "running", "done": "many"},
        {"fetch": "failed", "code": ["x"]},
        {"fetch": "failed", "at": None},
        {"fetch": "failed", "at": -(10**400)},
        {"fetch": "failed", "code": "two\nlines"},
        {"fetch": "running", "done": 10**400},
        {"fetch": "staged", "content": "a" * 300},
    ],
)
def test_state_that_no_honest_program_writes_is_none(models: Models, written: dict[str, object]) -> None:
    folder = models.folder / models.key(MOUNT)
    folder.mkdir(parents=True)
    (folder / states.STATE).write_text(json.dumps(written))
    assert states.read_state(folder) is None
    assert (models.look(MOUNT).fetch, models.stager.find(models.service, MOUNT)) == (Fetch.FAILED, None)


def test_state_without_end_is_none(models: Models) -> None:
    folder = models.folder / models.key(MOUNT)
    folder.mkdir(parents=True)
    (folder / states.STATE).write_text("[" * 60_000)
    assert states.read_state(folder) is None
    assert models.look(MOUNT).fetch is Fetch.FAILED


def test_what_a_program_says_can_be_shown_everywhere(models: Models) -> None:
    folder = models.folder / models.key(MOUNT)
    folder.mkdir(parents=True)
    states.write_state(
        folder, State(states.FAILED, code=ReasonCode.SOURCE_FAILED, message="a\x1b[2J\ud800\nb" + "c" * 9000)
    )
    said = models.look(MOUNT).reason
    assert said is not None
    assert said.message.startswith("a [2J  b"), "and no part of it is lost that can be read"
    assert len(said.message.encode()) < 5000


def test_failure_that_an_older_version_wrote_gets_the_code_of_today(models: Models) -> None:
    folder = models.folder / models.key(MOUNT)
    folder.mkdir(parents=True)
    states.write_state(folder, State(states.REFUSED, failures=1, code="NotFound", message="not found (404)"))
    reason = models.look(MOUNT).reason
    assert reason is not None
    assert reason.code is ReasonCode.MODEL_NOT_FOUND


def test_program_that_says_much_is_heard_all_the_same(models: Models) -> None:
    """Else its failures are not counted, and the pauses between tries do not grow."""
    folder = models.folder / models.key(MOUNT)
    folder.mkdir(parents=True)
    states.write_state(
        folder, State(states.FAILED, failures=3, code=ReasonCode.SOURCE_FAILED, message="\U0001f600" * 70_000)
    )
    seen = models.look(MOUNT)
    assert (seen.failures, seen.reason and seen.reason.code) == (3, ReasonCode.SOURCE_FAILED)


def test_nobody_waits_for_what_stands_where_a_state_should_be(models: Models, tmp_path: Path) -> None:
    folder = models.folder / models.key(MOUNT)
    folder.mkdir(parents=True)
    elsewhere = tmp_path / "state"
    elsewhere.write_text(json.dumps({"fetch": "staged"}))
    state = folder / states.STATE
    for put in (lambda: os.mkfifo(state), lambda: state.symlink_to(elsewhere), lambda: state.symlink_to("/dev/zero")):
        put()
        assert states.read_state(folder) is None
        state.unlink()
    os.mkfifo(folder / f".{states.STATE}.new")
    states.write_state(folder, State(states.FAILED))
    assert models.look(MOUNT).fetch is Fetch.FAILED


def test_files_that_lead_elsewhere_are_served_to_nobody(models: Models, tmp_path: Path) -> None:
    folder = models.folder / models.key(MOUNT)
    content = folder / "content"
    content.mkdir(parents=True)
    (content / "config.json").write_text("{}")
    (content / "model").symlink_to("config.json")
    states.write_state(folder, State(states.STAGED, 1, 1, content="content"))
    assert models.found(MOUNT) == content
    for number, strange in enumerate((lambda path: path.symlink_to(tmp_path), os.mkfifo)):
        strange(content / "strange")
        states.write_state(folder, State(states.STAGED, 1, 1, content="content", at=number + 1.0))
        staging = models.look(MOUNT)
        assert (staging.fetch, staging.reason.code if staging.reason else "") == (Fetch.REFUSED, "UnsafePath")
        assert models.stager.find(models.service, MOUNT) is None
        (content / "strange").unlink()


def test_link_to_itself_stops_no_pass(models: Models) -> None:
    content = staged(models)
    (content / "loop").symlink_to("loop")
    assert models.look(MOUNT).fetch is Fetch.STAGED, "nobody is led out of the folder"


def test_what_cannot_be_looked_through_is_served_to_nobody(models: Models) -> None:
    """More than a path can name, and more than some Pythons walk through."""
    for name, depth in (("a" * 200, 25), ("a", 1100)):
        content = staged(models, name)
        try:
            dig(content, name, depth)
            is_walked = name == "a" and sys.version_info >= (3, 12)
            assert models.look(MOUNT).fetch is (Fetch.STAGED if is_walked else Fetch.REFUSED)
            assert models.stager.find(models.service, MOUNT) == (content if is_walked else None)
        finally:
            subprocess.run(["rm", "-rf", str(content)], check=True)


def test_bug_in_judging_one_model_is_told_of_that_one_alone(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    content = staged(models)
    other = Mount("s3://bucket/b")
    (models.folder / models.key(other) / "content").mkdir(parents=True)
    states.write_state(models.folder / models.key(other), State(states.STAGED, 1, 1, content="content"))

    def stumble(folder: Path) -> None:
        if folder == content:
            raise IndexError("list index out of range")

    monkeypatch.setattr(stager, "_find_strange", stumble)
    with capture_logs() as logs:
        for _ in range(2):
            seen = models.look(MOUNT)
            assert seen.reason is not None
            assert seen.reason.message.startswith("unexpected IndexError")
            assert models.look(other).fetch is Fetch.STAGED
    assert [each["subject"] for each in logs if each["event"] == "fault_isolated"] == [models.key(MOUNT)]
    with pytest.raises(IndexError):
        models.begin_mount(MOUNT)
    assert content.is_dir(), "what is not known is not fetched again"
    monkeypatch.undo()
    assert models.look(MOUNT).fetch is Fetch.STAGED


def test_what_lies_too_deep_to_be_deleted_keeps_nothing_else_from_it(models: Models) -> None:
    models.stager.subscribe()
    content = staged(models)
    try:
        dig(content, "a", 1100)
        models.stager.unstage(models.key(MOUNT))
        eventually(lambda: "garbage" not in [thread.name for thread in threading.enumerate()])
        other = models.folder / ".gone-0123456789abcdef-0"
        other.mkdir()
        staged(models)
        models.stager.unstage(models.key(MOUNT))
        eventually(lambda: not other.exists())
    finally:
        subprocess.run(["rm", "-rf", str(models.folder)], check=True)


def staged(models: Models, name: str = "content") -> Path:
    content = models.folder / models.key(MOUNT) / name
    content.mkdir(parents=True)
    states.write_state(content.parent, State(states.STAGED, 1, 1, content=name))
    return content


def dig(folder: Path, name: str, depth: int) -> None:
    """Folders in folders, each made from the one above it: no path is long enough for all of them."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
