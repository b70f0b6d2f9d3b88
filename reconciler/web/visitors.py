"""Who asks for a page, and what they may."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.requests import Request


class Role(StrEnum):
    """What somebody may. An operator may all that a viewer may."""

    VIEWER = "viewer"
    OPERATOR = "operator"


class LoginMethod(StrEnum):
    """By what we know who asks."""

    LOOPBACK = "loopback"
    BEARER = "bearer"
    PROXY = "proxy"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Visitor:
    """One who may see the pages. `name` is empty where no login is configured. `ends`: when a session is over, in
    seconds since 1970; `session`: the SHA-256 of its id."""

    name: str
    role: Role
    way: LoginMethod = LoginMethod.LOOPBACK
    ends: float | None = None
    session: bytes = field(default=b"", repr=False)

    @property
    def may_act(self) -> bool:
        return self.role is Role.OPERATOR

    @property
    def may_log_out(self) -> bool:
        return self.way is LoginMethod.SESSION


NOBODY_IN_PARTICULAR = Visitor("", Role.VIEWER)
"""Whoever reaches a loopback address where no login is configured."""
ANYBODY = "*"


def role_of(groups: Collection[str], viewers: Collection[str], operators: Collection[str]) -> Role | None:
    """What somebody in these groups may, if anything. `viewers` and `operators` list groups; `*` stands for all."""
    if ANYBODY in operators or set(groups) & set(operators):
        return Role.OPERATOR
    if ANYBODY in viewers or set(groups) & set(viewers):
        return Role.VIEWER
    return None


def address_of(request: Request) -> str:
    """Where the connection comes from."""
    return request.client.host if request.client else ""


def visitor_of(request: Request) -> Visitor:
    """Who asks: the gate has found it out, and let nobody else through."""
    found = request.scope.get("visitor")
    if not isinstance(found, Visitor):
        raise RuntimeError(f"nobody asked who wants {request.url.path}")
    return found
