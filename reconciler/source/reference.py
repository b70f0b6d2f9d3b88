"""Which commit is configured: a branch, a tag, the highest tag in a range, or one commit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from semantic_version import Version

from reconciler.config.settings import SourceSettings
from reconciler.config.values import parse_range
from reconciler.errors import Terminal

_MOST_COMPARED = 1_000
_LONGEST_NAME = 200


class Kind(StrEnum):
    """The ways to name a revision."""

    BRANCH = "branch"
    TAG = "tag"
    SEMVER = "semver"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class ConfiguredReference:
    """The configured reference, checked: `text` is safe to pass to git after its prefix."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns for `ls-remote`. git matches these loosely, so its output must be filtered again."""
        match self.kind:
            case Kind.BRANCH:
                return (f"refs/heads/{self.text}",)
            case Kind.TAG:
                return (f"refs/tags/{self.text}", f"refs/tags/{self.text}^{{}}")
            case _:
                return ("refs/tags/*",)


@dataclass(frozen=True, slots=True)
class ResolvedReference:
    """One commit of the remote. `ref` is its full name there; empty for a commit named by its digits.

    `oid` is what the name stands for: the commit, or the tag object that leads to it.
    """

    ref: str
    commit: str
    oid: str

    @property
    def is_tag(self) -> bool:
        return self.ref.startswith("refs/tags/")


def configured_reference(settings: SourceSettings) -> ConfiguredReference:
    """The configured reference."""
    for kind in Kind:
        text = getattr(settings, kind.value)
        if text is not None:
            return ConfiguredReference(kind, text.lower() if kind is Kind.COMMIT else text)
    return ConfiguredReference(Kind.BRANCH, "main")


def choose(reference: ConfiguredReference, refs: Mapping[str, str]) -> ResolvedReference | None:
    """Pick from what the remote has; `refs` is name → object id, with `^{}` lines for what a tag points to."""
    match reference.kind:
        case Kind.COMMIT:
            return ResolvedReference("", reference.text, reference.text)
        case Kind.BRANCH:
            return _present(f"refs/heads/{reference.text}", refs)
        case Kind.TAG:
            return _present(f"refs/tags/{reference.text}", refs)
        case Kind.SEMVER:
            tag = highest(reference.text, names(refs, "refs/tags/"))
            return None if tag is None else _present(f"refs/tags/{tag}", refs)


def _present(ref: str, refs: Mapping[str, str]) -> ResolvedReference | None:
    commit = refs.get(f"{ref}^{{}}") or refs.get(ref)
    return ResolvedReference(ref, commit, refs.get(ref, commit)) if commit else None


def names(refs: Mapping[str, str], prefix: str) -> list[str]:
    """The short names under a prefix, sorted."""
    return sorted(ref.removeprefix(prefix) for ref in refs if ref.startswith(prefix) and not ref.endswith("^{}"))


def highest(text: str, tags: Iterable[str]) -> str | None:
    """The tag with the highest version in the range; tags that are not x.y.z, with or without `v`, do not count."""
    spec = parse_range(text)
    versions = [(version, tag) for tag in tags if (version := _version(tag)) is not None and spec.match(version)]
    # Versions that differ only in build metadata are equal by the rules; the name decides, to keep the choice stable.
    return max(versions, key=lambda item: (item[0].precedence_key, item[1]), default=(None, None))[1]


def _version(tag: str) -> Version | None:
    try:
        return Version(tag.removeprefix("v"))
    except ValueError:
        return None


def nothing_found(reference: ConfiguredReference, refs: Mapping[str, str], shown: str) -> Terminal:
    """The remote does not have what is configured; name what it has instead."""
    kind = "branch" if reference.kind is Kind.BRANCH else "tag"
    have = names(refs, "refs/heads/" if kind == "branch" else "refs/tags/")
    what = f"no tag in the range {reference.text}" if reference.kind is Kind.SEMVER else f"no {reference}"
    if not have:
        return Terminal(f"{shown} has {what}: it has no {kind} at all; push one, or change source.{reference.kind}")
    # Each comparison takes a while, and a remote may have any number of names.
    like = sorted(have, key=lambda name: abs(len(name) - len(reference.text)))[:_MOST_COMPARED]
    near = difflib.get_close_matches(reference.text, like, 3, 0.5) or have[-5:]
    return Terminal(
        f"{shown} has {what}; it has {', '.join(map(_named, near))}; push it, or change source.{reference.kind}"
    )


def _named(name: str) -> str:
    """As people may read it: git takes no such names, but the server may be no git."""
    printable = "".join(character if character.isprintable() else "?" for character in name[: _LONGEST_NAME + 1])
    return printable if len(printable) <= _LONGEST_NAME else f"{printable[:_LONGEST_NAME]}…"
