"""How much one revision may ask of a target. Pure.

Findings about a revision are limited as well: the first ones are kept, and the others counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reconciler.errors import NotUnderstood
from reconciler.manifests import Manifest, Manifests
from reconciler.model import (
    Desired,
    EffectiveSpec,
    EnvVar,
    Origin,
    Reason,
    ReasonCode,
    Snapshot,
    texts,
)

# Of one target: readable documents and those that are not.
MAX_DOCUMENTS = 20_000
# On a cluster each is watched, by a thread of its own.
MAX_KINDS = 200
# Files that are there and not read: hidden or ignored ones.
MAX_SKIPPED = 100_000
# Of one container. Linux itself gives a process no more than some 2 MiB of both.
MAX_VALUES = 5_000
MAX_BYTES = 1 << 20
# Of mounted files, as a record has them: that of a unit stands in one line, and systemd reads none above 1 MiB.
MAX_FILE_BYTES = 768 << 10
# Of all services of a target together: forty for each of ten thousand.
MAX_ALL_VALUES = 400_000
MAX_ALL_BYTES = 64 << 20
MAX_NOTES = 1_000
# About one service, of each kind.
MAX_FINDINGS = 50
_LONGEST_MESSAGE = 2_000
_FINDINGS = ("problems", "blocked", "warnings", "warnings_without_gpu", "not_here")


@dataclass(frozen=True, slots=True)
class Size:
    """Arguments and variables: how many, and their bytes."""

    values: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.values + other.values, self.bytes + other.bytes)


# ---------------------------------------------------------------- documents


def check_documents(manifests: Manifests, snapshot: Snapshot, target: str) -> None:
    """Raises NotUnderstood where a target has more documents, or unread files, than the limits allow."""
    count = len(manifests.documents) + len(manifests.unreadable)
    if count > MAX_DOCUMENTS:
        files = Counter(origin.file for origin in _origins(manifests))
        (file, most), *_ = files.most_common(1)
        raise NotUnderstood(
            f"it has {count:,} documents for {target}, more than {MAX_DOCUMENTS:,}; {file} alone has {most:,}. Remove "
            "what is not needed, or give the hosts folders of their own"
        )
    if len(snapshot.skipped) > MAX_SKIPPED:
        raise NotUnderstood(
            f"it has {len(snapshot.skipped):,} hidden or ignored files in the folders of {target}, more than "
            f"{MAX_SKIPPED:,}; move them out of there, or name smaller folders in targets[].paths"
        )


def check_kinds(documents: Iterable[Manifest], target: str) -> None:
    """Raises NotUnderstood where a cluster would have to be watched for more kinds than the limits allow."""
    kinds = {(each.api_version.rpartition("/")[0], each.kind): each for each in documents}
    if len(kinds) > MAX_KINDS:
        last = list(kinds.values())[-1]
        raise NotUnderstood(
            f"it has objects of {len(kinds):,} kinds for {target}, more than {MAX_KINDS:,}; the last of them is "
            f"{last.kind} ({last.origin}). Remove what is not needed"
        )


def _origins(manifests: Manifests) -> Iterator[Origin]:
    yield from (each.origin for each in manifests.documents)
    yield from (reason.origin for reason in manifests.errors if reason.origin)


# ---------------------------------------------------------------- arguments and variables


def too_large(spec: EffectiveSpec, origin: Origin) -> Reason | None:
    """Why the requests of one container are too large."""
    size, files = spec_size(spec), sum(_written_size(each.text) for volume in spec.files for each in volume.files)
    if files > MAX_FILE_BYTES:
        what = f"{files:,} bytes of mounted files, more than {MAX_FILE_BYTES:,}"
    elif size.values > MAX_VALUES:
        what = f"{size.values:,} arguments, variables and files, more than {MAX_VALUES:,}"
    elif size.bytes > MAX_BYTES:
        name, most = max(_named_sizes(spec), key=lambda each: each[1])
        what = f"{size.bytes:,} bytes of arguments, variables and files, more than {MAX_BYTES:,}; "
        what += f"{name} has {most:,} of them"
    else:
        return None
    text = f"its container gets {what}. Leave some out, or put them into files that come with the model"
    return Reason(ReasonCode.SPEC_TOO_LARGE, text, origin)


def spec_size(spec: EffectiveSpec) -> Size:
    """All that a container gets as text."""
    values, total = 0, 0
    for _, size in _named_sizes(spec):
        values += 1
        total += size
    return Size(values, total)


def _named_sizes(spec: EffectiveSpec) -> Iterator[tuple[str, int]]:
    yield "its image", len(spec.image)
    yield from (("a word of its command", len(word)) for word in texts(spec.command))
    yield from ((f"argument {number}", len(word)) for number, word in enumerate(texts(spec.args), 1))
    yield from _variables(spec.env)
    for mount in spec.mounts:
        yield "a model's URI", len(mount.uri) + len(mount.path)
        yield from _variables(mount.env)
        yield from ((f"file {file.path[:200]}", len(file.text)) for file in mount.files)
    for secret in spec.secrets:
        yield f"Secret {secret.secret[:200]}", sum(len(key) + len(file) for key, file in secret.items)
    for volume in spec.files:
        yield from (
            (f"file {each.path[:200]}", len(each.path) + len(each.source) + _written_size(each.text))
            for each in volume.files
        )


def _written_size(text: str) -> int:
    """Of a text in a record, where whatever is no plain letter is spelled out."""
    return len(text) if text.isascii() and text.isprintable() else len(json.dumps(text))


def _variables(env: Iterable[EnvVar]) -> Iterator[tuple[str, int]]:
    return ((f"variable {each.name[:200]}", len(each.name) + len(each.value) + len(each.source)) for each in env)


def are_too_large(values: int, size: int) -> bool:
    """Is this more than all services of a target together may request?"""
    return values > MAX_ALL_VALUES or size > MAX_ALL_BYTES


def refusal(target: str, counted: Sequence[tuple[Desired, Size]]) -> NotUnderstood:
    """Raises for services that are too large together, naming the largest."""
    values, total = sum(size.values for _, size in counted), sum(size.bytes for _, size in counted)
    one, size = max(counted, key=lambda each: (each[1].bytes, each[1].values))
    what, most = (
        (f"{values:,} ", MAX_ALL_VALUES) if values > MAX_ALL_VALUES else (f"{total:,} bytes of ", MAX_ALL_BYTES)
    )
    return NotUnderstood(
        f"{len(counted):,} services of {target} have {what}arguments and variables already, more than {most:,} for "
        f"one host; the largest is {one.id} ({one.origin}) with {size.values:,} of {size.bytes:,} bytes. Make that "
        "smaller, and what it gets from a ConfigMap or a runtime that others use as well"
    )


def desired_size(one: Desired) -> Size:
    """Of a service with its canary."""
    size = spec_size(one.spec) if one.spec else Size()
    return size + spec_size(one.canary.spec) if one.canary else size


# ---------------------------------------------------------------- findings


def with_few_findings(one: Desired) -> Desired:
    """A service with a bounded number of findings."""
    changed: dict[str, Any] = {}
    for name in _FINDINGS:
        reasons = getattr(one, name)
        if (kept := first(reasons, MAX_FINDINGS)) is not reasons:
            changed[name] = kept
    return replace(one, **changed) if changed else one


def first(reasons: tuple[Reason, ...], most: int) -> tuple[Reason, ...]:
    """The first of them, none of endless length, and how many are left out."""
    if len(reasons) <= most and all(len(each.message) <= _LONGEST_MESSAGE for each in reasons):
        return reasons
    shown = tuple(shortened(each) for each in reasons[:most])
    if len(reasons) <= most:
        return shown
    text = f"{len(reasons) - most + 1:,} more findings are left out; correct these first"
    return (*shown[:-1], Reason(ReasonCode.FINDINGS_OMITTED, text, reasons[most - 1].origin))


def shortened(reason: Reason) -> Reason:
    """With a message of readable length."""
    text = reason.message
    return reason if len(text) <= _LONGEST_MESSAGE else replace(reason, message=f"{text[: _LONGEST_MESSAGE - 1]}…")
