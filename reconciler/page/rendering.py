"""Documents of pages as HTML. Everything is escaped; a name that a template misspells is an error."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

STATIC = Path(__file__).parent / "static"


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


def short(revision: str) -> str:
    """A commit as people write it."""
    return revision[:8]


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("reconciler.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters["short"] = short
    found.globals["static"] = static_address
    return found
