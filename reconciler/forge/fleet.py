"""One status for many hosts: `forge.statuses: aggregate`. What a host says of a commit, and when it holds its tongue.

A forge takes 1,000 statuses of one commit and context, and some 80 a minute from one login; a repository may have more
hosts than that. So a host tells only a failure, naming itself, and later the end of it; nothing where the commit
changes nothing for it; nothing of its success. The first failure stands for all: who finds another's looks again, ever
more seldom, and tells its own once that is over. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from reconciler.forge.baseline import Digests
from reconciler.forge.commit_status import Said, context_of, digests, is_news, refusal, say_target, subject_of
from reconciler.forge.description import prefixed
from reconciler.forge.messages import CommitState, CommitStatus
from reconciler.report.addresses import change_url
from reconciler.report.convergence import is_ours_to_tell
from reconciler.report.status import Document

SPREAD = 300.0
"""Seconds in which the hosts of a fleet that fail by the same commit say so."""
LOOK_AGAIN, LOOK_SELDOM = 600.0, 3600.0
"""Seconds until a host looks again whether another's failure still stands: at first, and at most."""

_FAULTS = (CommitState.FAILURE, CommitState.ERROR)


class PostDecision(StrEnum):
    """What becomes of a status that a host would post: posted, held back for now, or not needed."""

    POST = "post"
    WAIT = "wait"
    DROP = "drop"


def fleet_answer(
    status: Document, before: Mapping[str, Digests], group: str, last: CommitStatus | None, url: str = ""
) -> tuple[CommitStatus, float] | None:
    """What this host has to say of the newest revision, and how long it must have been so; None: nothing.

    `last`: what it said of that revision last.
    """
    for target in filter(is_ours_to_tell, status["targets"]):
        if found := _fault(status, target, before.get(target["name"])):
            revision, said = found
            text = prefixed(target["name"], said.description)
            one = CommitStatus(revision, context_of(group), said.state, text, change_url(url, revision, target["name"]))
            return one, max(said.lasting, spread(target["name"], revision))
    return _recovery(status, last)


def _fault(status: Document, target: Document, before: Digests | None) -> tuple[str, Said] | None:
    revision = status["revision"]
    if (refused := revision.get("refused")) and refused["revision"] != revision["desired"]:
        return refused["revision"], Said(CommitState.FAILURE, refusal(status))
    if not revision["desired"] or not _is_concerned(target, before):
        return None
    said = say_target(status, target, before)
    return (revision["desired"], said) if said.state in _FAULTS else None


def _is_concerned(target: Document, before: Digests | None) -> bool:
    """Does the commit change anything for this target?"""
    return before is None or digests(target) != dict(before) or bool(target["unreadable"] or target["refused"])


def _recovery(status: Document, last: CommitStatus | None) -> tuple[CommitStatus, float] | None:
    """The end of what this host said itself; that of others stays."""
    if last is None or last.state not in _FAULTS or last.revision != status["revision"]["desired"]:
        return None
    name = host_of(last)
    for target in status["targets"]:
        if target["name"] == name and say_target(status, target).state is CommitState.SUCCESS:
            text = f"{name}: in sync and healthy again"
            return CommitStatus(last.revision, last.context, CommitState.SUCCESS, text, last.url), 0.0
    return None


def step(mine: CommitStatus, standing: CommitStatus | None) -> PostDecision:
    """`standing`: what the forge has of this commit and context now."""
    is_fault = standing is not None and standing.state in _FAULTS
    is_own = standing is not None and host_of(standing) == host_of(mine)
    if mine.state not in _FAULTS:
        return PostDecision.POST if is_fault and is_own else PostDecision.DROP
    if is_fault and not is_own:
        return PostDecision.WAIT
    is_said = is_fault and standing is not None and standing.description == mine.description
    return PostDecision.DROP if is_said else PostDecision.POST


def in_group(status: CommitStatus, group: str) -> CommitStatus:
    """What one of many hosts says of itself alone, as of a plan: `reconciler/GROUP/TARGET`."""
    return replace(status, context=context_of(group, subject_of(status.context)))


def is_news_of_group(now: CommitStatus, last: CommitStatus | None) -> bool:
    """Of many hosts only faults are told, and their end: a thousand that say they are well are too many."""
    return is_news(now, last) and (last is not None or now.state in _FAULTS)


def host_of(status: CommitStatus) -> str:
    """The target that a fleet's status names."""
    return status.description.partition(":")[0]


def spread(name: str, revision: str) -> float:
    """The same for one host and revision, and another for each: between 0 and `SPREAD`."""
    number = int.from_bytes(hashlib.sha256(f"{name} {revision}".encode()).digest()[:4], "big")
    return SPREAD * number / 2**32
