"""A state_dir that others can write to is refused: what lies there decides what we run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.state.folder import faults
from tests.support.light_rig import LightRig

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders of other users")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    folder = tmp_path / "a" / "state"
    folder.mkdir(parents=True, mode=0o700)
    return folder


def test_folder_of_ours_in_a_sticky_one_is_taken(folder: Path) -> None:
    folder.parent.chmod(0o1777)
    assert list(faults(folder)) == []
    assert list(faults(folder.parent / "to be made")) == []


@pytest.mark.parametrize("above", [0, 1])
def test_folder_that_all_may_write_to_is_refused(folder: Path, above: int) -> None:
    (folder, folder.parent)[above].chmod(0o777)
    ((fault, _),) = faults(folder)
    assert fault.startswith("every user of this host may write to ")


def test_sticky_folder_that_all_may_write_to_is_no_place_itself(folder: Path) -> None:
    folder.chmod(0o1777)
    assert len(list(faults(folder))) == 1


def test_folder_of_a_pod_may_lie_in_an_open_volume(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.parent.chmod(0o777)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert list(faults(folder)) == []
    folder.chmod(0o777)
    assert len(list(faults(folder))) == 1


@only_root
@pytest.mark.parametrize("above", [0, 1])
def test_folder_of_another_user_is_refused_by_root(folder: Path, above: int) -> None:
    os.chown((folder, folder.parent)[above], 65534, -1)
    ((fault, _),) = faults(folder)
    assert "belongs to user 65534" in fault


@only_root
def test_link_of_another_user_is_refused_by_root(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert list(faults(link)) == []
    os.chown(link, 65534, -1, follow_symlinks=False)
    ((fault, _),) = faults(link)
    assert f"{link} belongs to user 65534" in fault


def test_link_into_an_open_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    folder.parent.chmod(0o777)
    ((fault, _),) = faults(link)
    assert fault.endswith(f"may write to {folder.parent}")


@pytest.mark.slow
def test_daemon_refuses_a_state_dir_that_all_may_write_to(tmp_path: Path) -> None:
    rig = LightRig(tmp_path)
    rig.state_dir.mkdir()
    rig.state_dir.chmod(0o777)
    said = rig.ask("sync", expect=2).stderr
    assert f"every user of this host may write to {rig.state_dir}" in said
    assert f"chmod o-w {rig.state_dir}" in said
    assert not rig.state.exists()
    rig.close()
