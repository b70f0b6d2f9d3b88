"""What differs between an object in git and the live one, field by field. Pure.

Only what git writes and what is ours counts: defaults of the API server and fields of others are no differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from reconciler.cluster.api.trimming import hashed, is_hash
from reconciler.cluster.objects.confidential import shown
from reconciler.cluster.objects.owned import Manager, child_of, item_keys
from reconciler.cluster.objects.places import Place
from reconciler.kserve.quantity import canonical, is_quantity
from reconciler.model import KubeObject

# Below these every value is a quantity; these are one themselves.
_OF_QUANTITIES: Final = frozenset(
    {"limits", "requests", "capacity", "hard", "overhead", "default", "defaultRequest", "max", "min"}
)
_QUANTITIES: Final = frozenset({"sizeLimit", "divisor"})

_Path = tuple[str, ...]
_Found = tuple[_Path, Place]


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One difference. `before` is live, `after` is in git; None: absent.

    `path` is as in `DesiredObject.lines`; of an item that git does not have it is `spec.containers[name=x]`. What may
    not be shown is `***` in both. `manager` owns the live value, if not we alone do; `applies`: by server-side apply.
    """

    path: str
    before: Any
    after: Any
    manager: str = ""
    applies: bool = False


def differences(body: KubeObject, live: KubeObject) -> tuple[FieldChange, ...]:
    """All of them, in git's order. `body` is what is applied."""
    root = Place.of(body, live)
    names = [name for name in body if name not in ("apiVersion", "kind", "status")]
    found = [each for name in names for each in _of(root.field(name), (name,))]
    return tuple(_told(place, path, (body, live)) for path, place in (*found, *_removed_from_map(root, ())))


def _of(place: Place, path: _Path) -> Iterator[_Found]:
    want, live = place.want, place.live
    if want is None:
        return
    if isinstance(want, dict | list) and want != live and place.is_theirs_whole:
        # As one value it is in our way, also by what git does not write.
        yield path, place
    elif isinstance(want, dict) and isinstance(live, dict):
        for name in want:
            yield from _of(place.field(name), (*path, name))
        yield from _removed_from_map(place, path)
    elif isinstance(want, list) and isinstance(live, list):
        yield from _of_lists(place, path)
    elif not _is_same(want, live, path):
        yield path, place


def _of_lists(place: Place, path: _Path) -> Iterator[_Found]:
    if place.is_set:
        missing = [item for item in place.want if item not in place.live]
        gone = [value for key, value in place.our_children() if key.startswith("v:") and value not in place.want]
        if missing or gone:
            yield path, place
    elif place.keys():
        for number, item in place.items():
            yield from _of(item, (*path, str(number)))
        yield from _removed_items(place, path)
    elif len(place.want) != len(place.live):
        yield path, place
    else:
        for number, item in place.items():
            yield from _of(item, (*path, str(number)))


def _removed_from_map(place: Place, path: _Path) -> Iterator[_Found]:
    """What is ours and not in git any more."""
    for key, _ in place.our_children():
        name = key[2:]
        if key.startswith("f:") and (place.want or {}).get(name) is None:
            yield from _removed(place.field(name), (*path, name))


def _removed(place: Place, path: _Path) -> Iterator[_Found]:
    if place.is_ours_whole or not isinstance(place.live, dict | list):
        if place.live not in ({}, []):
            yield path, place
    elif isinstance(place.live, dict):
        yield from _removed_from_map(replace(place, want={}), path)
    elif place.is_set:
        yield path, place
    else:
        yield from _removed_items(replace(place, want=[]), path)


def _removed_items(place: Place, path: _Path) -> Iterator[_Found]:
    for key in _gone_keys(place):
        keys = ",".join(f"{name}={each}" for name, each in item_keys(key))
        yield (*path[:-1], f"{path[-1]}[{keys}]"), place.item(None, child_of(place.live, key))


def _gone_keys(place: Place) -> list[str]:
    """Items of a list that are ours and not in git any more, as fieldsV1 names them."""
    wanted = [item.live for _, item in place.items()]
    ours = ((key, value) for key, value in place.our_children() if key.startswith("k:"))
    return [key for key, value in ours if not any(value is each for each in wanted)]


def _told(place: Place, path: _Path, trees: tuple[KubeObject, KubeObject]) -> FieldChange:
    holder = next(iter(place.others), None) if place.ours is None else None
    before, after = (shown(value, path, trees) for value in (place.live, place.want))
    return FieldChange(".".join(path), before, after, *(_named(holder) if holder else ()))


def _named(manager: Manager) -> tuple[str, bool]:
    return manager.name, manager.applies


def _is_same(want: Any, live: Any, path: _Path) -> bool:
    """Does the API server mean the same by both? It leaves empty values out, and writes quantities in its own way."""
    if is_hash(live):
        return live in (want, hashed(want))
    if live is None:
        return want in ("", 0) or (isinstance(want, dict | list) and _is_hollow(want))
    if isinstance(want, bool) or isinstance(live, bool):
        return want is live
    if want == live:
        return True
    return _is_of_quantity(path) and is_quantity(want) and is_quantity(live) and canonical(want) == canonical(live)


def _is_hollow(value: Any) -> bool:
    """A map or list with nothing in it."""
    if isinstance(value, dict):
        return all(_is_hollow(each) for each in value.values())
    return value is None or value == []


def _is_of_quantity(path: _Path) -> bool:
    return path[-1] in _QUANTITIES or (len(path) > 1 and path[-2] in _OF_QUANTITIES)
