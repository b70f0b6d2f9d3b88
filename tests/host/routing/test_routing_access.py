"""A proxy with a user of its own: what that user puts into its own folder does nothing to us."""

from __future__ import annotations

import os
import pwd
import socket
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.host.routing import admin, process
from reconciler.host.routing.admin import Admin
from reconciler.host.routing.files import write_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "proxy"
    (made / admin.OWN).mkdir(parents=True)
    return made


def listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def test_link_in_place_of_the_admin_socket_is_not_followed(folder: Path, tmp_path: Path) -> None:
    with closing(listening(tmp_path / "other")):
        (folder / "admin" / "admin.sock").symlink_to(tmp_path / "other")
        with pytest.raises(OSError, match="non-socket"):
            admin.connect(folder, 1)
        admin.keep(folder)
        assert not (folder / "kept" / "admin.sock").exists()
        assert not admin.restore(folder)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mkfifo(path), Path.touch])
def test_anything_in_place_of_the_admin_socket_is_no_answer(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder / "admin" / "admin.sock")
    with pytest.raises(Retryable, match="is not responding"):
        Admin(folder).is_live()
    admin.forget(folder)


def test_deleted_admin_socket_of_a_user_is_put_back(folder: Path) -> None:
    with closing(listening(folder / "admin" / "admin.sock")):
        admin.keep(folder)
        (folder / "admin" / "admin.sock").unlink()
        assert admin.restore(folder)
        admin.connect(folder, 1).close()


def test_proxy_of_an_older_release_is_reached_beside_a_stale_socket(folder: Path) -> None:
    listening(folder / "admin" / "admin.sock").close()
    with closing(listening(folder / "admin.sock")):
        admin.connect(folder, 1).close()


def test_log_of_any_length_is_read_from_its_end(tmp_path: Path) -> None:
    with (tmp_path / process.LOG).open("wb") as log:
        log.seek(1 << 40)
        log.write(b"the end")
    assert process.last_words(tmp_path).endswith("the end")
    process.trim_log(tmp_path)
    assert (tmp_path / "log.1").stat().st_size == 4 << 20
    assert process.log_size(tmp_path) == 0


def test_mode_of_a_file_for_the_proxy_is_free_of_our_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_file(tmp_path / "x.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_folder_of_an_older_release_is_opened_and_again_without_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.getpwnam("nobody")
    monkeypatch.setattr(process, "USER", "nobody")
    (folder / "eds.json").touch(0o600)
    folder.chmod(0o700)
    for _ in range(2):
        process.grant(folder)
        write_file(folder / "new.json", "{}")
        assert (folder / "new.json").stat().st_gid == user.pw_gid
        for path, owner, mode in (
            (folder, 0, 0o750),
            (folder / "eds.json", 0, 0o640),
            (folder / "admin", user.pw_uid, 0o700),
        ):
            info = path.stat()
            assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (owner, user.pw_gid, mode)
