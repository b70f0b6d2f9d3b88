"""What things are called, alone and in lists, and where they were written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reconciler.model.reasons import ReasonCode


@dataclass(frozen=True, slots=True, order=True)
class ServiceId:
    """One InferenceService."""

    namespace: str
    name: str

    def __hash__(self) -> int:
        # Looked up a dozen times per service and pass: half the work of the one that would be made for us.
        return hash(self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class ReplicaId:
    """One running copy of a service. `serial` is `<first 8 of the digest at birth>-<number>`."""

    service: ServiceId
    serial: str

    def __str__(self) -> str:
        return f"{self.service.namespace}.{self.service.name}.{self.serial}"

    @classmethod
    def parse(cls, text: str) -> ReplicaId:
        """The inverse of `str()`. Raises ValueError."""
        namespace, name, serial = text.split(".")
        return cls(ServiceId(namespace, name), serial)


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where in git something was written."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class NoOrigin:
    """Stands for an Origin where no line of git is to blame. It is false, so that `origin or other` finds the other."""

    def __bool__(self) -> Literal[False]:
        return False


NO_ORIGIN = NoOrigin()
"""The only one there is. Its user says why there is no line."""


def is_under(path: str, roots: Iterable[str]) -> bool:
    """Is it one of these folders and files of the repository, or in one? `""` is the whole tree."""
    return any(not root or path == root or path.startswith(f"{root}/") for root in roots)


@dataclass(frozen=True, slots=True)
class Bug:
    """An unexpected exception while processing one of many: the others continue."""

    subject: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is as it is. `code` is for scripts, `message` for people, `origin` is the line to blame."""

    code: ReasonCode
    message: str
    origin: Origin | NoOrigin

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}" if self.origin else self.message


def host_reason(code: ReasonCode, message: str) -> Reason:
    """What a host has not, or what failed there: git is not to blame. A plan may add the line that asks for it."""
    return Reason(code, message, NO_ORIGIN)


def progress(code: ReasonCode, message: str) -> Reason:
    """How far a service is: nothing is to blame. What holds it up has reasons of its own, with their lines."""
    return Reason(code, message, NO_ORIGIN)


def listed(names: Sequence[str], most: int) -> str:
    """The first of them, and how many more: `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(count: int, word: str) -> str:
    """`1 service`, `2 services`."""
    return f"{count} {word}{'' if count == 1 else 's'}"
