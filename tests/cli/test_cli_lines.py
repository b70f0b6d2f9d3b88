"""Foreign text stays in its line: a CI takes one that begins with `::` for a command of ours."""

from __future__ import annotations

import pytest

from reconciler.cli.passes import _show_diffs
from reconciler.cli.shared import tell
from reconciler.model import ServiceId
from reconciler.report.diff import ServiceDiff

PUSHED = "no runtime x\n::error::pwn\u2028::warning::\x1b[31m"


def test_note_of_a_diff_is_one_line_whatever_git_says(capsys: pytest.CaptureFixture[str]) -> None:
    _show_diffs([ServiceDiff(ServiceId("default", "chat"), "a\nb.yaml:1", note=PUSHED)], [])
    assert capsys.readouterr().out == "default/chat (a b.yaml:1): no runtime x ::error::pwn ::warning::\n"


def test_progress_is_one_line_without_secrets_whatever_git_says(capsys: pytest.CaptureFixture[str]) -> None:
    tell(f"{PUSHED} https://me:hunter22@host/x")
    assert capsys.readouterr().err == "no runtime x ::error::pwn ::warning:: https://***@host/x\n"
