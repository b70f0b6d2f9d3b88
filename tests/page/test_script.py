"""The page's script has no type errors: its types stand in JSDoc comments, and TypeScript's compiler reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.page.rendering import STATIC

pytestmark = pytest.mark.web

WRONG = "/** @type {number} */\nexport const wrong = document.querySelector('main')\n"


def check(*scripts: Path) -> str:
    """What the compiler says of scripts."""
    from tests.page.browser import tools

    options = ("--noEmit", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals", "--types", "")
    command = [tools() / "tsc", *options, "--target", "es2023", "--module", "esnext", *scripts]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode == 0) == (not done.stdout), done
    return done.stdout


def test_scripts_have_no_type_errors() -> None:
    assert check(*STATIC.glob("*.js")) == ""


def test_script_with_a_wrong_type_is_found(tmp_path: Path) -> None:
    (tmp_path / "wrong.js").write_text(WRONG)
    assert "TS2322" in check(tmp_path / "wrong.js")
