"""Who led for a state folder before, and is dead."""

from __future__ import annotations

from pathlib import Path

from reconciler.cluster.succession import Succession


def test_process_follows_all_that_ended_before_it_and_none_that_runs(tmp_path: Path):
    path = tmp_path / "state" / "leaders"
    for name in ("first", "second"):
        ended = Succession(path)
        ended.follow(name)
        ended.close()

    running = Succession(path)
    assert running.follow("third") == {"first", "second"}
    assert Succession(path).follow("fourth") == frozenset()


def test_folder_that_cannot_be_written_costs_only_time(tmp_path: Path):
    (tmp_path / "file").touch()
    assert Succession(tmp_path / "file" / "leaders").follow("me") == frozenset()


def test_list_of_the_dead_stays_short(tmp_path: Path):
    for number in range(40):
        one = Succession(tmp_path / "leaders")
        found = one.follow(f"host_{number}")
        one.close()
    assert len(found) == 16
    assert "host_38" in found
