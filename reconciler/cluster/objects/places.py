"""One field in three places at once: as git wants it, as it is live, and who owns it. Pure.

Git writes the items of a list by number, a live list may have others between them, and its owners name them by keys:
here they are brought together. A field that is null is one that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.cluster.objects.owned import Fields, Manager, child_of, has_keys, item_keys, managers_of
from reconciler.model import KubeObject

Owners = tuple[tuple[Manager, Fields], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """`want` and `live` are None where there is nothing. `owners` own the field, or something in it."""

    want: Any
    live: Any
    owners: Owners

    @classmethod
    def of(cls, body: Mapping[str, Any], live: KubeObject) -> Place:
        """The whole object."""
        return cls(body, live, tuple((each, each.fields) for each in managers_of(live)))

    @property
    def ours(self) -> Fields | None:
        """What of it is ours; None: nothing."""
        return next((fields for manager, fields in self.owners if manager.is_ours), None)

    @property
    def others(self) -> tuple[Manager, ...]:
        return tuple(manager for manager, _ in self.owners if not manager.is_ours)

    def field(self, name: str) -> Place:
        """A field of a map."""
        want = self.want.get(name) if isinstance(self.want, dict) else None
        live = self.live.get(name) if isinstance(self.live, dict) else None
        return Place(want, live, self._below(f"f:{name}"))

    def items(self) -> Iterator[tuple[int, Place]]:
        """Git's items of a list, each with the one that it is live."""
        live = self.live if isinstance(self.live, list) else []
        if not (keys := self.keys()):
            for number, want in enumerate(self.want):
                # An atomic list: whoever owns the list owns its items.
                yield number, Place(want, live[number] if number < len(live) else None, self.owners)
            return
        used: set[int] = set()
        for number, want in enumerate(self.want):
            match = _match(want, live, keys, used)
            used.add(match)
            yield number, self.item(want, live[match] if match >= 0 else None)

    def item(self, want: Any, live: Any) -> Place:
        """An item of a list with keys."""
        owners = (
            (manager, sub)
            for manager, fields in self.owners
            for key, sub in fields.items()
            if key.startswith("k:") and has_keys(live, item_keys(key))
        )
        return Place(want, live, tuple(owners))

    def keys(self) -> tuple[str, ...]:
        """The names of the fields that tell the items of a list apart; none: their order does.

        Where nobody owns an item, by `name`, if every item has another.
        """
        owned = (key for _, fields in self.owners for key in fields if key.startswith("k:"))
        if (first := next(owned, None)) is not None:
            return tuple(name for name, _ in item_keys(first))
        owned_whole = any(_is_whole(fields) for _, fields in self.owners)
        return () if owned_whole or not (_are_named(self.want) and _are_named(self.live)) else ("name",)

    @property
    def is_set(self) -> bool:
        """Is it a list whose items are their own keys?"""
        return any(key.startswith("v:") for _, fields in self.owners for key in fields)

    @property
    def is_ours_whole(self) -> bool:
        """Do we own it as one value, or, of a map, its being there alone?"""
        return self.ours is not None and _is_whole(self.ours)

    @property
    def is_theirs_whole(self) -> bool:
        """Do only others own it, and as one value?"""
        return self.ours is None and any(_is_whole(fields) for _, fields in self.owners)

    def our_children(self) -> Iterator[tuple[str, Any]]:
        """What is ours in it and live: keys of fieldsV1 and values."""
        for key in self.ours or ():
            if key != "." and (value := child_of(self.live, key)) is not None:
                yield key, value

    def _below(self, key: str) -> Owners:
        return tuple((manager, fields[key]) for manager, fields in self.owners if key in fields)


def _is_whole(fields: Fields) -> bool:
    return all(key == "." for key in fields)


def _are_named(items: Any) -> bool:
    if not isinstance(items, list) or not all(isinstance(item, dict) and "name" in item for item in items):
        return False
    return len({str(item["name"]) for item in items}) == len(items)


def _match(want: Any, live: list[Any], keys: tuple[str, ...], used: set[int]) -> int:
    """The number of the live item with git's keys; git may leave one out that has a default: `protocol`. -1: none."""
    if not isinstance(want, dict):
        return -1
    written = [(key, want[key]) for key in keys if want.get(key) is not None]
    if not written:
        return -1
    return next((number for number, item in enumerate(live) if number not in used and has_keys(item, written)), -1)
