"""The documents say what the code does: every setting, every field and every command."""

from __future__ import annotations

import re

import pytest

from reconciler.cli import cli
from reconciler.model import ReasonCode
from tests.docs.documents import BLOCKS, ROOT, replace_block
from tests.docs.reason_help import HELP


@pytest.mark.parametrize(("document", "name"), BLOCKS)
def test_generated_block_is_up_to_date(document: str, name: str):
    text = (ROOT / document).read_text()
    assert replace_block(text, name, BLOCKS[document, name]()) == text, "run: .venv/bin/python -m tests.docs.documents"


def test_every_reason_code_has_its_row():
    listed = [code for codes in HELP.values() for code in codes]
    assert sorted(listed) == sorted(ReasonCode), "see tests/docs/reason_help.py"


def test_readme_lists_every_command_and_no_other():
    listed = set(re.findall(r"^\| `reconciler (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert listed == set(cli.commands) - {"version"}


def test_readme_stays_within_ten_kilobytes():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000
