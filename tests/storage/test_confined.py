"""What a source calls its files cannot lead the program out of its folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os, sys
from pathlib import Path
from reconciler.storage.download.confined import confine
from reconciler.storage.download.failures import Refused
own = Path(sys.argv[1])
(own / "way-out").symlink_to("..")
confine(own)
open(own / "config.json", "wb").close()
try:
    eval(sys.argv[2])
except Refused as error:
    sys.exit(error.code)
"""


@pytest.mark.parametrize(
    "attempt",
    [
        "open(own / '../evil', 'wb')",
        "open(own / 'way-out/evil', 'wb')",
        "os.open(own.parent / 'evil', os.O_CREAT)",
        "os.makedirs(own / '../evil')",
        "os.rename(own / 'config.json', own.parent / 'evil')",
        "os.symlink('config.json', own / '../evil')",
    ],
)
def test_nothing_is_written_outside_of_the_folder(machine_folder: Path, attempt: str) -> None:
    own = machine_folder / "model"
    own.mkdir()
    done = subprocess.run([sys.executable, "-c", _PROGRAM, own, attempt], capture_output=True, text=True, check=False)
    assert done.stderr == "UnsafePath\n", done
    assert sorted(path.name for path in machine_folder.iterdir()) == ["model"]


@pytest.fixture
def machine_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Not a place for temporary files, as far as the program knows."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "machine").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path / "machine"
