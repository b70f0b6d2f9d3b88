"""What the daemon's side of fetching does by itself, whatever the program is."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.model import Fetch, Mount
from reconciler.storage import state as states
from reconciler.storage.state import State
from tests.storage.models import Models
from tests.world import eventually

MOUNT = Mount("s3://bucket/a")


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    found = Models(tmp_path / "models", Path("/bin/false"))
    yield found
    found.close()


def test_files_that_are_there_are_not_fetched_again_for_a_second_service(models: Models) -> None:
    folder = models.folder / models.key(MOUNT)
    (folder / "content").mkdir(parents=True)
    states.write_state(folder, State(states.STAGED, 1, 1, content="content"))
    models.begin_mount(MOUNT)
    assert models.look(MOUNT).fetch is Fetch.STAGED
    assert models.found(MOUNT) == folder / "content"


def test_a_program_that_is_cut_off_again_and_again_is_counted_each_time(models: Models) -> None:
    """Else the pauses would never grow, and nobody would be told."""
    for count in (1, 2, 3):
        models.begin_mount(MOUNT)
        eventually(lambda: models.look(MOUNT).fetch is Fetch.FAILED)
        assert models.look(MOUNT).failures == count


def test_a_program_that_is_not_there_is_counted_each_time(tmp_path: Path) -> None:
    models = Models(tmp_path / "models", tmp_path / "no-python")
    for count in (1, 2, 3):
        with pytest.raises(Retryable, match="no-python"):
            models.begin_mount(MOUNT)
        assert models.look(MOUNT).failures == count
    models.close()


def test_what_cannot_be_deleted_keeps_nothing_from_being_fetched(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    (models.folder / ".gone-0123456789abcdef").mkdir(parents=True)

    def refuse(folder: Path) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr("reconciler.targets.stager._delete", refuse)
    models.begin_mount(MOUNT)
    eventually(lambda: models.look(MOUNT).fetch is Fetch.FAILED)
