"""What would keep a spec from starting here, found without starting or stopping anything.

The real launch is made, with the values of Secrets, and nothing is done with it. It costs a few `stat`: each pass may
ask it for every spec that does not run yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from reconciler.engines.arguments import values_with_arguments
from reconciler.engines.environment import replace_paths
from reconciler.engines.file_arguments import (
    CERTIFICATE,
    CLOSED,
    CONFIG,
    KEY,
    FileContent,
    Named,
    climbs,
    is_around,
    is_below,
    is_systems_own,
    named_files,
    paths_in,
    reads_weights,
    serves_folder,
    written_in,
)
from reconciler.engines.fit_files import UnknownModel, UnreadableModel
from reconciler.engines.launch import Launch, PreflightQuestion
from reconciler.engines.limits import unfit_argument, unfit_variables
from reconciler.engines.model_files import MissingFile, check, check_pair
from reconciler.errors import Retryable, Terminal, Unstartable
from reconciler.formats import strict_yaml
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.supervisor import Supervisor
from reconciler.host.workload import Workloads
from reconciler.model import (
    Argument,
    Desired,
    EffectiveSpec,
    Lease,
    NoOrigin,
    Origin,
    Reason,
    ReasonCode,
    ReplicaId,
    Start,
)
from reconciler.system.files import Stamp, open_regular, stamp_of
from reconciler.system.readability import Reader, can_enter, can_read

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
                blocked += self._supervisor.blockers(record_of(start, 0.0), launch)
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


# ---------------------------------------------------------------- files that arguments name

_LONGEST_CONFIG = 1 << 20
_HIDDEN = "{}: cannot be read by {}, which runs replicas; check its mode and folders"
_Key = tuple[str, Origin | NoOrigin]


def unusable_files(
    desired: Desired, spec: EffectiveSpec, asked: PreflightQuestion, reader: str, closed: tuple[Path, ...] = ()
) -> Iterator[Reason]:
    """One reason for each argument that names what is missing, damaged or hidden by the disk, or from its reader.

    No argument may name what is `closed` or the system's own.
    """
    reader = reader if os.geteuid() == 0 else ""
    refused = dict(_closed_to_services(desired, spec, asked, closed, reader))
    yield from refused.values()
    weights = reads_weights(asked.argv)
    seen = [(one, replace_paths(one.path, asked.paths)) for one in named_files(asked.argv) if _is_ours(one, spec)]
    seen = [(one, local) for one, local in seen if _key_of(one.argument) not in refused]
    # What an image brings along is not for us to see.
    seen = [(one, local) for one, local in seen if local != one.path or not asked.image or _below_mounts(one, asked)]
    pair: dict[str, tuple[Named, str]] = {}
    for one, local in seen:
        try:
            try:
                check(local, one.holds, weights)
            except UnreadableModel:
                # Users who may push must not learn about folders that the reader cannot enter.
                if reader and local == one.path:
                    _check_way(local, reader)
                raise
            # Root shows what is mounted, and has asked already.
            if reader and (one.holds is FileContent.FILE or local == one.path):
                _check_reader(local, reader, stamp_of(local))
            pair |= {one.flag: (one, local)} if one.flag in (CERTIFICATE, KEY) else {}
        except UnreadableModel as error:
            yield _reason(error, one, desired)
    if len(pair) == 2:
        try:
            check_pair(pair[CERTIFICATE][1], pair[KEY][1])
        except UnreadableModel as error:
            yield _reason(error, pair[CERTIFICATE][0], desired)


@lru_cache(512)
def _check_reader(path: str, reader: str, _stamp: Stamp) -> None:
    """Raises UnknownModel."""
    if not can_read(path, Reader(reader)):
        raise UnknownModel(_HIDDEN.format(path, reader))


def _check_way(path: str, reader: str) -> None:
    """Raises UnknownModel where the reader cannot go to the folder of a path by itself."""
    if not can_enter(os.path.dirname(path), Reader(reader)):
        raise UnknownModel(_HIDDEN.format(path, reader))


def _closed_to_services(
    desired: Desired, spec: EffectiveSpec, asked: PreflightQuestion, closed: tuple[Path, ...], reader: str
) -> Iterator[tuple[_Key, Reason]]:
    said = ((*each, "") for each in paths_in(asked.argv))
    for argument, flag, path, where in (*said, *_in_files_of_arguments(asked, reader)):
        local = replace_paths(path, asked.paths)
        is_seen = local != path or not asked.image
        if (
            is_seen
            and not any(is_below(path, each) for each in spec.written_paths)
            and _is_closed(local, asked, closed, serves_folder(flag))
        ):
            text = f"{where}{flag} {path}: {CLOSED}; keep what an engine reads in the model's folder"
            yield _key_of(argument), Reason(ReasonCode.PATH_NOT_ALLOWED, text, argument.origin or desired.origin)


def _key_of(argument: Argument) -> _Key:
    """Tells arguments of one text apart."""
    return argument.text, argument.origin


def _in_files_of_arguments(asked: PreflightQuestion, reader: str) -> Iterator[tuple[Argument, str, str, str]]:
    """As of arguments, and in which file: in one of the model's files, if vLLM is configured to read flags there."""
    for argument, path in values_with_arguments(asked.argv, CONFIG)[:1]:
        local = replace_paths(path, asked.paths)
        if reader and not can_read(local, Reader(reader)):
            continue
        words = written_in(_read_yaml(local))
        yield from ((argument, flag, named, f"{CONFIG} {path}: ") for _, flag, named in paths_in(words))


def _read_yaml(path: str) -> object:
    """None for what is no file of arguments: other checks say so."""
    try:
        with open_regular(path) as file:
            return strict_yaml.load_one(file.read(_LONGEST_CONFIG)).value
    except (OSError, strict_yaml.YamlProblem):
        return None


def _is_closed(path: str, asked: PreflightQuestion, closed: tuple[Path, ...], with_all_in_it: bool) -> bool:
    """Wherever links lead, but for what is mounted: that was looked at."""
    if climbs(path):
        return True
    real = os.path.realpath(path)
    if any(is_below(real, folder) for folder in asked.paths.values()):
        return False
    ours = [os.path.realpath(each) for each in closed]
    if with_all_in_it and any(is_around(real, each) for each in (*ours, "/run")):
        return True
    return is_systems_own(path) or is_systems_own(real) or any(is_below(real, each) for each in ours)


def _is_ours(one: Named, spec: EffectiveSpec) -> bool:
    """A Secret's files, and those that git holds, are written when a replica starts."""
    return not any(is_below(one.path, each) for each in spec.written_paths)


def _below_mounts(one: Named, asked: PreflightQuestion) -> bool:
    return any(is_below(one.path, mount) for mount in asked.paths)


def _reason(error: UnreadableModel, one: Named, desired: Desired) -> Reason:
    missing = isinstance(error, MissingFile)
    code = (
        ReasonCode.FILE_UNREADABLE
        if isinstance(error, UnknownModel)
        else ReasonCode.FILE_NOT_FOUND
        if missing
        else ReasonCode.FILE_DAMAGED
    )
    # For a path in the container, both are shown: the error names the one of this host.
    path = "" if one.path in str(error) else f" {one.path}"
    return Reason(code, f"{one.flag}{path}: {error}", _origin(one, desired))


def _origin(one: Named, desired: Desired) -> Origin:
    """The service's own argument; else where it says which model it is, for the runtime serves others as well."""
    own = one.argument.origin
    if own and own.file == desired.origin.file:
        return own
    mounts = (origin for path, origin in desired.mount_origins if is_below(one.path, path))
    return next(mounts, None) or own or desired.origin
