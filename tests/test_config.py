"""The config: what it refuses, and that every refusal names the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.config import Settings
from reconciler.errors import SettingsError


def load(folder: Path, target: dict[str, Any] | None = None, **settings: Any) -> Settings:
    """A config with one target, changed as a test asks."""
    file = folder / "config.yaml"
    whole = {"source": {"url": "/models.git"}, "targets": [{"name": "box", "paths": ["hosts/box"], **(target or {})}]}
    file.write_text(yaml.safe_dump({**whole, **settings}))
    return Settings.load(file)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("hosts/box", "hosts/box"), ("./hosts//box/", "hosts/box"), (".", ""), ("", ""), ("a b", "a b")],
)
def test_a_path_means_the_same_however_it_is_written(tmp_path: Path, written: str, meant: str):
    target = load(tmp_path, {"paths": ["runtimes/", written]}).targets[0]
    assert target.paths == ("runtimes", meant)
    assert target.own_path == meant


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../etc", "leaves the repository"),
        ("hosts/../../etc", "leaves the repository"),
        ("hosts/a\n", "leaves the repository"),
        ("/hosts/box", "is absolute"),
    ],
)
def test_a_path_outside_the_repository_is_refused(tmp_path: Path, path: str, why: str):
    with pytest.raises(SettingsError, match=rf"config\.yaml:\d+: targets\[0\]\.paths\[1\]: .*{why}"):
        load(tmp_path, {"paths": ["runtimes", path]})


def test_a_target_without_paths_is_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"config\.yaml:\d+: targets\[0\]\.paths: "):
        load(tmp_path, {"paths": []})


@pytest.mark.parametrize("engine", [{}, {"python": "/python", "podman": True}, {"podman": False}])
def test_an_image_is_run_by_an_interpreter_or_by_podman(tmp_path: Path, engine: dict[str, Any]):
    with pytest.raises(SettingsError, match=r"config\.yaml:\d+: targets\[0\]\.engines\[0\]: name either python, .*"):
        load(tmp_path, {"kind": "systemd", "engines": [{"image": "*", **engine}]})


def test_containers_need_systemd_to_keep_them(tmp_path: Path):
    engines = [{"image": "a", "python": "/python"}, {"image": "*", "podman": True}]
    assert load(tmp_path, {"kind": "systemd", "engines": engines}).targets[0].engines[1].podman
    with pytest.raises(
        SettingsError, match=r"config\.yaml:\d+: targets\[0\]\.engines: podman: true needs kind: systemd"
    ):
        load(tmp_path, {"engines": engines})


@pytest.mark.parametrize("name", ["team-a", "0", "a" * 63])
def test_a_default_namespace_is_a_dns_label(tmp_path: Path, name: str):
    assert load(tmp_path, {"default_namespace": name}).targets[0].default_namespace == name


@pytest.mark.parametrize("name", ["", "Team", "a_b", "../x", "a.b", "-a", "a-", "a" * 64, "a\n"])
def test_a_default_namespace_that_kubernetes_would_refuse_is_refused(tmp_path: Path, name: str):
    with pytest.raises(SettingsError, match=r"config\.yaml:\d+: targets\[0\]\.default_namespace: "):
        load(tmp_path, {"default_namespace": name})


def test_a_misspelt_setting_is_answered_with_the_nearest(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"targets\[0\]\.enginse: no such setting; did you mean engines\?"):
        load(tmp_path, {"enginse": []})


def test_a_mistake_is_told_once_with_its_line(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "source: {url: /srv/git}\ntargets:\n  - name: gpu-1\n    kind: sytemd\n    paths: [a]\n    engines: []\n"
    )
    with pytest.raises(SettingsError) as caught:
        Settings.load(path)
    assert str(caught.value) == f"{path}:4: targets[0].kind: \"sytemd\" is none of 'process' or 'systemd'"
