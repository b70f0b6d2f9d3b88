"""Run a plan on a cluster: the inventory first, then objects wave by wave, those of one wave side by side.

What fails holds up later waves, as they may need it, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import structlog

from reconciler.errors import ReconcileError, Terminal
from reconciler.fault_isolation import unexpected
from reconciler.model import Action, ApplyObject, Outcome, Plan, Result, WriteInventory
from reconciler.model.target import Perform

log = structlog.get_logger()

_PARALLEL = 8


def make_pool() -> ThreadPoolExecutor:
    """Threads for requests of one wave."""
    return ThreadPoolExecutor(_PARALLEL, thread_name_prefix="apply")


def execute(plan: Plan, perform: Perform, pool: ThreadPoolExecutor, waiting: Collection[Action]) -> tuple[Result, ...]:
    """The result of each action, in their order. Never raises for a failed one."""
    results: list[Result] = []
    held = ""
    for actions in _groups(plan.actions):
        todo = [action for action in actions if action not in waiting]
        skipped = [action for action in actions if action in waiting]
        if held:
            results += [Result(action, Outcome.SKIPPED, held) for action in actions]
            continue
        found = [*pool.map(lambda action: _run(action, perform), todo)]
        found += [Result(action, Outcome.SKIPPED, "it failed before and is tried again later") for action in skipped]
        results += found
        held = _what_holds_up(found)
    return tuple(results)


def _groups(actions: Iterable[Action]) -> Iterator[list[Action]]:
    """What may be done at once; applies come in the order of their waves."""
    for _, group in groupby(actions, key=_group):
        yield list(group)


def _group(action: Action) -> tuple[int, int]:
    match action:
        case WriteInventory():
            return 0, 0
        case ApplyObject():
            return 1, action.wave
        case _:
            return 2, 0


def _what_holds_up(results: Iterable[Result]) -> str:
    for one in results:
        if one.outcome is Outcome.DONE:
            continue
        if isinstance(one.action, WriteInventory):
            return "the inventory could not be written, and without it nothing is applied or deleted"
        if isinstance(one.action, ApplyObject):
            return f"it waits for {one.action.object}, which could not be applied"
    return ""


def _run(action: Action, perform: Perform) -> Result:
    began = time.monotonic()
    try:
        perform(action)
    except ReconcileError as error:
        return Result(action, Outcome.FAILED, str(error), not isinstance(error, Terminal), time.monotonic() - began)
    except Exception as error:
        # A bug in one action must not keep the other objects from being looked after.
        log.exception("action_raised", action=type(action).__name__)
        return Result(action, Outcome.FAILED, unexpected(error), seconds=time.monotonic() - began)
    return Result(action, Outcome.DONE, seconds=time.monotonic() - began)
