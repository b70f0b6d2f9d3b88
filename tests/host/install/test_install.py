"""`reconciler host install` into an image's root; on a machine that runs, see tests/machines/test_install.py."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.cli import run
from reconciler.config.settings import Settings
from reconciler.host.install.install import ship
from reconciler.host.install.uninstall import _has_workloads, _models_elsewhere
from reconciler.host.staging.state import LOCK, RUNNING, State, write_state
from reconciler.host.systemd.unit import BEHIND

pytestmark = pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="there is no systemd-sysusers here")
SHIPPED = Path(__file__).parents[3] / "deploy" / "systemd"
ENTRY = f"{sys.prefix}/bin/reconciler"
CONFIG = "etc/reconciler/config.yaml"
UNIT = "etc/systemd/system/reconciler.service"
WANTED = "etc/systemd/system/multi-user.target.wants/reconciler.service"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a root with its mode; links by where they lead."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            os.readlink(path).encode() if path.is_symlink() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def words(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """What was said to have become of the steps."""
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0] for line in lines} & {"done", "unchanged", "would"}


def test_image_gets_user_folders_config_and_an_enabled_unit(root: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["host", "install", "--root", str(root)]) == 0
    assert words(capsys) == {"done"}
    assert (root / "var/lib/reconciler").stat().st_mode & 0o777 == 0o700
    assert f"ExecStart={sys.prefix}/bin/reconciler run\n" in (root / UNIT).read_text()
    assert os.readlink(root / WANTED) == f"/{UNIT}"
    assert any(line.startswith("reconciler-engine:") for line in (root / "etc/passwd").read_text().splitlines())


def test_second_install_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]):
    run(["host", "install", "--root", str(root)])
    before = contents(root)
    capsys.readouterr()
    assert run(["host", "install", "--root", str(root)]) == 0
    assert words(capsys) == {"unchanged"}
    assert contents(root) == before


def test_dry_run_says_the_same_and_does_nothing(root: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["host", "install", "--dry-run", "--root", str(root)]) == 0
    announced = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert contents(root) == {}
    run(["host", "install", "--root", str(root)])
    performed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("done")]
    assert [what for _, what in announced] == [what for _, what in performed]
    assert {word for word, _ in announced} == {"would"}


def test_upgrade_writes_the_unit_again_and_leaves_the_config_alone(root: Path, capsys: pytest.CaptureFixture[str]):
    run(["host", "install", "--root", str(root)])
    (root / CONFIG).write_text("source: {url: /srv/models}\n")
    (root / UNIT).write_text("[Service]\nExecStart=/bin/old\n")
    capsys.readouterr()
    run(["host", "install", "--root", str(root)])
    assert (root / CONFIG).read_text() == "source: {url: /srv/models}\n"
    assert "reconciler run" in (root / UNIT).read_text()
    out = capsys.readouterr().out
    assert f"done      write {root / UNIT}" in out
    assert "next:" not in out


def test_config_is_closed_to_other_users(root: Path, capsys: pytest.CaptureFixture[str]):
    run(["host", "install", "--root", str(root)])
    assert (root / CONFIG).stat().st_mode & 0o777 == 0o600
    (root / CONFIG).chmod(0o644)
    capsys.readouterr()
    run(["host", "install", "--root", str(root)])
    assert (root / CONFIG).stat().st_mode & 0o777 == 0o600
    assert f"done      close {root / CONFIG} to all but its owner" in capsys.readouterr().out


def test_uninstall_keeps_config_and_state_until_it_is_told_to_purge(root: Path, capsys: pytest.CaptureFixture[str]):
    run(["host", "install", "--root", str(root)])
    (root / "var/lib/reconciler/state.db").write_bytes(b"")
    (root / "var/cache/reconciler/home").mkdir(parents=True)
    capsys.readouterr()
    assert run(["host", "uninstall", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert not (root / UNIT).exists()
    assert not (root / WANTED).is_symlink()
    assert f"left: {root / 'var/lib/reconciler'}" in out
    assert (root / CONFIG).exists()
    assert run(["host", "uninstall", "--purge", "--root", str(root)]) == 0
    assert not (root / "etc/reconciler").exists()
    assert not (root / "var/lib/reconciler").exists()
    assert not (root / "var/cache/reconciler").exists()


def purge_with_mounts(root: Path, *mounts: str) -> subprocess.CompletedProcess[str]:
    """Purge where these folders are mounts with files of the daemon."""
    lines = [f'mount -t tmpfs none "$0/{each}" && echo secret >"$0/{each}/token"' for each in mounts]
    script = " && ".join([*lines, 'mkdir "$0/var/lib/reconciler/git"', '"$1" host uninstall --purge --root "$0"'])
    checks = "; ".join(f'ls -A "$0/{each}" >&2' for each in mounts)
    argv = ["unshare", "--mount", "sh", "-c", f"{script}; code=$?; {checks}; exit $code", str(root), ENTRY]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="mounts need root")
def test_purge_empties_mounts_and_goes_on_with_the_rest(root: Path) -> None:
    run(["host", "install", "--root", str(root)])
    mounts = ("var/lib/reconciler", "etc/reconciler/keys")
    (root / "etc/reconciler/keys").mkdir()
    (root / "etc/reconciler/token").write_text("secret")
    done = purge_with_mounts(root, *mounts)
    assert (done.returncode, done.stderr) == (1, "")
    for mount in mounts:
        assert f"{root / mount} is emptied, but a file system is mounted there: umount {root / mount}" in done.stdout
    assert "purge deletes it" not in done.stdout
    assert [path.name for path in (root / "etc/reconciler").iterdir()] == ["keys"]
    assert not (root / "var/cache/reconciler").exists()
    assert not (root / "etc/sysusers.d/reconciler.conf").exists()
    # Once nothing is mounted, the next one deletes what is left.
    assert run(["host", "uninstall", "--purge", "--root", str(root)]) == 0
    assert not (root / "etc/reconciler").exists()
    assert not (root / "var/lib/reconciler").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="mounts need root")
def test_mount_deep_in_the_state_is_left_and_purged_again(root: Path) -> None:
    run(["host", "install", "--root", str(root)])
    (root / "var/lib/reconciler/box/models").mkdir(parents=True)
    for _ in range(2):
        done = purge_with_mounts(root, "var/lib/reconciler/box/models")
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.count("a file system is mounted there") == 1
        assert not (root / "etc/reconciler").exists()
        assert [path.name for path in (root / "var/lib/reconciler").iterdir()] == ["box"]


def test_purge_of_a_linked_folder_empties_what_it_points_to(root: Path, tmp_path: Path) -> None:
    run(["host", "install", "--root", str(root)])
    (root / "var/lib/reconciler").rmdir()
    (tmp_path / "disk/git").mkdir(parents=True)
    (root / "var/lib/reconciler").symlink_to(tmp_path / "disk")
    assert run(["host", "uninstall", "--purge", "--root", str(root)]) == 0
    assert not (tmp_path / "disk").exists()
    assert not (root / "var/lib/reconciler").is_symlink()


def test_folder_that_does_not_look_like_our_state_is_not_deleted(root: Path, capsys: pytest.CaptureFixture[str]):
    run(["host", "install", "--root", str(root)])
    (root / "var/lib/reconciler/thesis.tex").write_text("mine")
    assert run(["host", "uninstall", "--purge", "--root", str(root)]) == 2
    assert "does not look like the daemon's state" in capsys.readouterr().err
    assert (root / "var/lib/reconciler/thesis.tex").exists()
    assert (root / CONFIG).exists()


def test_models_kept_elsewhere_go_with_what_was_put_aside_and_nothing_else(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("0123456789abcdef", ".gone-0123456789abcdef-0", ".gone-fishing", "mine"):
        (models / name).mkdir(parents=True)
    text = (SHIPPED / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(f"{text}    storage:\n      folder: {models}\n")
    found = _models_elsewhere(Settings.load(tmp_path / "config.yaml"))
    assert sorted(each.name for each in found) == [".gone-0123456789abcdef-0", "0123456789abcdef"]


def test_program_that_fetches_is_ended_where_nothing_serves_yet(tmp_path: Path) -> None:
    """Else what is purged is written to again."""
    text = (SHIPPED / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(f"{text}\nstate_dir: {tmp_path / 'state'}\n")
    settings = Settings.load(tmp_path / "config.yaml")
    (target,) = settings.targets
    process = target.model_copy(update={"kind": "process"})
    settings = settings.model_copy(update={"targets": (process,)})
    model = tmp_path / "state" / target.name / "models" / "0123456789abcdef"
    model.mkdir(parents=True)
    write_state(model, State(RUNNING))
    with open(model / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert _has_workloads(settings)
    assert not _has_workloads(settings), "its program has ended"


@pytest.fixture
def not_allowed() -> Iterator[None]:
    """On a machine that could be changed we are not root."""
    root = os.geteuid() == 0 and Path("/run/systemd/system").is_dir()
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_machine_that_we_may_not_change_is_left_alone(not_allowed: None, capsys: pytest.CaptureFixture[str]):
    assert run(["host", "install"]) == 2
    said = capsys.readouterr().err
    assert "only root" in said or "not started by systemd" in said
    assert run(["host", "install", "--dry-run"]) == 0
    assert "would     " in capsys.readouterr().out


# ---------------------------------------------------------------- the files themselves


def test_config_that_is_shipped_can_be_used():
    settings = Settings.load(SHIPPED / "config.yaml")
    assert [(target.kind, target.user) for target in settings.targets] == [("systemd", "reconciler-engine")]


def test_what_is_commented_out_in_the_shipped_config_can_be_used_too(tmp_path: Path):
    text = (SHIPPED / "config.yaml").read_text()
    for line in text.splitlines():
        head, comment, rest = line.partition("# ")
        if comment and not head.strip() and ":" in rest and rest.split(":")[0].strip().isidentifier():
            text = text.replace(line, head + rest)
    (tmp_path / "config.yaml").write_text(text)
    settings = Settings.load(tmp_path / "config.yaml")
    assert settings.source.token_file is not None
    assert settings.targets[0].routing.listen == "0.0.0.0:8080"


def test_daemon_is_limited_in_memory_and_its_children_are_not():
    unit, unprivileged = (ship(name).decode().splitlines() for name in ("reconciler.service", "unprivileged.conf"))
    assert {"OOMScoreAdjust=500", "MemoryHigh=6G", "MemoryMax=8G", "OOMPolicy=continue"} <= {*unit}
    assert BEHIND[0] == "OOMScoreAdjust=1000", "what is tried out or fetched goes before the daemon"
    assert {"OOMScoreAdjust=0", "MemoryHigh=infinity", "MemoryMax=infinity", "TasksMax=infinity"} <= {*unprivileged}


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path):
    # It wants to see the program.
    text = ship("reconciler.service").decode().replace("/opt/reconciler/bin/reconciler", "/bin/true")
    (tmp_path / "reconciler.service").write_text(text)
    folder = tmp_path / "reconciler.service.d"
    folder.mkdir()
    shutil.copy(SHIPPED / "unprivileged.conf", folder)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "reconciler.service"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
