"""The README tells what the code does: every setting and every command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reconciler.cli import cli
from reconciler.config import Settings

README = Path(__file__).parents[1] / "README.md"


def rows(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """One row of the reference per setting, in the order of the code."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield f"| `{prefix}{name}` | {_default(field)} | {field.description} |"
        else:
            many = "[]" if str(field.annotation).startswith("tuple") else ""
            yield from rows(section, f"{prefix}{name}{many}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, float):
        return f"{value:g}s"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table() -> str:
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows()])


def test_every_setting_stands_in_the_readme():
    assert table() in README.read_text(), "write this into the README:\n" + table()


def test_every_command_stands_in_the_readme_and_no_other():
    told = set(re.findall(r"^\| `reconciler (\w+)", README.read_text(), re.MULTILINE))
    assert told == set(cli.commands) - {"version"}
