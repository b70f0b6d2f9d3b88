"""What the documents show can be typed: commands with their options, and configurations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from reconciler.cli import cli
from reconciler.config.settings import Settings
from tests.docs.documents import ROOT, documents

_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
# `kubectl -n reconciler get …` names our namespace.
_CALL = re.compile(r"(?<!-n )\breconciler ([a-z][^#&`\n]*)")
_OPTION = re.compile(r"(?<=\s)--[a-z-]+")
_CONFIG = re.compile(r"^```yaml\n(source:.*?)^```", re.MULTILINE | re.DOTALL)


def _calls(text: str) -> Iterator[str]:
    """What follows `reconciler` in code."""
    for code in _CODE.findall(text):
        yield from _CALL.findall(code)


def _faults(call: str) -> list[str]:
    """What of a call no command knows."""
    command: click.Command = cli
    for word in call.split():
        if not isinstance(command, click.Group):
            break
        if word not in command.commands:
            return [word]
        command = command.commands[word]
    known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    return [option for option in _OPTION.findall(call) if option not in known]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_command_in_a_document_exists(path: Path):
    assert {call: faults for call in _calls(path.read_text()) if (faults := _faults(call))} == {}


def test_unknown_command_or_option_is_found():
    text = "`reconciler stop`, `reconciler host drain --now`\n```\nsudo reconciler status --watch  # --not this\n```\n"
    assert [_faults(call) for call in _calls(text)] == [["stop"], ["--now"], []]


def test_configurations_in_documents_are_valid(tmp_path: Path):
    found = [text for path in documents() for text in _CONFIG.findall(path.read_text())]
    assert len(found) > 1
    for text in found:
        (tmp_path / "config.yaml").write_text(text)
        Settings.load(tmp_path / "config.yaml")
