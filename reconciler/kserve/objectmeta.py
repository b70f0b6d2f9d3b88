"""What an API server refuses about labels and annotations, with its messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.kserve.schema_nodes import Flaw, Path

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_ANNOTATION_BYTES = 256 * 1024
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_KEY_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def metadata_flaws(document: Mapping[str, Any]) -> Iterator[Flaw]:
    """Flaws of `metadata.labels` and `metadata.annotations`."""
    metadata = document.get("metadata") or {}
    yield from label_flaws(metadata.get("labels") or {}, ("metadata", "labels"))
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        if problem := _key_problem(key.lower()):
            yield _flaw(("metadata", "annotations"), key, problem)
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATION_BYTES:
        text = f"metadata.annotations: Too long: may not be more than {_ANNOTATION_BYTES} bytes"
        yield Flaw(("metadata", "annotations"), text)


def label_flaws(labels: Mapping[str, str], at: Path) -> Iterator[Flaw]:
    """Flaws of a map of labels, also those of a node selector."""
    for key, value in labels.items():
        if problem := _key_problem(key):
            yield _flaw(at, key, problem)
        if len(value) > 63:
            yield _flaw(at, value, "must be no more than 63 bytes", key)
        elif value and not _NAME.fullmatch(value):
            yield _flaw(at, value, _VALUE_RULE, key)


def _flaw(at: Path, shown: str, problem: str, key: str = "") -> Flaw:
    return Flaw((*at, key or shown), f'{".".join(at)}: Invalid value: "{shown}": {problem}')


def _key_problem(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if slash and (not _PREFIX.fullmatch(prefix) or len(prefix) > 253):
        return (
            "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        )
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    return "" if _NAME.fullmatch(name) else _KEY_RULE
