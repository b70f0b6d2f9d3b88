"""Documents and texts that cannot be of a supported kind. In doubt they may be."""

from __future__ import annotations

import difflib
import re
from typing import Any

from reconciler.manifests.manifest import KNOWN_KINDS, OUR_API

_KSERVE = "serving.kserve.io"
_OUR_GROUPS = (_KSERVE, OUR_API.partition("/")[0])
# Kinds of KServe that we do not read; the names of some are near those of supported ones.
_FOREIGN = frozenset(
    {
        "ClusterLocalModel",
        "InferenceGraph",
        "LLMInferenceServiceConfig",
        "LocalModelNode",
        "LocalModelNodeGroup",
        "TrainedModel",
    }
)
# What tools leave in a file's place; the file itself may be of a supported kind.
_LEFT_BEHIND = (
    (rb"version https?://[\w.-]+/spec/v", "is a pointer of Git LFS and not the file itself; keep manifests out of LFS"),
    (
        rb"(\.\./)*(\.git)?/annex/objects/",
        "is a pointer of git-annex, not the file itself; keep manifests out of it",
    ),
    (
        rb"\$ANSIBLE_VAULT;|U2FsdGVkX1|-----BEGIN (AGE ENCRYPTED FILE|PGP MESSAGE)-----|age-encryption\.org/v",
        "is encrypted as a whole; encrypt the values of Secrets only, with SOPS",
    ),
)
_IN_ANY_CASE = {kind.casefold(): kind for kind in KNOWN_KINDS}
_SERVICE = b"inferenceservice"
_KIND_LINE = re.compile(rb"^kind:[ \t]*[\"']?([A-Za-z]+)|[\"']kind[\"'][ \t]*:[ \t]*[\"']([A-Za-z]+)", re.MULTILINE)
_KEYS = re.compile(rb"kind|apiversion", re.IGNORECASE)


def misspelt_kind(kind: str, api_version: str) -> tuple[str, str]:
    """Why an unknown kind cannot pass for a foreign object, after the kind that it seems to be. Empty when it can.

    Otherwise a typing error would look as if the service, or what it needs, had been deleted.
    """
    if kind.startswith("ENC["):
        return "", "SOPS encrypted the whole document; encrypt it with --encrypted-regex '^(data|stringData)$'"
    group = api_version.partition("/")[0]
    if kind in KNOWN_KINDS:
        versions = KNOWN_KINDS[kind]
        if api_version in versions or _is_of_others(group, kind):
            return "", ""
        return kind, f"{kind} has apiVersion {api_version[:80]}; expected {' or '.join(versions)}"
    near = _near(kind)
    if near and {_KSERVE, group} & _groups_of(near):
        return near, f"unknown kind {kind[:80]}; did you mean {near}?"
    if group in _OUR_GROUPS and kind not in _FOREIGN:
        return "", f"unknown kind {kind[:80]} in {group}"
    return "", ""


def _is_of_others(group: str, kind: str) -> bool:
    """May another API have this kind? Its group is then a domain's, and not nearly the right one."""
    right = _groups_of(kind)
    if _KSERVE in right or group in _OUR_GROUPS or "." not in group:
        return False
    return not difflib.get_close_matches(group, right, 1, 0.85)


def is_of_kserve(api_version: str) -> bool:
    """Is it of KServe's own group of kinds?"""
    return api_version.partition("/")[0] == _KSERVE


def is_foreign(value: Any) -> bool:
    """Is a document without kind or apiVersion certainly unrelated, not even one with a typing error?"""
    if isinstance(value, dict):
        kind = value.get("kind")
        if isinstance(kind, str) and (kind in KNOWN_KINDS or _near(kind) or kind.startswith("ENC[")):
            return False
        has_lost_its_head = isinstance(value.get("metadata"), dict) and (
            isinstance(value.get("spec"), dict) or isinstance(value.get("apiVersion"), str)
        )
        return not has_lost_its_head and not any(_names_ours(each) for each in value.values())
    if isinstance(value, list):
        return all(is_foreign(each) for each in value if isinstance(each, dict))
    return not isinstance(value, str) or not any(word in value.lower() for word in ("inferenceservice", _KSERVE))


def kind_of_broken(text: bytes) -> str | None:
    """What a text that cannot be parsed says it is, if that is certain. None: unrelated; "": in doubt."""
    kinds: set[str] = {(plain or quoted).decode() for plain, quoted in _KIND_LINE.findall(text)}
    if _SERVICE in text.lower():
        return "InferenceService" if kinds == {"InferenceService"} else ""
    if len(kinds) != 1 or (kind := kinds.pop()).endswith("List"):
        return ""
    if kind in KNOWN_KINDS:
        return kind
    return "" if _near(kind) else None


def left_behind(text: bytes) -> str:
    """Why a file is not what its name says but what a tool put there for it; empty: it is."""
    start = text[:200].lstrip()
    return next((why for pattern, why in _LEFT_BEHIND if re.match(pattern, start)), "")


def may_hide_services(data: bytes) -> bool:
    """May a file that is not parsed hold a service? Not where neither the kind nor its group stands anywhere in it."""
    text = data.lower()
    return b"\0" in text or _SERVICE in text or _KSERVE.encode() in text


def has_no_kind(text: bytes) -> bool:
    """Does neither `kind` nor `apiVersion` stand anywhere in it?"""
    return not _KEYS.search(text)


def _names_ours(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    group, slash, _ = value.partition("/")
    if slash and difflib.get_close_matches(group, _OUR_GROUPS, 1, 0.85):
        return True
    return value in KNOWN_KINDS and _KSERVE in _groups_of(value)


def _near(kind: str) -> str:
    near = difflib.get_close_matches(kind.casefold(), _IN_ANY_CASE, 1, 0.85)
    return _IN_ANY_CASE[near[0]] if near and kind not in _FOREIGN else ""


def _groups_of(kind: str) -> set[str]:
    return {version.partition("/")[0] for version in KNOWN_KINDS[kind]}
