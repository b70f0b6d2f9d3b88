"""How a host's config turned a spec into what runs, by the keys of the config that decide it: outside the digest. Pure.

Interpreter and the engine's version, the config's variables (as hashes), folders of volumes, the user; and when a
restart was asked for last. What an older daemon wrote down has none, and counts as today's config.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from reconciler.model import Translation

RESTART = "restart"
# Between a digest and the label of a translation.
MARK = "~"
ENV = "engines[].env."
# Nothing of what runs shows it: then it is no difference.
UNKNOWN = ""


def make_translation(parts: Mapping[str, str]) -> Translation:
    return tuple(sorted(parts.items()))


def hashed(value: str) -> str:
    """Instead of a value that may be secret."""
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def label(translation: Translation) -> str:
    """A short name; equal names, equal translations."""
    return hashlib.sha256(json.dumps(translation).encode()).hexdigest()[:8]


def build_of(digest: str, translation: Translation) -> str:
    """What distinguishes replicas of one digest."""
    return f"{digest}{MARK}{label(translation)}"


def is_current(before: Translation, now: Translation) -> bool:
    """Would today's config make the same of it?"""
    return not before or before == now or not any(differences(before, now))


def changes(before: Translation, now: Translation) -> Iterator[tuple[str, str | None, str | None]]:
    """What differs: a key of the config, and its value before and now."""
    old, new = dict(before), dict(now)
    for key in sorted(old.keys() | new.keys()):
        left, right = old.get(key), new.get(key)
        if left != right and UNKNOWN not in (left, right):
            yield key, left, right


def differences(before: Translation, now: Translation) -> Iterator[str]:
    """The same as text, a line for each. Values of variables are left out."""
    for key, left, right in changes(before, now):
        if key == RESTART:
            yield f"restart {right}"
        elif key.startswith(ENV):
            yield f"{key} {'removed' if right is None else 'added' if left is None else 'changed'}"
        else:
            yield f"{key}: {left or 'unset'} → {right or 'unset'}"
