"""Objects are applied, taken over, and tried as a dry run; what the API server refuses is told at git's lines."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.errors import ApiError, Conflict, Invalid, KindUnknown, NamespaceEnding, NotFound
from reconciler.cluster.api.watch import Watches
from reconciler.cluster.memory import Memory
from reconciler.cluster.objects.compare import applied as applied_now
from reconciler.cluster.objects.ignore import Rules, applied_body
from reconciler.cluster.objects.owned import owned_fields
from reconciler.cluster.objects.owners import as_taken_over
from reconciler.cluster.observed import Remembered
from reconciler.cluster.placing import Placing
from reconciler.cluster.rollout.additions import NO_ADDITIONS, Additions
from reconciler.errors import ReconcileError
from reconciler.model import ApplyObject, DesiredObject, KubeObject, ObjectId, Plan, Reason, ReasonCode

# With the two others it is refused if the object is not as it was read.
_TAKEN_OVER = ("managedFields", "resourceVersion", "uid")
# Objects that a plan asks about: each is a request.
_MOST_REHEARSED = 500


class Applying:
    """Of one target. `refusals` are what the last rehearsal was refused, by object and the hash of what was tried."""

    def __init__(self, client: Client, watches: Watches, memory: Memory, placing: Placing, rules: Rules) -> None:
        self._client = client
        self._watches = watches
        self._memory = memory
        self._placing = placing
        self._rules = rules
        self.refusals: Mapping[tuple[ObjectId, str], tuple[Reason, ...]] = {}

    def apply(self, action: ApplyObject) -> None:
        """Apply one object, and remember it. Raises Retryable or Terminal."""
        wanted = self._placing.with_secret(action.wanted)
        rules = self._rules
        live = self._watches.snapshot().get(wanted.id)
        if live is not None and owned_fields(live) is None:
            live = self._take_over(wanted.id)
        try:
            answer = self._client.apply(applied_body(wanted, live, rules), force=action.force)
        except (Conflict, Invalid) as error:
            raise _located_error(error, action.wanted) from None
        self._watches.put(answer)
        additions = action.additions if isinstance(action.additions, Additions) else NO_ADDITIONS
        now = self._client.transport.clock.now()
        self._memory.note(wanted.id, Remembered(applied_now(action.wanted, answer, rules), additions, now))

    def rehearse(self, plan: Plan, pool: ThreadPoolExecutor) -> bool:
        """Apply what the plan applies, as a dry run. True: something is refused."""
        applies = [action for action in plan.actions if isinstance(action, ApplyObject)][:_MOST_REHEARSED]
        said = zip(applies, pool.map(self._try, applies), strict=True)
        self.refusals = {(one.object, one.wanted.hash): why for one, why in said if why}
        return bool(self.refusals)

    def _try(self, action: ApplyObject) -> tuple[Reason, ...]:
        try:
            wanted = self._placing.with_secret(action.wanted)
            live = self._watches.snapshot().get(wanted.id)
            # What is to be taken over is not ours yet: then nobody's fields are in our way.
            force = action.force or (live is not None and owned_fields(live) is None)
            self._client.apply(applied_body(wanted, live, self._rules), force=force, dry_run=True)
        except (NotFound, KindUnknown, NamespaceEnding):
            # What it needs may be part of the same plan.
            return ()
        except ApiError as error:
            return _refusal(error, action.wanted)
        except ReconcileError as error:
            return (Reason(ReasonCode.ADMISSION_DENIED, str(error), action.wanted.origin),)
        return ()

    def _take_over(self, one: ObjectId) -> KubeObject | None:
        """What the tools before us own of an object becomes ours: then the apply removes what they would leave behind.

        None: it is gone. Raises WriteConflict where a controller wrote to it just now.
        """
        live = self._client.get(one)
        if live is None or owned_fields(live) is not None:
            return live
        metadata = as_taken_over(live)["metadata"]
        return self._client.patch(one, {"metadata": {key: metadata[key] for key in _TAKEN_OVER}})


def _located_error(error: Conflict | Invalid, wanted: DesiredObject) -> ReconcileError:
    """The API server names fields; git's lines are known."""
    places = [f"{wanted.origin_of(each.path)}: {each.path}: {each.message}" for each in error.fields]
    text = "; ".join(places) if places else f"{wanted.origin}: {error}"
    return type(error)(text, error.fields, error.code)


def _refusal(error: ApiError, wanted: DesiredObject) -> tuple[Reason, ...]:
    if not error.fields:
        return (Reason(ReasonCode.ADMISSION_DENIED, str(error), wanted.origin),)
    return tuple(
        Reason(ReasonCode.ADMISSION_DENIED, f"{each.path}: {each.message}", wanted.origin_of(each.path))
        for each in error.fields
    )
