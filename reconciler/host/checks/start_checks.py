"""What would keep a spec from starting here, found without starting or stopping anything.

The real launch is made, with the values of Secrets, and nothing is done with it. It costs a few `stat`: each pass may
ask it for every spec that does not run yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.engines.launch import Launch, PreflightQuestion
from reconciler.engines.limits import unfit_argument, unfit_variables
from reconciler.errors import Retryable, Terminal, Unstartable
from reconciler.host.checks.file_checks import unusable_files
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.supervisor import Supervisor
from reconciler.host.workload import Workloads
from reconciler.model import Desired, EffectiveSpec, Lease, Origin, Reason, ReasonCode, ReplicaId, Start

_PORT = 65535


@dataclass(frozen=True, slots=True)
class Obstacles:
    """`refused`: only another commit helps. `blocked`: something of this host, or a Secret, has to change."""

    refused: tuple[Reason, ...] = ()
    blocked: tuple[Reason, ...] = ()


class StartChecks:
    """Rehearses starts on one host."""

    def __init__(
        self,
        workloads: Workloads,
        supervisor: Supervisor,
        drain_timeout: float,
        reader: str = "",
        closed: tuple[Path, ...] = (),
    ) -> None:
        """`reader` runs replicas; empty: we do. No argument may name what is `closed`."""
        self._workloads = workloads
        self._supervisor = supervisor
        self._drain_timeout = drain_timeout
        self._reader = reader
        self._closed = closed

    def of(self, desired: Desired, spec: EffectiveSpec, asked: PreflightQuestion) -> Obstacles:
        """Everything that is known to block the start now."""
        start = self._rehearsed(desired, spec)
        try:
            launch = self._workloads.launch(start)
            refused = [*unusable_arguments(desired, asked)]
            blocked: list[Reason] = []
            for is_ours, reason in unusable_variables(desired, spec, launch):
                (refused if is_ours else blocked).append(reason)
            for reason in unusable_files(desired, spec, asked, self._reader, self._closed):
                (blocked if reason.code is ReasonCode.FILE_UNREADABLE else refused).append(reason)
            if not refused:
                blocked += self._supervisor.obstacles(record_of(start, 0.0), launch)
        except Retryable:
            # A Secret or an image is not there yet, and others say so.
            return Obstacles()
        except Unstartable as error:
            return Obstacles(refused=(Reason(ReasonCode.CANNOT_START, str(error), desired.origin),))
        except Terminal as error:
            return Obstacles(blocked=(Reason(ReasonCode.CANNOT_START, str(error), desired.origin),))
        return Obstacles(tuple(refused), tuple(blocked))

    def _rehearsed(self, desired: Desired, spec: EffectiveSpec) -> Start:
        timeout = self._drain_timeout if desired.drain_timeout is None else desired.drain_timeout
        replica = ReplicaId(desired.id, f"{desired.digest.removeprefix('sha256:')[:8]}-9999")
        return Start(replica, desired.digest, spec, desired.origin, Lease(_PORT), timeout, "", "0" * 40, "rehearsal")


def record_of(start: Start, now: float, boot: str = "") -> ReplicaRecord:
    """What is written down of a replica before it is started."""
    return ReplicaRecord(
        id=start.replica,
        digest=start.digest,
        spec=start.spec,
        origin=start.origin,
        lease=start.lease,
        created_at=now,
        drain_timeout=start.drain_timeout,
        parsed=start.parsed,
        revision=start.revision,
        boot=boot,
    )


def unusable_arguments(desired: Desired, asked: PreflightQuestion) -> Iterator[Reason]:
    """Arguments that no process can be given."""
    for each in asked.argv:
        if fault := unfit_argument(each.text):
            yield Reason(ReasonCode.INVALID_ARGUMENT, fault, each.origin or desired.origin)


def unusable_variables(desired: Desired, spec: EffectiveSpec, launch: Launch) -> Iterator[tuple[bool, Reason]]:
    """Variables that no process can be given, each with whether git itself holds the value."""
    lines = dict(desired.variable_origins)
    for name, fault in unfit_variables(launch.env):
        source = _source(spec, name)
        is_ours = name in lines and name not in launch.hidden and not source
        message = f"{fault} (it comes from {source})" if source else fault
        yield is_ours, Reason(ReasonCode.INVALID_VARIABLE, message, _line(lines, name, source, spec) or desired.origin)


def _source(spec: EffectiveSpec, name: str) -> str:
    """Where a variable's value comes from, if not from git; of a whole Secret its prefix is the name's beginning."""
    for each in spec.env:
        if each.source and (each.name == name or (each.name.endswith("*") and name.startswith(each.name[:-1]))):
            return each.source.removesuffix(" optional")
    return ""


def _line(lines: dict[str, Origin], name: str, source: str, spec: EffectiveSpec) -> Origin | None:
    whole = next((each.name for each in spec.env if each.source.removesuffix(" optional") == source), "")
    return lines.get(name) or (lines.get(whole) if source else None)
