"""Fields of an object that are left to others, and so what is applied of it. One rule binds diff and apply. Pure.

When an object is made, all that git says is applied. Later an ignored field is left out where another manager owns it.
One that we alone own keeps its live value, whatever git says: to leave it out would delete it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from reconciler.cluster.objects.options import options_of
from reconciler.cluster.objects.owned import concrete_paths, managers_of
from reconciler.cluster.objects.paths import EVERY, Item, Path
from reconciler.cluster.objects.places import Place
from reconciler.kserve import names
from reconciler.model import DesiredObject, KubeObject, ObjectId

PART_OF: Final = "applyset.kubernetes.io/part-of"

Location = tuple[str | int, ...]
"""A field of one tree: names, and numbers in lists."""


@dataclass(frozen=True, slots=True)
class IgnoreRule:
    """Fields of some objects that are left to others. What is empty holds for any: `kind` as well."""

    paths: tuple[Path, ...]
    kind: str = ""
    group: str = ""
    namespace: str = ""
    name: str = ""

    def holds_for(self, one: ObjectId) -> bool:
        asked = (self.kind, self.group, self.namespace, self.name)
        said = (one.kind, one.group, one.namespace, one.name)
        return all(not want or want == have for want, have in zip(asked, said, strict=True))


@dataclass(frozen=True)
class Rules:
    """What beside git decides about how an object is applied: the target's ignore rules, and its ApplySet's id."""

    ignore: tuple[IgnoreRule, ...] = ()
    applyset: str = ""

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(repr((self.ignore, self.applyset)).encode()).hexdigest()[:8]


NO_RULES = Rules()


def is_secret(one: ObjectId) -> bool:
    return one.kind == "Secret" and not one.group


def ignored_paths(desired: DesiredObject, live: KubeObject, rules: Rules) -> tuple[Path, ...]:
    """By the target's config, by annotation, and, if git does not force conflicts, what an autoscaler sets."""
    options = options_of(desired)
    by_config = (path for rule in rules.ignore if rule.holds_for(desired.id) for path in rule.paths)
    return (*by_config, *options.ignore, *(() if options.force_conflicts else _autoscaled(live)))


def _autoscaled(live: KubeObject) -> Iterator[Path]:
    for manager in managers_of(live):
        if manager.is_autoscaler:
            yield from concrete_paths(manager.fields)


def applied_body(desired: DesiredObject, live: KubeObject | None, rules: Rules) -> KubeObject:
    """What is applied of it: without status and what is ignored, and with the label of our ApplySet."""
    body = _labelled(_with_data(desired.body), _label_of(desired.id, live, rules.applyset))
    if live is None:
        return body
    for path in ignored_paths(desired, live, rules):
        # From the last one on: what is taken out of a list moves what stands behind it.
        for location, place in reversed(list(_locations(Place.of(body, live), path))):
            body = _changed(body, location, _kept(place, is_secret(desired.id)))
    return body


def _kept(place: Place, hidden: bool) -> Any:
    """What is applied of an ignored field: the live value of what we alone own; None: nothing.

    Of Secrets only hashes of live values are kept (`hidden`): git's stand for them.
    """
    want, live = place.want, place.live
    if isinstance(want, dict) and isinstance(live, dict) and not place.is_ours_whole:
        return {name: kept for name in want if (kept := _kept(place.field(name), hidden)) is not None} or None
    if isinstance(want, list) and isinstance(live, list) and (keys := place.keys()):
        ours = (item for _, item in place.items() if item.ours is not None)
        return [_kept_keys(item, keys) | (_kept(item, hidden) or {}) for item in ours] or None
    if place.ours is None or place.others:
        return None
    return want if hidden else live


def _kept_keys(item: Place, keys: tuple[str, ...]) -> dict[str, Any]:
    """An item that is ours stays, whoever owns what is in it."""
    return {key: item.want[key] for key in keys if key in item.want}


def _with_data(body: KubeObject) -> dict[str, Any]:
    """A Secret's `stringData` as `data`: the API server would go on calling it stringData ours, and so the data not,
    and what git removes from there would stay."""
    texts = body.get("stringData")
    if not is_secret(ObjectId.of(body)) or not isinstance(texts, dict):
        return dict(body)
    encoded = {key: base64.b64encode(str(text).encode()).decode() for key, text in texts.items() if text is not None}
    kept = {key: value for key, value in body.items() if key != "stringData"}
    data = body.get("data") or {}
    # What is no map the API server refuses, at its line.
    return kept | {"data": data | encoded if isinstance(data, dict) else data}


def _label_of(one: ObjectId, live: KubeObject | None, applyset: str) -> str:
    """The label's value; empty: none. KServe copies labels of a service to its pods, so that a new one would restart
    them all: once such an object is there, what it has stays. Our inventory knows it by its UID."""
    if live is None or (one.group, one.kind) not in names.METADATA_REACHES_PODS:
        return applyset
    return str((live["metadata"].get("labels") or {}).get(PART_OF) or "")


def _labelled(body: dict[str, Any], applyset: str) -> dict[str, Any]:
    if not applyset:
        return body
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    if not isinstance(labels, dict):
        return body
    return body | {"metadata": metadata | {"labels": labels | {PART_OF: applyset}}}


def _locations(place: Place, path: Path) -> Iterator[tuple[Location, Place]]:
    """Where git writes something at a path."""
    if place.want is None:
        return
    if not path:
        yield (), place
        return
    step, rest = path[0], path[1:]
    for name, child in _children(place, step):
        for location, found in _locations(child, rest):
            yield (name, *location), found


def _children(place: Place, step: Any) -> Iterable[tuple[str | int, Place]]:
    if isinstance(step, str):
        return [(step, place.field(step))] if isinstance(place.want, dict) else []
    if not isinstance(place.want, list):
        return []
    return [(number, item) for number, item in place.items() if step is EVERY or _is_meant(step, item.want)]


def _is_meant(step: Item, want: Any) -> bool:
    return isinstance(want, dict) and step.matches(want)


def _changed(tree: Any, location: Location, value: Any) -> Any:
    """A copy with another value at a location; None: without one."""
    first, rest = location[0], location[1:]
    inner = _changed(tree[first], rest, value) if rest else value
    if isinstance(tree, dict):
        return {key: each for key, each in tree.items() if key != first} | ({} if inner is None else {first: inner})
    items = [inner if number == first else each for number, each in enumerate(tree)]
    return [each for each in items if each is not None]
