"""What the unit of an engine does not see of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.host.systemd.concealed import Concealed, conceal


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for name in ("models/a", "models/b", "state/box", "vllm/bin", "python3/bin", "python/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "python3/bin/python3").touch()
    # As uv lays out what it installs: a link to a folder on the way to the interpreter.
    (tmp_path / "python/bin").rmdir()
    (tmp_path / "python").rmdir()
    (tmp_path / "python").symlink_to("python3")
    (tmp_path / "vllm/bin/python").symlink_to(tmp_path / "python/bin/python3")
    (tmp_path / "token").touch()
    return tmp_path


def test_other_models_and_our_own_folders_are_concealed(host: Path) -> None:
    closed = (host / "state", host / "state/box", host / "token", host / "nowhere")
    found = conceal("/usr/bin/python3", {"/mnt/models": f"{host}/models/a"}, closed)
    assert {*found.folders} == {f"{host}/models", f"{host}/state"}
    assert (found.shown, found.files) == ((), (f"{host}/token",))


def test_environment_of_the_engine_stays_visible_beside_a_model(host: Path) -> None:
    (host / "tiny").mkdir()
    found = conceal(f"{host}/vllm/bin/python", {"/mnt/models": f"{host}/tiny"}, ())
    assert found.folders == (str(host),)
    assert found.shown == (f"{host}/python", f"{host}/python3", f"{host}/vllm")


def test_folder_that_is_the_environment_of_the_engine_is_not_concealed(host: Path) -> None:
    (host / "vllm/tiny").mkdir()
    found = conceal(f"{host}/vllm/bin/python", {"/mnt/models": f"{host}/vllm/tiny"}, ())
    assert found == Concealed()


@pytest.mark.parametrize("folder", ["/usr/share/tiny", "/opt/tiny", "/tiny", "/var/lib/tiny", "/home/tiny"])
def test_folders_of_the_system_are_not_concealed(folder: str) -> None:
    assert conceal("/usr/bin/python3", {"/mnt/models": folder}, ()) == Concealed()
