"""Secrets in plain text in git: where they are and what to do, never their values. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reconciler.manifests import FieldPath, Manifest
from reconciler.model import Reason, ReasonCode
from reconciler.secrets.store import SIGNED, WELL_KNOWN

# The last part of a name counts: `--tokenizer` and `--long-prefill-token-threshold` are none.
_NAME = re.compile(
    r"(?i)(?:^|[-_./])(?:api[-_]?key|token|password|passwd|secret|secret[-_](?:access[-_])?key|(?:private|access)[-_]key"
    r"|credentials?|authorization)$"
)
# What a tokenizer calls a token, and what counts them.
_NO_NAME = re.compile(
    r"(?i)(?:batched|num|max|min|per|pad|[beu]os|unk|sep|cls|mask|stop|image|video|audio|start|end|special|prefix|suffix)"
    r"[-_]token$"
)
# A reference, which is put in later, or what vLLM's documents write where no key is needed.
_NO_VALUE = re.compile(r"\s*|\$\([^)]*\)|\$\{[^}]*\}|\{\{.*\}\}|EMPTY|(?i:none|null|true|false)", re.DOTALL)
_USER = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://(?:[^/\s:@'\"]*:[^/\s@'\"$]+|[^/\s:@'\"$]{20,})@")
_HEADER = re.compile(r"(?i)\b(?:bearer|basic)\s+(?=\S{0,200}[0-9])[A-Za-z0-9._~+/=-]{16,}")
_SHAPES = re.compile("|".join(each.pattern for each in (WELL_KNOWN, SIGNED)))
_LISTS = frozenset({"args", "command"})
_TEXTS = frozenset({"annotations", "labels", "data"})


def disclosed(manifest: Manifest) -> Iterator[Reason]:
    """One warning for each place. A Secret is another matter: what it holds is refused, not warned about."""
    if manifest.kind == "Secret":
        return
    for path, what, instead in _walk(manifest.data, ()):
        text = f"{what} is in git in plain text, readable by everyone with access; replace it, and {instead}"
        yield Reason(ReasonCode.PLAINTEXT_SECRET, text, manifest.origin_of(path))


Found = tuple[FieldPath, str, str]


def _walk(value: Any, path: FieldPath) -> Iterator[Found]:
    if isinstance(value, dict):
        yield from _mapping(value, path)
    elif isinstance(value, list):
        if path and path[-1] in _LISTS:
            yield from _arguments(value, path)
        for index, each in enumerate(value):
            yield from _walk(each, (*path, index))
    elif isinstance(value, str) and (what := _shape(value)):
        yield path, what, "keep it in a Secret"


def _mapping(value: dict[str, Any], path: FieldPath) -> Iterator[Found]:
    name, given = value.get("name"), value.get("value")
    if isinstance(name, str) and _is_plain(name, given):
        instead = "take it from a Secret by valueFrom.secretKeyRef instead"
        yield (*path, "value"), f"the value of variable {name}", instead
        return
    named = path and path[-1] in _TEXTS
    for key, each in value.items():
        if named and _is_plain(key, each):
            yield (*path, key), f"the value of {key}", "keep it in a Secret"
        else:
            yield from _walk(each, (*path, key))


def _arguments(items: list[Any], path: FieldPath) -> Iterator[Found]:
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item.startswith("-"):
            continue
        flag, equals, value = item.partition("=")
        place = index
        if not equals and index + 1 < len(items):
            place, value = index + 1, items[index + 1]
            if isinstance(value, str) and value.startswith("-"):
                continue
        if _is_plain(flag, value):
            yield (*path, place), f"the value of {flag}", _instead(flag)


def _instead(flag: str) -> str:
    variable = "VLLM_API_KEY" if flag.endswith("api-key") else "HF_TOKEN" if "hf" in flag else "a variable"
    return f"give {variable} from a Secret by env[].valueFrom.secretKeyRef instead"


def _is_plain(name: str, value: object) -> bool:
    """Is it a name of a secret, and what stands there the secret itself?"""
    if not isinstance(value, str) or _NAME.search(name) is None or _NO_NAME.search(name):
        return False
    return _NO_VALUE.fullmatch(value) is None


def _shape(text: str) -> str:
    """What a text gives away by its shape alone; empty for nothing."""
    if "://" in text and _USER.search(text):
        return "the user or password in this URL"
    if _SHAPES.search(text):
        return "a token"
    return "the credential of this header" if " " in text and _HEADER.search(text) else ""
