"""Run a plan: records and routes in order, then processes of different services side by side.

The only place with concurrency between actions. A failed action ends its own service's turn, nobody else's; but not if
it only prepares or tidies: a fetch that cannot begin must not keep the last good digest from its restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from reconciler.errors import ReconcileError, Terminal
from reconciler.model import (
    Action,
    AskPreflight,
    Outcome,
    Plan,
    Repair,
    Result,
    ServiceId,
    SetRoutes,
    Stage,
    StageImage,
    service_of,
)

log = structlog.get_logger()

Perform = Callable[[Action], None]
_PARALLEL = 4
# Nothing later in the same plan rests on these.
_BESIDE = (AskPreflight, Repair, Stage, StageImage)


def execute(plan: Plan, perform: Perform, pool: ThreadPoolExecutor | None = None) -> tuple[Result, ...]:
    """Do the plan's actions and say what became of each. Never raises for a failed action."""
    if not plan.actions:
        return ()
    barrier = next((n for n, action in enumerate(plan.actions) if isinstance(action, SetRoutes)), None)
    first, rest = _split(plan.actions, barrier)
    failed: set[ServiceId] = set()
    results = [_run(action, perform, failed) for action in first]
    groups: dict[ServiceId | None, list[Action]] = {}
    for action in rest:
        groups.setdefault(service_of(action), []).append(action)
    if len(groups) < 2 or pool is None:
        results += [_run(action, perform, failed) for group in groups.values() for action in group]
        return tuple(results)
    # Each group only adds its own service to `failed`.
    done = pool.map(lambda group: [_run(action, perform, failed) for action in group], groups.values())
    return (*results, *(result for group in done for result in group))


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
        return _failed(action, str(error), not isinstance(error, Terminal), began, failed)
    except Exception as error:
        # A bug in one action must not keep the other services from being looked after.
        log.exception("action_raised", action=type(action).__name__, service=str(service or ""))
        return _failed(action, f"unexpected {type(error).__name__}: {error}", True, began, failed)
    return Result(action, Outcome.DONE, seconds=time.monotonic() - began)


def _failed(action: Action, error: str, retryable: bool, began: float, failed: set[ServiceId]) -> Result:
    if (service := service_of(action)) is not None and not isinstance(action, _BESIDE):
        failed.add(service)
    return Result(action, Outcome.FAILED, error, retryable, time.monotonic() - began)
