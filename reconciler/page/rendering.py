"""Documents of pages as HTML. Everything is escaped; a name that a template misspells is an error."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context

from reconciler.model.names import counted
from reconciler.report.actions import short
from reconciler.report.convergence import failure_text
from reconciler.report.text import short_device, span

STATIC = Path(__file__).parent / "static"
MOST_CHARACTERS = 10_000
"""So long is one text on a page: of a longer one that is its beginning."""

# What a terminal acts on, what turns the direction of text, and what has no width. Tabs and line ends stay.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def render(page: str, **known: Any) -> str:
    """`page` names the template. Raises what Jinja2 raises: a bug of ours."""
    return _environment().get_template(f"{page}.html").render(**known)


@cache
def static_files() -> Mapping[str, bytes]:
    """Content by name."""
    return {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.is_file()}


@cache
def static_version() -> str:
    """Stands in their addresses, so that browsers may keep them for ever."""
    known = static_files()
    return hashlib.sha256(b"".join(name.encode() + known[name] for name in known)).hexdigest()[:12]


def static_address(name: str) -> str:
    """Where browsers find a file. Raises KeyError."""
    if name not in static_files():
        raise KeyError(name)
    return f"/static/{static_version()}/{name}"


def visible(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text from outside, cut, with what cannot be seen made visible: `⟨U+001B⟩` for an escape.

    Every text that a template puts out goes through it.
    """
    if len(text) > most:
        text = f"{text[:most]}… ({len(text):,} characters)"
    return text if text.isprintable() else _HIDDEN.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found.group()):04X}⟩"


def moment(at: str | float) -> datetime:
    """Of an RFC 3339 text, or of seconds since 1970."""
    return datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(at, UTC)


def machine_time(at: str | float) -> str:
    """For `<time datetime=…>`."""
    return moment(at).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def utc(at: str | float) -> str:
    """`2026-11-30 08:00:00 UTC`."""
    return moment(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@pass_context
def age(context: Context, at: str | float) -> str:
    """`5 min ago`, or `in 2 h`; seconds are counted from the page's `now`."""
    passed = float(context["now"]) - moment(at).timestamp()
    return f"{span(passed)} ago" if passed > -1 else f"in {span(-passed)}"


def size(count: float) -> str:
    """Bytes as people read them: `72.0 GiB`."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _put_out(value: object) -> object:
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("reconciler.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_put_out,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters |= {
        "short": short,
        "visible": visible,
        "machine_time": machine_time,
        "utc": utc,
        "age": age,
        "duration": span,
        "bytes": size,
        "counted": counted,
        "failure": failure_text,
        "device": short_device,
    }
    found.globals["static"] = static_address
    return found
