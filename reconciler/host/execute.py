"""Run a plan: records and routes in order, then processes of different services side by side.

The only place with concurrency between actions. A failed action skips the rest of its own service only; but not if
it only prepares or tidies: a fetch that cannot begin must not keep the last good digest from its restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

from reconciler.errors import ReconcileError, Terminal, Unstartable
from reconciler.fault_isolation import unexpected
from reconciler.model import (
    Action,
    AskPreflight,
    Drain,
    NoteFailure,
    Outcome,
    Plan,
    Reject,
    Repair,
    ReplicaId,
    Result,
    ServiceId,
    ServiceRoute,
    SetRoutes,
    Stage,
    StageImage,
    Undrain,
    service_of,
)

log = structlog.get_logger()

Perform = Callable[[Action], None]
_PARALLEL = 4
# Nothing later in the same plan depends on these.
BESIDE = (AskPreflight, NoteFailure, Reject, Repair, Stage, StageImage)


def execute(
    plan: Plan, perform: Perform, pool: ThreadPoolExecutor | None = None, waiting: Collection[Action] = ()
) -> tuple[Result, ...]:
    """Perform the plan's actions and return their results. Never raises for a failed action.

    Those in `waiting` failed before and are not due yet: they block their services as if they had failed now.
    """
    if not plan.actions:
        return ()
    barrier = next((n for n, action in enumerate(plan.actions) if isinstance(action, SetRoutes)), None)
    first, rest = _split(plan.actions, barrier)
    failed: set[ServiceId] = set()

    def run(action: Action) -> Result:
        if action in waiting:
            _hold_up(action, failed)
            return Result(action, Outcome.SKIPPED, "it failed before and is tried again later")
        return _run(action, perform, failed)

    results: list[Result] = []
    for action in first:
        results.append(run(_as_recorded(action, results)))
    groups: dict[ServiceId | None, list[Action]] = {}
    for action in rest:
        groups.setdefault(service_of(action), []).append(action)
    if len(groups) < 2 or pool is None:
        results += [run(action) for group in groups.values() for action in group]
        return tuple(results)
    # Each group only adds its own service to `failed`.
    done = pool.map(lambda group: [run(action) for action in group], groups.values())
    return (*results, *(result for group in done for result in group))


def _as_recorded(action: Action, results: Sequence[Result]) -> Action:
    """Routes must not say of a replica that it drains while its record does not: the next pass would take it back."""
    missed = [one.action for one in results if one.outcome is not Outcome.DONE]
    flags = {each.replica: isinstance(each, Undrain) for each in missed if isinstance(each, Drain | Undrain)}
    if not flags or not isinstance(action, SetRoutes):
        return action
    return replace(action, routes=tuple(_with_flags(route, flags) for route in action.routes))


def _with_flags(route: ServiceRoute, flags: Mapping[ReplicaId, bool]) -> ServiceRoute:
    stable, canary = (
        tuple(replace(each, draining=flags.get(each.replica, each.draining)) for each in side)
        for side in (route.stable, route.canary)
    )
    return replace(route, stable=stable, canary=canary)


def make_pool() -> ThreadPoolExecutor:
    """Threads for actions of different services."""
    return ThreadPoolExecutor(_PARALLEL, thread_name_prefix="action")


def _split(actions: Sequence[Action], barrier: int | None) -> tuple[Sequence[Action], Sequence[Action]]:
    """What must be done one after the other: everything up to the routes, or all there is before a process."""
    if barrier is None:
        return actions, ()
    return actions[: barrier + 1], actions[barrier + 1 :]


def _run(action: Action, perform: Perform, failed: set[ServiceId]) -> Result:
    service = service_of(action)
    if service in failed:
        return Result(action, Outcome.SKIPPED, "an earlier step of this service failed")
    began = time.monotonic()
    try:
        perform(action)
    except ReconcileError as error:
        _hold_up(action, failed)
        is_specs, retryable = isinstance(error, Unstartable), not isinstance(error, Terminal)
        return Result(action, Outcome.FAILED, str(error), retryable, time.monotonic() - began, is_specs)
    except Exception as error:
        # A bug in one action must not keep the other services from being looked after.
        log.exception("action_raised", action=type(action).__name__, service=str(service or ""))
        _hold_up(action, failed)
        return Result(action, Outcome.FAILED, unexpected(error), seconds=time.monotonic() - began)
    return Result(action, Outcome.DONE, seconds=time.monotonic() - began)


def _hold_up(action: Action, failed: set[ServiceId]) -> None:
    if (service := service_of(action)) is not None and not isinstance(action, BESIDE):
        failed.add(service)
