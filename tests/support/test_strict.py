"""What cannot be tested is said, and with CI=true it is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPED = "import pytest\ndef test_a(): pytest.skip('no such part here')\n"
WHOLE_FILE = "import pytest\npytest.importorskip('no_such_part')\n"


@pytest.mark.slow
@pytest.mark.parametrize(("ci", "outcome"), [("true", "2 failed|1 failed, 1 error"), ("false", "2 skipped")])
def test_skip_prints_its_reason_and_fails_where_all_parts_should_be(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_one.py").write_text(SKIPPED)
    (tmp_path / "test_whole.py").write_text(WHOLE_FILE)
    env = {**os.environ, "CI": ci, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-ra",
        "-p",
        "tests.support.strict",
        "--continue-on-collection-errors",
    ]
    done = subprocess.run([*argv, tmp_path], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert "no such part here" in done.stdout
    assert "could not import 'no_such_part'" in done.stdout
    assert any(each in done.stdout.splitlines()[-1] for each in outcome.split("|")), done.stdout
