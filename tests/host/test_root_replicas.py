"""Replicas do not run as root where others may push, for each of those would be root; unless the config says so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import Settings
from reconciler.errors import SettingsError
from reconciler.host.doctor.systemd import check_user
from reconciler.host.root_replicas import only_root_may_push, refuse_root
from reconciler.report.findings import Level

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs replicas as root")
REMOTE = "https://forge.example.com/models.git"
NOBODY = 65534


def settings(url: str | Path, **target: Any) -> Settings:
    whole = {"source": {"url": str(url)}, "targets": [{"name": "box", "paths": ["box"], **target}]}
    return Settings.model_validate(whole)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "of-root" / "models.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(path)], check=True)
    return path


@as_root
@pytest.mark.parametrize("target", [{}, {"kind": "systemd", "user": "root", "gpus": []}])
def test_root_runs_no_replicas_from_a_repository_of_others(target: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"^targets\[0\]: box: .* would run replicas as root, .*allow_root: true$"):
        refuse_root(settings(REMOTE, **target))
    refuse_root(settings(REMOTE, **target, allow_root=True))
    (finding,) = check_user((known := settings(REMOTE, **target)).targets[0], known)
    assert finding.level is Level.PROBLEM


@as_root
def test_user_of_another_name_that_is_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    root = pwd.getpwnam("root")
    monkeypatch.setattr(pwd, "getpwnam", lambda _: root)
    with pytest.raises(SettingsError, match="user toor would run replicas as root"):
        refuse_root(settings(REMOTE, kind="systemd", user="toor"))


def test_user_root_stands_in_no_config_that_does_not_allow_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = "source: {url: /srv/git}\ntargets:\n  - name: a\n    paths: [a]\n    kind: systemd\n    user: root\n"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"config\.yaml:6: targets\[0\]\.user: replicas would run as root"):
        Settings.load(path)
    path.write_text(f"{text}    allow_root: true\n")
    assert Settings.load(path).targets[0].allow_root


@as_root
def test_repository_that_only_root_can_write_to_needs_no_leave(repository: Path) -> None:
    refuse_root(settings(repository))
    refuse_root(settings(f"file://{repository}"))
    (repository.parent / "link").symlink_to(repository)
    refuse_root(settings(repository.parent / "link"))
    refuse_root(settings(repository.parent / "not-there-yet"))


@as_root
@pytest.mark.parametrize(
    "open_it",
    [
        lambda path: os.chown(path, NOBODY, NOBODY),
        lambda path: os.chown(path / "refs" / "heads", NOBODY, NOBODY),
        lambda path: (path / "objects").chmod(0o775),
        lambda path: os.chown(path.parent, NOBODY, NOBODY),
        lambda path: path.parent.chmod(0o777),
    ],
)
def test_repository_that_another_user_can_change_is_one_of_others(
    repository: Path, open_it: Callable[[Path], object]
) -> None:
    assert only_root_may_push(str(repository))
    open_it(repository)
    assert not only_root_may_push(str(repository))
    with pytest.raises(SettingsError):
        refuse_root(settings(repository))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_other_user_than_root_runs_replicas_of_any_repository() -> None:
    os.seteuid(NOBODY)
    try:
        refuse_root(settings(REMOTE))
    finally:
        os.seteuid(0)
