"""Who asks for a page, and what they may."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What somebody may. An operator may all that a viewer may."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Visitor:
    """One who may see the pages. `name` is empty where no login is configured."""

    name: str
    role: Role

    @property
    def may_act(self) -> bool:
        return self.role is Role.OPERATOR


NOBODY_IN_PARTICULAR = Visitor("", Role.VIEWER)
"""Whoever reaches a loopback address where no login is configured."""
