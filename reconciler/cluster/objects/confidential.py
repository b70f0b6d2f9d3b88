"""What of a difference is shown to nobody: values of Secrets, and of variables and flags that are named like one. Pure.

References, such as `secretName`, are no secrets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from reconciler.secrets.store import is_secret_name

HIDDEN: Final = "***"


def shown(value: Any, path: Sequence[str], trees: Sequence[Any]) -> Any:
    """The value as it may be shown. `trees` are objects that have, or may have, the field at this path; the kind of
    the first decides."""
    if value is None or value == "":
        return value
    if trees[0].get("kind") == "Secret" and path[0] in ("data", "stringData"):
        return HIDDEN
    if path[0] == "data" and len(path) > 1 and is_secret_name(path[-1]):
        return HIDDEN
    if any(_is_named_secret(_around(tree, path), path[-1]) for tree in trees):
        return HIDDEN
    return _without_secrets(value)


def _around(tree: Any, path: Sequence[str]) -> Any:
    """The map or list that holds the field; None where there is none."""
    for step in path[:-1]:
        if isinstance(tree, dict):
            tree = tree.get(step)
        elif isinstance(tree, list) and step.isdecimal() and int(step) < len(tree):
            tree = tree[int(step)]
        else:
            return None
    return tree


def _is_named_secret(around: Any, step: str) -> bool:
    """Is it the value of such a variable, or the argument after such a flag?"""
    if isinstance(around, dict):
        return step == "value" and is_secret_name(str(around.get("name", "")))
    if isinstance(around, list) and step.isdecimal() and 0 < int(step) <= len(around):
        return _is_secret_flag(around[int(step) - 1])
    return False


def _is_secret_flag(text: Any) -> bool:
    return isinstance(text, str) and text.startswith("-") and "=" not in text and is_secret_name(text)


def _without_secrets(value: Any) -> Any:
    """The same where a whole map or list differs."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if _is_named_secret(value, key) and each else _without_secrets(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        flags = [False, *(_is_secret_flag(each) for each in value)]
        return [HIDDEN if flag else _without_secrets(each) for flag, each in zip(flags, value, strict=False)]
    if isinstance(value, str) and value.startswith("-"):
        flag, sign, _ = value.partition("=")
        return f"{flag}={HIDDEN}" if sign and is_secret_name(flag) else value
    return value
