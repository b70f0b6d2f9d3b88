"""What was read, frozen: decoded Secrets by namespace and name, and what is there but cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from reconciler.model import Origin, Reason, ReasonCode

Key = tuple[str, str]
# The code of whatever lies with this machine and its files: on another one it may be different.


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One Secret; `data` is decoded, with stringData over data as the API server merges them. Its repr hides values."""

    namespace: str
    name: str
    origin: Origin
    data: Mapping[str, bytes] = field(repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> Key:
        return self.namespace, self.name


@dataclass(frozen=True, slots=True, eq=False)
class SecretStore:
    """All Secrets of one target at one time; compared by identity.

    `refused` are Secrets that are there but may not or cannot be used. `unavailable` are whole places and files that
    could not be read: a Secret that seems to be missing may be there. `notes` are no faults. `misplaced` stand where
    they may not: for all others they are not there.
    """

    secrets: Mapping[Key, StoredSecret] = field(default_factory=dict, repr=False)
    refused: Mapping[Key, Reason] = field(default_factory=dict)
    unavailable: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()
    misplaced: tuple[Reason, ...] = ()

    def data(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The decoded keys of one Secret, or None where there is none that can be used."""
        found = self.secrets.get((namespace, name))
        return None if found is None else found.data

    @property
    def is_provisional(self) -> bool:
        """May some of what is refused become usable although no file changes? A key service may have been away."""
        return any(each.code is ReasonCode.SECRETS_UNREADABLE for each in self.refused.values())

    def says_the_same(self, other: SecretStore) -> bool:
        """It need not be read again."""
        return all(getattr(self, each.name) == getattr(other, each.name) for each in fields(self))

    @property
    def faults(self) -> tuple[Reason, ...]:
        """All that a person has to put right, whether a service needs it or not."""
        return (*self.refused.values(), *self.unavailable, *self.misplaced)


NO_SECRETS: Final = SecretStore()
