"""`reconciler init`: a repository to begin with, made of what the package brings along."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli import run
from tests.support.git_repository import git


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts}


def test_init_makes_a_repository_that_validates(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "above" / "our models"
    assert run(["init", str(folder)]) == 0
    out = capsys.readouterr().out
    assert {"README.md", "hosts/gpu-1/host.yaml", "runtimes/vllm-runtime.yaml"} <= files(folder)
    assert f"reconciler validate '{folder}'" in out
    assert "reconciler host install" in out
    assert not (folder / ".git").exists()
    assert run(["validate", str(folder)]) == 0


def test_init_fills_an_empty_clone_and_makes_one_on_request(tmp_path: Path):
    assert run(["init", "--git", str(tmp_path / "new")]) == 0
    (tmp_path / "clone").mkdir()
    git(tmp_path / "clone", "init", "--quiet")
    assert run(["init", "--git", str(tmp_path / "clone")]) == 0
    assert files(tmp_path / "new") == files(tmp_path / "clone")
    for name in ("new", "clone"):
        git(tmp_path / name, "add", "--all")
        git(tmp_path / name, "status")


@pytest.mark.parametrize("name", ["full", "full/mine.yaml"])
def test_init_refuses_what_is_not_empty(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.yaml").write_text("mine")
    assert run(["init", str(tmp_path / name)]) == 2
    assert "name a new folder" in capsys.readouterr().err
    assert files(tmp_path) == {"full/mine.yaml"}
