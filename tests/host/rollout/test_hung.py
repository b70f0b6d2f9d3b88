"""What is planned for replicas that hang."""

from __future__ import annotations

from dataclasses import replace

from reconciler.host.plan import make_plan
from reconciler.model import (
    NO_ORIGIN,
    Drain,
    EnsureProxy,
    HealthStatus,
    NoteCrash,
    ProxyBreak,
    Reason,
    ReasonCode,
    Reject,
    Routed,
    SetRoutes,
    Silence,
    Start,
    Stop,
)
from tests.support.simulation import PATIENCE, Host, state, wanted


def served(replicas: int = 1, **more: object) -> tuple[Host, object]:
    host = Host(**more)  # type: ignore[arg-type]
    commit = state(wanted("a", "good1", replicas=replicas))
    host.converge(commit)
    return host, commit


def kinds(host: Host, since: int) -> list[str]:
    return [type(action).__name__ for action in host.log[since:]]


def test_silent_replica_leaves_the_route_while_another_serves():
    host, commit = served(replicas=2)
    since = len(host.log)
    host.hang("a", Silence.SILENT, only=1)
    plan = host.step(commit)
    (verdict,) = plan.verdicts.values()
    assert (verdict.health.phase, verdict.health.reason.code) == (HealthStatus.DEGRADED, "Silent")
    assert kinds(host, since) == ["SetRoutes"]
    assert sorted(r.routed for r in host.observe().replicas) == [Routed.ACTIVE, Routed.DRAINING]
    host.hang("a", Silence.NONE)
    host.converge(commit)
    assert {r.routed for r in host.observe().replicas} == {Routed.ACTIVE}
    assert kinds(host, since) == ["SetRoutes", "SetRoutes"]


def test_silent_replica_alone_keeps_its_route():
    host, commit = served()
    since = len(host.log)
    host.hang("a", Silence.SILENT)
    (verdict,) = host.step(commit).verdicts.values()
    assert (verdict.health.phase, kinds(host, since)) == (HealthStatus.DEGRADED, [])


def test_hung_replica_is_replaced_as_after_a_crash():
    host, commit = served(replicas=2)
    since = len(host.log)
    host.hang("a", only=1)
    host.step(commit)
    (verdict,) = host.step(commit).verdicts.values()
    assert verdict.health.phase is not HealthStatus.HEALTHY
    host.converge(commit)
    assert len(host.serving("a")) == 2
    log = host.log[since:]
    assert [a for a in log if isinstance(a, NoteCrash)]
    (stop,) = [a for a in log if isinstance(a, Stop)]
    assert stop.force
    assert "is hung: its server has not responded" in stop.reason
    assert not [a for a in log if isinstance(a, Reject | Drain)]


def test_hung_replica_alone_stays_until_its_successor_serves():
    host, commit = served()
    since = len(host.log)
    host.hang("a")
    host.converge(commit)
    order = [type(a).__name__ for a in host.log[since:] if isinstance(a, Start | Stop | SetRoutes)]
    assert order.index("Start") < order.index("SetRoutes") < order.index("Stop")
    assert len(host.serving("a")) == 1


def test_hung_replica_alone_stays_also_while_git_cannot_be_followed():
    host, _ = served()
    since = len(host.log)
    host.hang("a")
    commit = state(replace(wanted("a", "good2"), blocked=(Reason(ReasonCode.SECRET_NOT_FOUND, "x", NO_ORIGIN),)))
    host.converge(commit)
    order = [type(a).__name__ for a in host.log[since:] if isinstance(a, Start | Stop | SetRoutes)]
    assert order.index("Start") < order.index("SetRoutes") < order.index("Stop")


def test_hung_replica_alone_goes_first_without_room():
    host, commit = served(memory=1)
    since = len(host.log)
    host.hang("a")
    host.converge(commit)
    order = [type(a).__name__ for a in host.log[since:] if isinstance(a, Start | Stop)]
    assert order == ["Stop", "Start"]


def test_hung_replica_on_trial_fails_its_commit():
    host, _ = served()
    commit = state(wanted("a", "hang1"))
    plan = host.converge(commit)
    (verdict,) = plan.verdicts.values()
    assert verdict.rejected
    assert verdict.rejected.reason.code == "Hung"
    assert [r.digest for r in host.serving("a")] == ["good1-a"]


def test_hung_replica_that_drains_is_not_waited_for():
    host, _ = served(busy_seconds=1000.0)
    commit = state(wanted("a", "good2"))
    while not any(r.draining_at for r in host.replicas.values()):
        host.step(commit)
        host.now += 0.5
    host.hang("a", only=1)
    (drained,) = [r.id for r in host.replicas.values() if r.draining_at]
    host._change(drained, silence=Silence.HUNG)
    host._change(next(r.id for r in host.replicas.values() if not r.draining_at), silence=Silence.NONE)
    plan = make_plan(commit, host.observe(), host.holds(commit), PATIENCE)
    (stop,) = [a for a in plan.actions if isinstance(a, Stop)]
    assert (stop.replica, stop.cut) == (drained, 1)


def test_push_while_hung_is_rolled_out():
    host, _ = served()
    host.hang("a")
    host.converge(state(wanted("a", "good2")))
    assert [r.digest for r in host.serving("a")] == ["good2-a"]


def test_service_deleted_while_hung_goes():
    host, _ = served()
    host.hang("a")
    host.converge(state())
    assert not host.replicas


# ---------------------------------------------------------------- the proxy


def ensured(host: Host, commit: object, found: ProxyBreak) -> list[bool]:
    """Whether it is replaced, for each time that a plan looks after it."""
    observed = replace(host.observe(), proxy_ready=False, proxy_break=found)
    plan = make_plan(commit, observed, host.holds(commit), PATIENCE)
    return [action.replace for action in plan.actions if isinstance(action, EnsureProxy)]


def test_hung_proxy_is_replaced():
    host, commit = served()
    assert ensured(host, commit, ProxyBreak.NONE) == [False]
    assert ensured(host, commit, ProxyBreak.HUNG) == [True]


def test_proxy_that_serves_is_replaced_only_for_a_change():
    host, commit = served()
    assert ensured(host, commit, ProxyBreak.DEAF) == [False]
    assert ensured(host, state(), ProxyBreak.DEAF) == [True]
    assert ensured(host, state(wanted("a", "good2")), ProxyBreak.DEAF) == [True]
