"""Names of revisions: what git allows, and ranges of versions. Pure."""

from __future__ import annotations

import re

from semantic_version import NpmSpec

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|\.\.|@\{|//|/\.|\.lock(?=/|$)|[./]$|^[./]|^$")


def is_ref_name(text: str) -> bool:
    """Would `git check-ref-format refs/heads/TEXT` accept it, and is it no option?"""
    return not _FORBIDDEN.search(text) and not text.startswith("-")


def parse_range(text: str) -> NpmSpec:
    """A range in npm's syntax (`>=1.2.0 <2.0.0`, `1.x`, `^1.4`, `~1.4.2`, `1.2 - 1.4`, `1.x || 3.x`).

    Commas and blanks after an operator are allowed too, because Flux allows them. As with npm, a pre-release is taken
    only when the range names one of the same x.y.z. Raises ValueError.
    """
    try:
        if len(text) > 200 or not all(part.strip() for part in text.split("||")):
            raise ValueError("too long, or nothing between two bars")
        return NpmSpec(_as_npm(text))
    except (ValueError, TypeError, AttributeError, KeyError):
        shown = ascii(text if len(text) <= 80 else text[:79] + "…")
        raise ValueError(f"{shown} is not a range of versions; write for example '>=1.2.0 <2.0.0' or '1.x'") from None


def _as_npm(text: str) -> str:
    text = re.sub(r"~>", "~", text.replace(",", " "))
    return re.sub(r"\s+", " ", re.sub(r"([<>=^~])\s+", r"\1", text)).strip()
