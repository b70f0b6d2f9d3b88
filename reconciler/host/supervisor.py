"""The port between a host target and what keeps its processes: the daemon itself, or systemd."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.engines.launch import Launch
from reconciler.host.inventory import ReplicaRecord
from reconciler.model import Reason, ReplicaId, Restart


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What is there of one replica now.

    `leftovers` counts what the main process left behind: processes, its port, their memory of its GPUs. `releasing`:
    no process has that memory any more, but it is not back yet. `exit_code` is negative for a signal and None where
    it is unknown. `rebooted`: the host restarted since. `spawned` is False when it was written down but no process
    was ever seen. `drift` says what was changed manually of how it is kept; of a replica that is not alive, that it
    stopped it. `restarted`: its process is not the one that was written down, and `listens` whether this one has its
    port already. `between`: its process was asked to end, or the next one is about to start; it cannot be probed.
    """

    alive: bool
    leftovers: int = 0
    exit_code: int | None = None
    rebooted: bool = False
    spawned: bool = True
    drift: str = ""
    restarted: Restart | None = None
    listens: bool = False
    between: bool = False
    releasing: bool = False


class Supervisor(Protocol):
    """Keeps the processes of replicas. Every method that changes something is idempotent."""

    def list(self, records: Iterable[ReplicaRecord]) -> Mapping[ReplicaId, ProcessState]:
        """What is there of these replicas; changes nothing."""

    def recover(self) -> None:
        """Once, when a daemon takes over: complete what its predecessor had begun to record."""

    def blockers(self, record: ReplicaRecord, launch: Launch) -> Sequence[Reason]:
        """What of this host would keep it from starting now; changes nothing. Raises Terminal when no host could."""

    def start(self, record: ReplicaRecord, launch: Launch) -> None:
        """Write the record down, start the process, complete the record. Raises Retryable or Terminal."""

    def note(self, record: ReplicaRecord) -> ReplicaRecord:
        """Write down what the replica holds now, so that it can be found after a sudden death."""

    def adopt(self, record: ReplicaRecord) -> ReplicaRecord:
        """The record with the process that is there now. It is not written yet."""

    def stop(self, record: ReplicaRecord, force: bool) -> None:
        """Ask the main process to end; `force` kills whatever is left. Raises Retryable when something does not end."""

    def repair(self, record: ReplicaRecord) -> None:
        """Restore what was changed manually of how it is kept. Its process keeps running."""

    def remove(self, record: ReplicaRecord) -> None:
        """Delete a replica's record and log. Raises Retryable while anything of it is left."""

    def open_to_proxy(self) -> None:
        """Let the current proxy reach the sockets of replicas, whatever its user."""

    def owns(self, record: ReplicaRecord, pid: int) -> bool:
        """Does this process belong to this replica, by evidence that no other user can forge? Raises Retryable."""

    def is_ours(self, pid: int) -> bool:
        """Does this process belong to a replica of this target?"""

    def logs(self, replica: ReplicaId, lines: int) -> tuple[str, ...]:
        """The last lines of its log, oldest first; none if there is no log."""

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call `wake` from another thread whenever a replica ended by itself."""

    def close(self) -> None:
        """Close handles and threads. Models keep serving."""
