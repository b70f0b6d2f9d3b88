"""The last lines of containers that crashed: read once per crash, for the message that people get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from reconciler.cluster.api.client import Client
from reconciler.errors import ReconcileError
from reconciler.model import KubeObject

_LINES = 40
# Of one look: a cluster where everything crashes must not be read for minutes.
_MOST = 20
_Key = tuple[str, str, int]


class CrashLogs:
    """What crashed containers wrote. Reading fails quietly: the message then does without."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[_Key, tuple[str, ...]] = {}
        self._left = _MOST

    def begin_look(self) -> None:
        """From now on, as many may be read again: what is left over, the next look reads."""
        self._left = _MOST

    def of(self, pods: Iterable[KubeObject]) -> dict[str, tuple[str, ...]]:
        """By the pod's name; of pods without a crash nothing."""
        found: dict[str, tuple[str, ...]] = {}
        for pod in pods:
            for container, restarts, previous in _crashed(pod):
                metadata = pod["metadata"]
                key = (str(metadata["uid"]), container, restarts)
                if key not in self._known and self._left > 0:
                    self._left -= 1
                    self._known[key] = self._read(metadata["namespace"], metadata["name"], container, previous)
                if lines := self._known.get(key):
                    found[str(metadata["name"])] = lines
        if len(self._known) > 1000:
            self._known.clear()
        return found

    def _read(self, namespace: str, pod: str, container: str, previous: bool) -> tuple[str, ...]:
        with suppress(ReconcileError):
            return tuple(self._client.logs(namespace, pod, container, _LINES, previous=previous).splitlines())
        return ()


def _crashed(pod: KubeObject) -> Iterator[tuple[str, int, bool]]:
    """Name and restarts of containers that ended with an error, and whether the log of the run before tells of it."""
    status = pod.get("status") or {}
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if not isinstance(each, dict):
            continue
        restarts = each.get("restartCount") or 0
        if _failed(each.get("state")):
            yield str(each.get("name")), int(restarts), False
        elif _failed(each.get("lastState")):
            yield str(each.get("name")), int(restarts), True


def _failed(state: object) -> bool:
    ended = state.get("terminated") if isinstance(state, dict) else None
    return isinstance(ended, dict) and bool(ended.get("exitCode"))
