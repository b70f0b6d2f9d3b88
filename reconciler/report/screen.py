"""Printing: rich tables and colours on a terminal, plain lines anywhere else. Rich respects NO_COLOR by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TextIO

from reconciler.model import HealthStatus, Sync
from reconciler.report.text import Block, Table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

_STYLES: Mapping[str, str] = {
    Sync.SYNCED: "green",
    Sync.OUT_OF_SYNC: "yellow",
    HealthStatus.HEALTHY: "green",
    HealthStatus.PROGRESSING: "cyan",
    HealthStatus.DEGRADED: "red",
    HealthStatus.MISSING: "red",
    HealthStatus.SUSPENDED: "blue",
    HealthStatus.UNKNOWN: "magenta",
}
_MARK_STYLES: Mapping[str, str] = {"+": "green", "~": "cyan", "-": "red", "!": "yellow"}


def show(blocks: Iterable[Block], out: TextIO) -> None:
    """Write blocks to `out`."""
    if out.isatty():
        from rich.console import Console

        Console(file=out, highlight=False).print(renderable(blocks))
        return
    for line in plain_lines(blocks):
        out.write(line + "\n")


def show_diff(text: str, out: TextIO) -> None:
    """A unified diff, coloured on a terminal."""
    if not out.isatty():
        out.write(text)
        return
    from rich.console import Console
    from rich.text import Text

    styles = {"+": "green", "-": "red", "@": "cyan"}
    console = Console(file=out, highlight=False)
    for line in text.splitlines():
        console.print(Text(line, style=styles.get(line[:1], "")))


def plain_lines(blocks: Iterable[Block]) -> Iterable[str]:
    """Columns padded by spaces: `awk` can read them."""
    for block in blocks:
        if isinstance(block, str):
            yield block
            continue
        rows = [block.header, *block.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(block.header))]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def renderable(blocks: Iterable[Block]) -> Group:
    """The same for a terminal."""
    from rich.console import Group

    return Group(*(_rendered(block) for block in blocks))


def _rendered(block: Block) -> RenderableType:
    from rich.table import Table as RichTable

    if isinstance(block, str):
        return _line(block)
    table = RichTable(box=None, header_style="bold", pad_edge=False)
    for name in block.header:
        table.add_column(name, overflow="fold")
    for row in block.rows:
        table.add_row(*(_cell(text) for text in row))
    return table


def _cell(text: str) -> Text:
    from rich.text import Text

    return Text(text, style=_STYLES.get(text.split(" ")[0], ""))


def _line(text: str) -> Text:
    from rich.text import Text

    return Text(text, style=_MARK_STYLES.get(text.strip()[:1], "") if text.startswith("  ") else "")


__all__ = ["Block", "Table", "plain_lines", "renderable", "show", "show_diff"]
