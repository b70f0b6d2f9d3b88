"""Run a plan on a cluster: the inventory first, then objects wave by wave, those of one wave side by side.

What fails holds up what comes later and may need it: its namespace, the services of a runtime, and what git puts behind
it by a sync wave or a dependency. What it may replace is not deleted meanwhile. The rest goes on.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import structlog

from reconciler.cluster.objects.options import options_of
from reconciler.cluster.observed import RUNTIMES, SERVICE
from reconciler.cluster.rollout.additions import Additions
from reconciler.errors import ReconcileError, Terminal
from reconciler.fault_isolation import unexpected
from reconciler.model import (
    Action,
    ApplyObject,
    DeleteObject,
    ObjectId,
    Outcome,
    Plan,
    Result,
    StopService,
    WriteInventory,
)
from reconciler.model.target import Perform

log = structlog.get_logger()

_PARALLEL = 8
# They are of the whole cluster, and nothing that is applied fails without them.
_MISSED_LATER = frozenset(
    {
        ("rbac.authorization.k8s.io", "ClusterRole"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("scheduling.k8s.io", "PriorityClass"),
        ("storage.k8s.io", "StorageClass"),
        ("", "PersistentVolume"),
    }
)


def make_pool() -> ThreadPoolExecutor:
    """Threads for requests of one wave."""
    return ThreadPoolExecutor(_PARALLEL, thread_name_prefix="apply")


def execute(plan: Plan, perform: Perform, pool: ThreadPoolExecutor, waiting: Collection[Action]) -> tuple[Result, ...]:
    """The result of each action, in their order. Never raises for a failed one."""
    results: list[Result] = []
    undone = _Undone()
    for actions in _groups(plan.actions):
        later = [(action, undone.why_later(action) or _why_waiting(action, waiting)) for action in actions]
        found = [*pool.map(lambda action: _run(action, perform), (action for action, why in later if not why))]
        found += [Result(action, Outcome.SKIPPED, why) for action, why in later if why]
        results += found
        undone.add(each.action for each in found if each.outcome is not Outcome.DONE)
    return tuple(results)


def _why_waiting(action: Action, waiting: Collection[Action]) -> str:
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


class _Undone:
    """What was not done, by what may make others need it. One object of each suffices: thousands may fail at once."""

    def __init__(self) -> None:
        self._inventory = False
        self._ids: set[ObjectId] = set()
        self._runtimes: dict[str, ObjectId] = {}
        self._namespaces: dict[str, ObjectId] = {}
        self._names: dict[str, ObjectId] = {}
        self._for_all: ObjectId | None = None
        self._first: tuple[int, ObjectId] | None = None

    def add(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, ApplyObject):
                self._add(action.object, options_of(action.wanted).wave)
            self._inventory = self._inventory or isinstance(action, WriteInventory)

    def _add(self, one: ObjectId, wave: int) -> None:
        kind = (one.group, one.kind)
        self._ids.add(one)
        self._names[one.name] = one
        self._first = min(self._first or (wave, one), (wave, one))
        if kind in RUNTIMES:
            self._runtimes[one.name] = one
        elif one.namespace or kind == ("", "Namespace"):
            self._namespaces[one.namespace or one.name] = one
        elif kind not in _MISSED_LATER:
            self._for_all = one

    def why_later(self, action: Action) -> str:
        """Why an action must wait; empty: it need not."""
        if self._inventory:
            return "the inventory could not be written, and without it nothing is applied or deleted"
        if not self._ids:
            return ""
        other = self._needed_by(action)
        return f"it waits for {other}, which could not be applied" if other else ""

    def _needed_by(self, action: Action) -> ObjectId | None:
        match action:
            case ApplyObject():
                return self._needed_by_apply(action)
            case DeleteObject() | StopService():
                # It may take the place of what goes.
                one = action.object
                return self._names.get(one.name) or self._namespaces.get(one.namespace) or self._for_all
            case _:
                # What is only asked or noted.
                return None

    def _needed_by_apply(self, action: ApplyObject) -> ObjectId | None:
        options = options_of(action.wanted)
        if self._first is not None and self._first[0] < options.wave:
            return self._first[1]
        if (other := next((each for each in options.depends_on if each in self._ids), None)) is not None:
            return other
        return self._runtime_of(action) or self._namespaces.get(action.object.namespace) or self._for_all

    def _runtime_of(self, action: ApplyObject) -> ObjectId | None:
        """That of a service, or the copy that it is kept on; where git does not tell, it may be any."""
        if (action.object.group, action.object.kind) != SERVICE or not self._runtimes:
            return None
        rendered = action.wanted.rendered
        if rendered is None:
            return next(iter(self._runtimes.values()))
        copy = action.additions.runtime if isinstance(action.additions, Additions) else ""
        named = rendered.runtime
        return self._runtimes.get(copy) or (named if named in self._ids else None)


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
