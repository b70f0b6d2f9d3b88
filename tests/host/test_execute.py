"""Running a plan: order, isolation, and what becomes of failures."""

from __future__ import annotations

import threading

from reconciler.errors import Retryable, Terminal
from reconciler.host.execute import execute, make_pool
from reconciler.model import (
    Action,
    Drain,
    Endpoint,
    MarkReady,
    Mount,
    Outcome,
    Plan,
    Repair,
    ReplicaId,
    ServiceId,
    ServiceRoute,
    SetRoutes,
    Stage,
    Stop,
)

A, B = ServiceId("default", "a"), ServiceId("default", "b")
ROUTES = SetRoutes((), (A, B), "changed")


def of(service: ServiceId) -> ReplicaId:
    return ReplicaId(service, "12345678-0")


def plan(*actions: Action) -> Plan:
    return Plan("host", "r", 1.0, actions)


def test_records_come_before_routes_and_routes_before_processes():
    done: list[Action] = []
    actions = (MarkReady(of(A), "x"), Drain(of(B), "x"), ROUTES, Stop(of(A), "x"), Stop(of(B), "x"))
    with make_pool() as pool:
        results = execute(plan(*actions), done.append, pool)
    assert tuple(done[:3]) == actions[:3]
    assert {result.outcome for result in results} == {Outcome.DONE}
    assert len(results) == 5


def test_drain_that_is_not_on_record_is_not_told_to_the_proxy():
    def perform(action: Action) -> None:
        if isinstance(action, Drain):
            raise Retryable("disk is full")
        done.append(action)

    done: list[Action] = []
    drained, kept = Endpoint(of(A), 1, draining=True), Endpoint(of(B), 2, draining=True)
    routes = SetRoutes((ServiceRoute(A, (drained,)), ServiceRoute(B, (kept,))), (A, B), "changed")
    execute(plan(Drain(of(A), "x"), routes), perform)
    (told,) = done
    assert isinstance(told, SetRoutes)
    assert [route.stable[0].draining for route in told.routes] == [False, True]


def test_action_that_is_not_due_is_skipped_with_what_rests_on_it():
    done: list[Action] = []
    actions = (MarkReady(of(A), "x"), Stop(of(A), "x"), Stop(of(B), "x"))
    results = execute(plan(*actions), done.append, waiting=(MarkReady(of(A), "x"),))
    assert done == [Stop(of(B), "x")]
    assert [result.outcome for result in results] == [Outcome.SKIPPED, Outcome.SKIPPED, Outcome.DONE]


def test_failure_ends_the_turn_of_its_own_service_only():
    def perform(action: Action) -> None:
        if action == MarkReady(of(A), "x"):
            raise Retryable("disk is full")

    actions = (MarkReady(of(A), "x"), MarkReady(of(B), "x"), ROUTES, Stop(of(A), "x"), Stop(of(B), "x"))
    with make_pool() as pool:
        results = {result.action: result for result in execute(plan(*actions), perform, pool)}
    assert results[MarkReady(of(A), "x")].outcome is Outcome.FAILED
    assert results[MarkReady(of(A), "x")].error == "disk is full"
    assert results[Stop(of(A), "x")].outcome is Outcome.SKIPPED
    assert results[MarkReady(of(B), "x")].outcome is Outcome.DONE
    assert results[Stop(of(B), "x")].outcome is Outcome.DONE
    assert results[ROUTES].outcome is Outcome.DONE


def test_what_only_prepares_may_fail_without_ending_turn_of_its_service():
    """Else a source that cannot be asked would keep the last good digest from its restart."""

    def perform(action: Action) -> None:
        if isinstance(action, Stage | Repair):
            raise Retryable("the disk is read-only")

    actions = (Repair(of(A), "x"), Stage(A, "0" * 16, Mount("s3://x/y"), "x"), Stop(of(A), "x"))
    outcomes = [result.outcome for result in execute(plan(*actions), perform)]
    assert outcomes == [Outcome.FAILED, Outcome.FAILED, Outcome.DONE]


def test_terminal_errors_and_bugs_are_results_too():
    def perform(action: Action) -> None:
        if isinstance(action, MarkReady):
            raise Terminal("never")
        raise ZeroDivisionError("a bug")

    never, bug = execute(plan(MarkReady(of(A), "x"), Drain(of(B), "x")), perform)
    assert (never.outcome, never.retryable) == (Outcome.FAILED, False)
    assert bug.outcome is Outcome.FAILED
    assert "ZeroDivisionError" in bug.error


def test_processes_of_different_services_run_side_by_side():
    both = threading.Barrier(2, timeout=10)
    with make_pool() as pool:
        results = execute(plan(ROUTES, Stop(of(A), "x"), Stop(of(B), "x")), lambda a: _meet(a, both), pool)
    assert [result.outcome for result in results] == [Outcome.DONE] * 3


def _meet(action: Action, both: threading.Barrier) -> None:
    if isinstance(action, Stop):
        both.wait()


def test_empty_plan_does_nothing():
    assert execute(plan(), lambda action: None) == ()
