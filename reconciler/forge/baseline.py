"""What a target wanted before the revision that is answered now: so it is known what a commit changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

Digests = Mapping[str, str]
"""By service, `namespace/name`, the digest that git wants."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """`digests`: what `revision` wants. `before`: what was wanted by the last revision before it that was answered;
    None: there was none. `is_answered`: this one was."""

    revision: str
    digests: Digests
    is_answered: bool = False
    before: Digests | None = None


def turned(known: Baseline | None, revision: str, digests: Digests) -> Baseline:
    """The baseline once a target looks at a revision. What was superseded without an answer is no step of its own."""
    if known is None:
        return Baseline(revision, digests)
    if known.revision == revision:
        return replace(known, digests=digests)
    return Baseline(revision, digests, False, known.digests if known.is_answered else known.before)
