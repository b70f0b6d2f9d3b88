"""One status for many hosts: the first failure stands, and its host takes it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.forge.commit_status import digests
from reconciler.forge.delivery import HeldBack, to_forge_of_fleet
from reconciler.forge.fleet import SPREAD, PostDecision, fleet_answer, host_of, spread, step
from reconciler.forge.messages import CommitState, CommitStatus
from reconciler.forge.outbox import Outbox
from reconciler.model import NO_ORIGIN, Reason, ReasonCode, Sync, Unreachable
from reconciler.report.status import RefusedRevision, RevisionInfo
from tests.support.report_world import HEALTHY, NEW, REVISION, planned, report, status_of, verdict

CONTEXT = "reconciler/fleet"
FAILED = CommitStatus(REVISION, CONTEXT, CommitState.FAILURE, "a: 1 rejected")
OTHERS = replace(FAILED, description="b: 1 rejected")
OVER = replace(FAILED, state=CommitState.SUCCESS, description="a: in sync and healthy again")
WHY = Reason(ReasonCode.INVALID_ARGUMENT, "unknown argument", NO_ORIGIN)
BLOCKED = report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC, health=HEALTHY, blocked=(WHY,))))


def test_host_that_fails_by_the_commit_names_itself() -> None:
    found = fleet_answer(status_of(BLOCKED), {"a": {"demo/tiny": NEW}}, "fleet", None)
    assert found
    assert (found[0].context, found[0].state) == (CONTEXT, CommitState.FAILURE)
    assert found[0].description.startswith("a: ")
    assert host_of(found[0]) == "a"
    assert 0 <= found[1] <= SPREAD


def test_host_that_is_away_for_a_moment_says_nothing_of_it() -> None:
    early = next(one for one in (f"{number:040x}" for number in range(1000)) if spread("a", one) < 5)
    away = report(observed=Unreachable("a", 9.0, "connection refused"))
    found = fleet_answer(status_of(away, revision=RevisionInfo(desired=early)), {}, "fleet", None)
    assert found
    assert found[0].state is CommitState.ERROR
    assert found[1] >= 30


def test_host_that_the_commit_does_not_concern_says_nothing() -> None:
    status = status_of(BLOCKED)
    assert fleet_answer(status, {"a": digests(status["targets"][0])}, "fleet", None) is None


def test_cluster_that_another_daemon_acts_on_is_not_told_of() -> None:
    status = status_of(BLOCKED)
    (target,) = status["targets"]
    waiting = status | {"targets": [target | {"notes": [{"code": "NotLeader"}]}]}
    assert fleet_answer(status, {}, "fleet", None)
    assert fleet_answer(waiting, {}, "fleet", None) is None


def test_success_is_said_only_after_an_own_failure() -> None:
    assert fleet_answer(status_of(report()), {}, "fleet", None) is None
    assert fleet_answer(status_of(report()), {}, "fleet", FAILED) == (OVER, 0.0)
    assert fleet_answer(status_of(report()), {}, "fleet", OVER) is None


def test_refused_revision_is_told_by_the_fleet() -> None:
    info = RevisionInfo(REVISION, REVISION, error="x", refused=RefusedRevision("c" * 40, "not signed"))
    found = fleet_answer(status_of(report(), revision=info), {}, "fleet", None)
    assert found
    assert found[0].revision == "c" * 40
    assert found[0].description.startswith("a: refused: not signed")


@pytest.mark.parametrize(
    ("mine", "standing", "expected"),
    [
        (FAILED, None, PostDecision.POST),
        (FAILED, OVER, PostDecision.POST),
        (FAILED, FAILED, PostDecision.DROP),
        (FAILED, replace(FAILED, description="a: 2 rejected"), PostDecision.POST),
        (FAILED, OTHERS, PostDecision.WAIT),
        (OVER, FAILED, PostDecision.POST),
        (OVER, OTHERS, PostDecision.DROP),
        (OVER, None, PostDecision.DROP),
    ],
)
def test_what_stands_decides_what_is_posted(
    mine: CommitStatus, standing: CommitStatus | None, expected: PostDecision
) -> None:
    assert step(mine, standing) is expected


class Commit:
    """The statuses of one commit, as a forge has them."""

    name = "a commit"

    def __init__(self) -> None:
        self.posts: list[CommitStatus] = []

    def standing(self, revision: str, context: str) -> CommitStatus | None:
        return next((one for one in reversed(self.posts) if one.context == context), None)

    def set_status(self, status: CommitStatus) -> None:
        self.posts.append(status)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
def test_fleet_shows_a_failure_as_long_as_one_host_fails(history: list[tuple[int, bool]]) -> None:
    """Once every host has looked again. Each of them says only what is new to it, as from its outbox."""
    commit, failing, waiting = Commit(), set[int](), dict[int, CommitStatus]()
    tell = to_forge_of_fleet(commit, "fleet", lambda _: False)  # type: ignore[arg-type]

    def look(host: int) -> None:
        try:
            tell(waiting[host])
            del waiting[host]
        except HeldBack:
            pass

    for host, fails in history:
        if fails == (host in failing):
            continue
        failing ^= {host}
        text = f"host-{host}: {'1 rejected' if fails else 'in sync and healthy again'}"
        state = CommitState.FAILURE if fails else CommitState.SUCCESS
        waiting[host] = CommitStatus(REVISION, CONTEXT, state, text)
        look(host)
    for _ in range(2):
        for host in sorted(waiting):
            look(host)
    shown = commit.standing(REVISION, CONTEXT)
    assert (shown is not None and shown.state is CommitState.FAILURE) == bool(failing)
    if shown and failing:
        assert host_of(shown) in {f"host-{host}" for host in failing}


def test_thousand_hosts_that_fail_at_once_post_once_and_spread_out() -> None:
    commit = Commit()
    tell = to_forge_of_fleet(commit, "fleet", lambda _: False)  # type: ignore[arg-type]
    names = [f"host-{n}" for n in range(1000)]
    when = sorted(spread(name, REVISION) for name in names)
    assert max(sum(at <= one < at + 1 for one in when) for at in range(300)) < 20
    held = 0
    for name in names:
        try:
            tell(CommitStatus(REVISION, CONTEXT, CommitState.FAILURE, f"{name}: 1 rejected"))
        except HeldBack:
            held += 1
    assert (len(commit.posts), held) == (1, 999)


def test_failure_of_a_past_revision_is_not_held_back() -> None:
    commit = Commit()
    commit.posts.append(OTHERS)
    past = set[str]()
    tell = to_forge_of_fleet(commit, "fleet", past.__contains__)  # type: ignore[arg-type]
    with pytest.raises(HeldBack):
        tell(FAILED)
    past.add(REVISION)
    tell(FAILED)
    assert commit.posts == [OTHERS]


def test_own_word_is_kept_over_a_restart(tmp_path: Path) -> None:
    with_failure = Outbox(tmp_path / "outbox.db")
    with_failure.put([FAILED], 1.0)
    with_failure.close()
    assert Outbox(tmp_path / "outbox.db").last(replace(FAILED, description="")) == FAILED
