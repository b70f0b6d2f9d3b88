"""Our Markdown files and their generated blocks. `python -m tests.docs.documents` writes the blocks again.

A block stands between `<!-- NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reconciler.config.settings import ClusterSettings, Settings
from reconciler.desired.support import ROWS, Effect, FieldSupport, SupportRow
from reconciler.model import ReasonCode
from reconciler.model.reasons import RENAMED
from tests.docs.reason_help import HELP, Help

ROOT = Path(__file__).parents[2]
FOLDERS = ("deploy", "reconciler", "repo_layout", "tests")


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    return sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])


# ---------------------------------------------------------------- settings


_SETTINGS = ["| key | default | meaning |", "|---|---|---|"]


def settings_table() -> str:
    """Targets are hosts here."""
    return "\n".join([*_SETTINGS, *_settings(Settings, "")])


def cluster_table() -> str:
    return "\n".join([*_SETTINGS, *_settings(ClusterSettings, "targets[].")])


def _settings(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """One row per setting, in the order of the code."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield f"| `{prefix}{name}` | {_default(field)} | {field.description} |"
        else:
            many = "[]" if str(field.annotation).startswith("tuple") else ""
            yield from _settings(section, f"{prefix}{name}{many}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, float):
        return f"{value:g}s"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# ---------------------------------------------------------------- supported fields


def support_table() -> str:
    return "\n".join(["| where | what | on a host | on a cluster |", "|---|---|---|---|", *map(_support, ROWS)])


def _support(row: SupportRow) -> str:
    keys = ", ".join(f"`{key}`" for key in row.keys)
    values = f" = {' or '.join(str(value).lower() for value in row.values)}" if row.values else ""
    return f"| {row.where} | {keys}{values} | {_outcome(row.host)} | {_outcome(row.cluster)} |"


def _outcome(outcome: FieldSupport) -> str:
    if outcome.effect is Effect.HONOURED:
        return f"honoured: {outcome.note}" if outcome.note else "honoured"
    text = f"{outcome.effect}: {outcome.note}"
    return f"honoured if {outcome.unless}; else {text}" if outcome.unless else text


# ---------------------------------------------------------------- reason codes


def reason_table() -> str:
    return "\n\n".join([*(_reasons(title, codes) for title, codes in HELP.items()), _renamed()])


def _reasons(title: str, codes: Mapping[ReasonCode, Help]) -> str:
    head = f"### {title}\n\n| code | meaning | what the reconciler does | what you do |\n|---|---|---|---|\n"
    return head + "\n".join(f"| `{code}` | {code.meaning} | {does} | {you} |" for code, (does, you) in codes.items())


def _renamed() -> str:
    return "### Codes of older versions\n\n" + ", ".join(f"`{old}` is `{new}`" for old, new in RENAMED.items()) + "."


# ---------------------------------------------------------------- blocks

BLOCKS: dict[tuple[str, str], Callable[[], str]] = {
    ("deploy/CONFIGURATION.md", "settings"): settings_table,
    ("deploy/CONFIGURATION.md", "cluster settings"): cluster_table,
    ("deploy/TROUBLESHOOTING.md", "reasons"): reason_table,
    ("repo_layout/SUPPORTED_FIELDS.md", "supported fields"): support_table,
}


def replace_block(text: str, name: str, content: str) -> str:
    """The document with this content in a block. Raises ValueError where it has no such block."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    pattern = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    found, count = pattern.subn(lambda _: f"\n{content}\n", text)
    if count != 1:
        raise ValueError(f"one block {begin.strip()} … {end.strip()} is wanted, found {count}")
    return found


def main() -> None:
    for (document, name), make in BLOCKS.items():
        path = ROOT / document
        path.write_text(replace_block(path.read_text(), name, make()))


if __name__ == "__main__":
    main()
