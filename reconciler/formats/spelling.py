"""The likely meaning of a misspelt name. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """The known name that is nearest to a given one; empty when none is near. Ignores case, `-` and `_`."""
    folded: dict[str, str] = {}
    for each in known:
        folded.setdefault(_fold(each), each)
    near = difflib.get_close_matches(_fold(word), folded, 1, cutoff)
    return folded[near[0]] if near else ""


def _fold(name: str) -> str:
    return re.sub("[-_]", "", name).casefold()
