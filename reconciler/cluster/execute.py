"""Run a plan on a cluster: the inventory first, then objects wave by wave, those of one wave side by side.

What fails holds up later waves in its namespace, as they may need it, and everything where it has none; nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import structlog

from reconciler.errors import ReconcileError, Terminal
from reconciler.fault_isolation import unexpected
from reconciler.model import (
    Action,
    ApplyObject,
    DeleteObject,
    KeepLastGood,
    NoteTry,
    Outcome,
    Plan,
    Result,
    StopService,
    WriteInventory,
)
from reconciler.model.target import Perform

log = structlog.get_logger()

_PARALLEL = 8
_EVERYWHERE = ""


def make_pool() -> ThreadPoolExecutor:
    """Threads for requests of one wave."""
    return ThreadPoolExecutor(_PARALLEL, thread_name_prefix="apply")


def execute(plan: Plan, perform: Perform, pool: ThreadPoolExecutor, waiting: Collection[Action]) -> tuple[Result, ...]:
    """The result of each action, in their order. Never raises for a failed one."""
    results: list[Result] = []
    held: dict[str, str] = {}
    for actions in _groups(plan.actions):
        later = [(action, _why_later(action, waiting, held)) for action in actions]
        found = [*pool.map(lambda action: _run(action, perform), (action for action, why in later if not why))]
        found += [Result(action, Outcome.SKIPPED, why) for action, why in later if why]
        results += found
        held = {**_what_holds_up(found), **held}
    return tuple(results)


def _why_later(action: Action, waiting: Collection[Action], held: Mapping[str, str]) -> str:
    if (text := held.get(_EVERYWHERE) or held.get(_namespace(action))) is not None:
        return text
    return "it failed before and is tried again later" if action in waiting else ""


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


def _what_holds_up(results: Iterable[Result]) -> dict[str, str]:
    """Namespaces in which later waves wait, and for what; "" is everywhere."""
    found: dict[str, str] = {}
    for one in results:
        if one.outcome is Outcome.DONE:
            continue
        if isinstance(one.action, WriteInventory):
            found[_EVERYWHERE] = "the inventory could not be written, and without it nothing is applied or deleted"
        elif isinstance(one.action, ApplyObject):
            text = f"it waits for {one.action.object}, which could not be applied"
            found.setdefault(one.action.object.namespace, text)
    return found


def _namespace(action: Action) -> str:
    """Where an action is at home; records of services lie elsewhere, and are about their services."""
    match action:
        case ApplyObject() | DeleteObject() | StopService():
            return action.object.namespace
        case KeepLastGood() | NoteTry():
            return action.service.namespace
        case _:
            return _EVERYWHERE


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
