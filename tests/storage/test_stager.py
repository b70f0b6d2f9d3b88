"""What the daemon's side of fetching does by itself, whatever the program is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
