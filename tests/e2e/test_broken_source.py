"""Empty is not missing, and unreadable is not empty: a damaged repository prunes nothing and says why."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from tests.e2e.rig import Rig
from tests.support.git_repository import git

pytestmark = pytest.mark.e2e


def assert_untouched(rig: Rig, before: set[int]) -> None:
    """Give it a few passes to do harm, then look."""
    rig.ask("sync", "--timeout", "3", expect=None)
    assert rig.pids() == before
    assert rig.serves()


def test_empty_tree_prunes_nothing(rig: Rig):
    before = rig.pids()
    git(rig.clone, "rm", "-r", "-q", ".")
    git(rig.clone, "commit", "-q", "-m", "Remove everything")
    git(rig.clone, "push", "-q", "origin", "HEAD:main")
    rig.wait("the note", lambda: not rig.status()["targets"][0]["prunable"])
    assert_untouched(rig, before)
    assert "host.yaml" in rig.ask("status", expect=1).stdout
    rig.repository.revert()
    rig.converge()
    assert rig.pids() == before


def test_missing_folder_prunes_nothing(rig: Rig):
    before = rig.pids()
    git(rig.clone, "mv", "demo", "elsewhere")
    git(rig.clone, "commit", "-q", "-m", "Move the folder")
    git(rig.clone, "push", "-q", "origin", "HEAD:main")
    rig.wait("the note", lambda: not rig.status()["targets"][0]["prunable"])
    assert_untouched(rig, before)


def test_unreadable_repository_keeps_the_last_good_revision(rig: Rig):
    before = rig.pids()
    bare = rig.folder / "models.git"
    shutil.move(bare, rig.folder / "away.git")
    rig.wait("the error", lambda: rig.status()["revision"]["error"])
    assert_untouched(rig, before)
    rig.kill()
    rig.start()
    rig.wait("the daemon to be back", lambda: rig.status() and rig.status()["revision"]["desired"])
    assert_untouched(rig, before)
    shutil.move(rig.folder / "away.git", bare)
    rig.wait("the recovery", lambda: not rig.status()["revision"]["error"])
    rig.edit("demo/tiny.yaml", r"--max-num-seqs=\d+", "--max-num-seqs=11")
    rig.converge()


def test_rewritten_history_is_refused_until_it_is_allowed(rig: Rig):
    before = rig.pids()
    rig.edit("demo/tiny.yaml", r"--max-num-seqs=\d+", "--max-num-seqs=11")
    rig.converge()
    after = rig.pids()
    git(rig.clone, "reset", "-q", "--hard", "HEAD~1")
    rig.repository.edit("demo/tiny.yaml", r"--max-num-seqs=\d+", "--max-num-seqs=13")
    git(rig.clone, "commit", "-q", "-a", "-m", "Another history")
    git(rig.clone, "push", "-q", "--force", "origin", "HEAD:main")
    rig.wait("the refusal", lambda: "allow_rewrites" in rig.status()["revision"]["error"])
    assert_untouched(rig, after)
    rig.kill()
    rig.write_config(allow_rewrites=True)
    rig.start()
    rig.converge()
    assert rig.pids() not in (before, after)


def test_yaml_of_others_stops_no_deletion_and_json_is_read(rig: Rig):
    text = rig.read("demo/tiny.yaml")
    other = text.replace("name: tiny\n", "name: other\n", 1)
    rig.write({"demo/other.yaml": other, "demo/values.yaml": "image: {tag: v1}\n", "demo/.ci/x.yaml": "a: [\n"})
    rig.converge()
    before = rig.pids()
    rig.write({"demo/tiny.yaml": None, "demo/tiny.json": json.dumps(yaml.safe_load(text), indent=1)})
    rig.converge()
    assert rig.pids() == before, "another suffix restarts nothing"
    rig.write({"demo/other.yaml": None})
    rig.wait("the other to go", lambda: not rig.records("other"))
    rig.converge()
    assert [note["file"] for note in rig.status()["targets"][0]["notes"]] == ["demo/values.yaml"]


def test_one_broken_document_keeps_its_service_and_harms_no_other(rig: Rig):
    text = rig.read("demo/tiny.yaml")
    rig.write({"demo/other.yaml": text.replace("name: tiny\n", "name: other\n", 1)})
    rig.converge()
    before = rig.pids()
    rig.write({"demo/tiny.yaml": "apiVersion: [broken\n"})
    rig.wait("the note", lambda: rig.status()["targets"][0]["unreadable"])
    assert rig.status()["targets"][0]["unreadable"][0]["file"] == "demo/tiny.yaml"
    rig.edit("demo/other.yaml", r"--max-num-seqs=\d+", "--max-num-seqs=12")
    rig.wait(
        "the other to be rolled", lambda: rig.service("other")["sync"] == "Synced" and len(rig.records("other")) == 1
    )
    assert_untouched(rig, before)
    rig.write({"demo/tiny.yaml": text})
    rig.converge()
    assert rig.pids() == before
