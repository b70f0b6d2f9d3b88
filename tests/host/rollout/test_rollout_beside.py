"""Faults during a rollout must not harm what serves: files that vanish, fetches that fail, Secrets that hide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.errors import Retryable
from reconciler.host.execute import execute
from reconciler.host.plan import make_plan
from reconciler.model import (
    NO_ORIGIN,
    Action,
    Drain,
    Fetch,
    Origin,
    Reason,
    ReasonCode,
    Stage,
    Staging,
    Strategy,
    Unstage,
)
from tests.support.arguments import written
from tests.support.simulation import PATIENCE, Host, state, wanted

ELSEWHERE = (Reason(ReasonCode.NOT_FOR_THIS_HOST, "nodeSelector requires disk=ssd", Origin("x.yaml", 4)),)
UNREADABLE = (Reason(ReasonCode.UNREADABLE, "broken", Origin("b.yaml", 1)),)
TLS = ("--ssl-keyfile=/k", "--ssl-certfile=/c")


@pytest.mark.parametrize("strategy", [None, Strategy(0, 1), Strategy(0, 2, recreate=True)])
def test_no_further_old_replica_goes_once_files_of_new_one_vanished(strategy: Strategy | None):
    """Also in the middle: where one of them runs already, the next one could not start."""
    host = Host(memory=2)
    host.converge(state(wanted("a", "good1", 2, strategy=strategy)))
    commit = state(wanted("a", "good2", 2, uri="s3://gone/a", strategy=strategy))
    ((key, _),) = [(action.key, host.step(commit)) for action in _planned(host, commit) if isinstance(action, Stage)]
    host.fetching.clear()
    host.staging[key] = Staging(Fetch.STAGED)
    while not [r for r in host.replicas.values() if r.digest.startswith("good2")]:
        host.step(commit)
        host.now += 0.5
    del host.staging[key]
    left = len([r for r in host.serving("a") if r.digest.startswith("good1")])
    for _ in range(40):
        host.step(commit)
        host.now += 0.5
    assert len([r for r in host.serving("a") if r.digest.startswith("good1")]) == left
    assert len(host.serving("a")) >= 1


def _planned(host: Host, commit) -> tuple[Action, ...]:
    return make_plan(commit, host.observe(), host.holds(commit), PATIENCE).actions


def test_good_digest_comes_back_to_its_files_before_the_bad_one_goes():
    host = Host(memory=2)
    first = state(wanted("a", "good1", 2, uri="s3://bucket/a"))
    host.converge(first)
    bad = state(wanted("a", "good2", 2))
    while not [r for r in host.serving("a") if r.digest.startswith("good2")]:
        host.step(bad)
        host.now += 0.5
    host.step(first)
    since = len(host.log)
    host.staging.clear()
    host.converge(first)
    done = host.log[since:]
    stage = next(n for n, action in enumerate(done) if isinstance(action, Stage))
    drains = [n for n, a in enumerate(done) if isinstance(a, Drain) and a.replica.serial.startswith("good2")]
    assert all(n > stage for n in drains)
    assert len(host.serving("a")) == 2


def test_start_that_was_cut_off_waits_for_files_that_vanished():
    host = Host()
    commit = state(wanted("a", "good1", uri="s3://bucket/a"))
    while not host.replicas:
        host.step(commit)
        host.now += 0.5
    ((key, replica),) = host.replicas.items()
    host.replicas[key] = replace(replica, spawned=False, alive=False)
    host.staging.clear()
    host.converge(commit)
    assert host.serving("a")


def test_download_that_cannot_begin_does_not_keep_a_replica_from_restart():
    host = Host()
    host.converge(state(wanted("a", "good1")))
    ((key, replica),) = host.replicas.items()
    host.replicas[key] = replace(replica, alive=False)
    commit = state(wanted("a", "good2", uri="s3://bucket/a"))

    def perform(action: Action) -> None:
        if isinstance(action, Stage):
            raise Retryable("the disk is read-only")
        host.perform(action)

    for _ in range(20):
        execute(make_plan(commit, host.observe(), host.holds(commit), PATIENCE), perform)
        host.now += 0.5
    assert [r.digest for r in host.serving("a")] == ["good1-a"]


def test_files_are_kept_while_nobody_can_tell_which_secrets_there_are():
    """A Secret decides under which key a model's files are kept."""
    host = Host()
    commit = state(wanted("a", "never1", uri="s3://bucket/a"))
    for _ in range(10):
        host.step(commit)
        host.now += 0.5
    host.converge(state())
    host.staging["0" * 16] = Staging(Fetch.STAGED)
    lost = wanted(
        "a", "good2", uri="s3://other/a", blocked=(Reason(ReasonCode.SECRET_NOT_FOUND, "needs Secret x", NO_ORIGIN),)
    )
    unknown = state(wanted("a", "good2", uri="s3://other/a"))
    for doubtful in (
        state(lost),
        replace(unknown, refused=(Reason(ReasonCode.SECRETS_UNREADABLE, "no such folder", NO_ORIGIN),)),
    ):
        assert not [a for a in _planned(host, doubtful) if isinstance(a, Unstage)]
    assert [a.key for a in _planned(host, unknown) if isinstance(a, Unstage)] == ["0" * 16]


def test_model_files_shared_by_two_services_are_kept_for_the_other():
    host = Host()
    both = [wanted(name, "good1", uri="s3://bucket/a") for name in "ab"]
    host.converge(state(*both))
    assert len(host.staging) == 1
    host.converge(state(both[1]))
    assert len(host.staging) == 1
    assert host.serving("b")
    host.converge(state())
    assert not host.staging


def test_one_plan_asks_once_for_files_that_old_and_new_need():
    host = Host()
    host.converge(state(wanted("a", "good1", uri="s3://bucket/a")))
    host.staging.clear()
    host.replicas.clear()
    plan = _planned(host, state(wanted("a", "good2", uri="s3://bucket/a")))
    assert len([action for action in plan if isinstance(action, Stage)]) == 1


def test_passthrough_route_stays_until_the_successor_is_promoted():
    """A bad commit that drops TLS must not close the way to what works."""
    host = Host()
    good = replace(wanted("a", "good1"), passthrough=True)
    assert good.spec
    good = replace(good, spec=replace(good.spec, args=written(*TLS)))
    host.converge(state(good))
    plain = wanted("a", "reject1")
    host.converge(state(plain))
    assert host.serving("a")
    assert host.routes[good.id].passthrough
    host.converge(state(good))
    next_one = wanted("a", "good2")
    while not [r for r in host.serving("a") if r.digest.startswith("good2")]:
        host.step(state(next_one))
        assert host.routes[good.id].passthrough
        host.now += 0.5
    host.converge(state(next_one))
    assert not host.routes[good.id].passthrough


def test_room_is_kept_for_what_is_for_other_hosts_but_may_not_go_yet():
    host = Host(memory=1)
    kept = wanted("z", "good1")
    host.converge(state(kept))
    doubtful = state(replace(kept, replicas=0, not_here=ELSEWHERE), wanted("a", "good1"), unreadable=UNREADABLE)
    for _ in range(2):
        for key, replica in host.replicas.items():
            host.replicas[key] = replace(replica, alive=False)
        for _ in range(8):
            host.step(doubtful)
            host.now += 0.5
    for _ in range(80):
        host.step(doubtful)
        host.now += 0.5
    assert host.serving("z")
    assert not host.serving("a")
