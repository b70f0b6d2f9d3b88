"""Whatever git said, and whenever: both wings end at what it says now, and tell why where they do not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.model import DeletionRules, DesiredState, GuardLimits, Origin, Reject, ServiceId, Sync
from tests.contract.parts import reasons, unusable
from tests.contract.wings import WINGS, Wing
from tests.support.examples import examples
from tests.support.simulation import wanted

NAMES = ("a", "b", "c")
VERSIONS = st.sampled_from(["good1", "good2", "good3", "crash1", "crash2", "unusable", ""])
COMMITS = st.fixed_dictionaries(dict.fromkeys(NAMES, VERSIONS))
HISTORIES = st.lists(st.tuples(COMMITS, st.integers(0, 12)), min_size=1, max_size=4)
UNLIMITED = DeletionRules(limits=GuardLimits(None, None, None, everything=True))


def commit(wing: Wing, said: dict[str, str]) -> DesiredState:
    """Of each service its version, or that it is not there."""
    services = (
        unusable(name) if version == "unusable" else wanted(name, version) for name, version in said.items() if version
    )
    return wing.git(*services)


def play(wing: Wing, history: list[tuple[dict[str, str], int]]) -> DesiredState:
    """So many passes over each commit. What was quarantined is never begun while it is."""
    for said, passes in history:
        git = commit(wing, said)
        for _ in range(passes):
            bad = {digest for _, digest in wing.quarantines}
            before = len(wing.begun())
            wing.step(git, UNLIMITED)
            assert not {f"{version}-{name}" for name, version in wing.begun()[before:]} & bad
    return git


@pytest.mark.parametrize("name", WINGS)
@given(history=HISTORIES)
@settings(max_examples=examples(150))
def test_history_ends_at_what_git_says(name: str, history: list[tuple[dict[str, str], int]]) -> None:
    wing = WINGS[name]()
    git = play(wing, history)
    before = wing.runs()
    plan = wing.converge(git, UNLIMITED)
    runs, last = wing.runs(), history[-1][0]
    for each in NAMES:
        version, verdict = last[each], plan.verdicts.get(ServiceId("default", each))
        if version.startswith("good"):
            assert runs[each] == version
            assert verdict is not None
            assert verdict.sync is Sync.SYNCED
        if version.startswith("crash"):
            assert verdict is not None
            assert verdict.rejected is not None
            assert isinstance(verdict.rejected.reason.origin, Origin)
        if not version and "unusable" not in last.values():
            assert each not in runs
        if version == "unusable" and before.get(each, "").startswith("good"):
            assert runs[each] == before[each]
    assert not wing.plan(git).actions


@pytest.mark.parametrize("name", WINGS)
@given(history=HISTORIES, seed=st.integers(0, 99))
@settings(max_examples=examples(100))
def test_plan_of_any_history_tells_why_and_follows_no_order(
    name: str, history: list[tuple[dict[str, str], int]], seed: int
) -> None:
    wing = WINGS[name]()
    git = play(wing, history)
    plan = wing.plan(git)
    assert wing.plan(git, mixed=random.Random(seed)) == plan
    assert {one.id for one in git.services} <= set(plan.verdicts)
    for one, verdict in plan.verdicts.items():
        assert verdict.sync is Sync.SYNCED or reasons(plan, git, one)[0].message
    assert not any(isinstance(each, Reject) and not each.quarantine.reason.message for each in plan.actions)
