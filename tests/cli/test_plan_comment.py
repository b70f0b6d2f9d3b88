"""`plan --comment`, where it cannot tell anybody: before anything is asked or planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reconciler.cli import run

HOST = {"name": "a", "paths": ["a"], "engines": []}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--comment"], "--comment needs --revision"),
        (["--comment", "--revision", "x"], "forge.token_file: is not set"),
        (["--comment", "--revision", "x", "--pull-request", "0"], "0 is not in the range"),
    ],
)
def test_comment_that_nobody_would_get_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    tmp_path.chmod(0o755)
    config = tmp_path / "config.yaml"
    source = {"url": "https://git.example.com/team/models.git"}
    forge = {"kind": "gitea"}
    config.write_text(
        yaml.safe_dump({"source": source, "targets": [HOST], "forge": forge, "state_dir": str(tmp_path / "state")})
    )
    assert run(["plan", "--config", str(config), *arguments]) == 2
    assert expected in capsys.readouterr().err
