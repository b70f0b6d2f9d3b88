"""`$(NAME)` in the command, arguments and variables of a container, expanded as the kubelet does. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from reconciler.model import Argument

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
# All in all; no process takes so much, so that what is longer is refused anyway.
LONGEST_EXPANSION = 8 << 20


def expand(text: str, env: Mapping[str, str], room: int = LONGEST_EXPANSION) -> str:
    """`$(NAME)` becomes the variable, `$$` a dollar, an unknown name stays: as the kubelet does it.

    Ends once it has more than `room` letters: variables that name variables may grow without end.
    """
    if room <= 0:
        return text
    closed, rest = _parted(text)
    parts, at, length = list[str](), 0, 0
    for match in _REFERENCE.finditer(closed):
        value = "$" if match[1] is None else env.get(match[1], match[0])
        parts += closed[at : match.start()], value
        at, length = match.end(), length + len(parts[-1]) + len(parts[-2])
        if length > room:
            return "".join(parts)
    return "".join((*parts, closed[at:], rest.replace("$$", "$")))


def expand_all(arguments: Iterable[Argument], env: Mapping[str, str]) -> tuple[Argument, ...]:
    room, found = LONGEST_EXPANSION, []
    for each in arguments:
        found.append(each.rewritten(expand(each.text, env, room)))
        room -= len(found[-1].text)
    return tuple(found)


def names_in(text: str) -> frozenset[str]:
    """The variables that a text refers to by `$(NAME)`."""
    return frozenset(match[1] for match in _REFERENCE.finditer(_parted(text)[0]) if match[1])


def _parted(text: str) -> tuple[str, str]:
    """Where a `$(` may still be closed, and where not: there each one would be looked at up to the end, for hours."""
    closed, bracket, rest = text.rpartition(")")
    return closed + bracket, rest
