"""A repository, a mirror and a source for each test of the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.source import GitSource
from tests.source.parts import source_of
from tests.support.git_repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "origin")
    made.write("runtimes/vllm.yaml", "kind: ServingRuntime\n")
    made.write("hosts/a/chat.yaml", "kind: InferenceService\n")
    made.write("hosts/a/notes.md", "not for us\n")
    made.write("hosts/b/other.yaml", "kind: InferenceService\n")
    made.commit("Serve chat")
    return made


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "state" / "git"


@pytest.fixture
def source(repository: Repository, mirror: Path) -> GitSource:
    return source_of(repository, mirror)
