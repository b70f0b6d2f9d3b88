"""What a source calls its files cannot lead the program out of its folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import ctypes, os, shutil, subprocess, sys, tempfile
from pathlib import Path
from reconciler.host.staging.download import confined
own = Path(sys.argv[1])
outside = os.open(own.parent, os.O_RDONLY)
(own / "way-out").symlink_to("..")
(own / "temporary").mkdir()
open(own / "config.json", "wb").close()
if sys.argv[3] == "hook":
    confined.restrict_writes = lambda *_, **__: False
if sys.argv[3] == "kernel":
    sys.addaudithook = lambda _: None
confined.confine(own / "temporary", own)
try:
    print("did:", eval(sys.argv[2]))
except (confined.Refused, PermissionError) as error:
    sys.exit(type(error).__name__)
"""
_HOOK = [
    "open(own / '../evil', 'wb')",
    "open(own / 'way-out/evil', 'wb')",
    "os.open(own.parent / 'evil', os.O_CREAT)",
    "os.open(own.parent / 'theirs', os.O_TRUNC)",
    "os.makedirs(own / '../evil')",
    "os.makedirs(own / '../__pycache__')",
    "os.mkdir('evil', dir_fd=outside)",
    "os.rename(own / 'config.json', own.parent / 'evil')",
    "os.rename(own.parent / 'theirs', own / 'mine')",
    "os.symlink('config.json', own / '../evil')",
    "os.truncate(own.parent / 'theirs', 0)",
    "os.remove(own.parent / 'theirs')",
    "os.remove('theirs', dir_fd=outside)",
    "shutil.rmtree(own.parent / 'empty')",
]
_KERNEL = [
    *_HOOK,
    "os.open('evil', os.O_CREAT | os.O_WRONLY, dir_fd=outside)",
    "subprocess.run(['touch', own.parent / 'evil'], check=True)",
]


def attempt(own: Path, what: str, wall: str) -> subprocess.CompletedProcess[str]:
    own.mkdir()
    (own.parent / "theirs").write_text("theirs")
    (own.parent / "empty").mkdir()
    argv = [sys.executable, "-c", _PROGRAM, own, what, wall]
    return subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "wall"), [*((what, "hook") for what in _HOOK), *((what, "kernel") for what in _KERNEL)]
)
def test_fetch_writes_nothing_outside_of_its_folder(tmp_path: Path, what: str, wall: str) -> None:
    if wall == "kernel" and not has_landlock():
        pytest.skip("this kernel has no Landlock that lets files be moved: Linux 5.19 or newer is needed")
    done = attempt(tmp_path / "model", what, wall)
    assert done.returncode != 0, done
    assert "did:" not in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model", "theirs"]
    assert (tmp_path / "theirs").read_text() == "theirs"


@pytest.mark.parametrize(
    "what",
    [
        "os.rename(own / 'config.json', own / 'temporary/moved')",
        "shutil.rmtree(own / 'temporary')",
        "tempfile.NamedTemporaryFile().name",
        "open('/dev/null', 'w')",
        "subprocess.run(['true'], stdout=subprocess.DEVNULL, check=True)",
    ],
)
def test_fetch_does_as_it_likes_inside_of_its_folder(tmp_path: Path, what: str) -> None:
    done = attempt(tmp_path / "model", what, "both")
    assert "did:" in done.stdout, done


def has_landlock() -> bool:
    """Asked in a process of its own: it cannot be taken back."""
    code = "import pathlib, sys; from reconciler.host.staging.download import confined; "
    code += "sys.exit(not confined.restrict_writes([], pathlib.Path('/')))"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
