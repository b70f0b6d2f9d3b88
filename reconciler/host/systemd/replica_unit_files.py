"""The files of a host's replica units: written, compared with our copies, repaired, read as records."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from reconciler.engines.launch import Launch
from reconciler.engines.limits import too_large
from reconciler.errors import Retryable, Unstartable
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory, ReplicaRecord, UnreadableRecord, load_record
from reconciler.host.process.scratch import proxy_group
from reconciler.host.systemd.concealed import conceal
from reconciler.host.systemd.replica_unit import PRIVATE, RECORD, SECRETS, plan_unit
from reconciler.host.systemd.unit import (
    CREDENTIAL,
    UnitPlan,
    build_unit,
    credential_of,
    read_facts,
    replica_of,
    unit_name,
    with_stop,
)
from reconciler.host.systemd.unit_files import UNITS, Drifts, delete_drop_ins
from reconciler.model import Reason, ReasonCode, ReplicaId, host_reason
from reconciler.system.files import cannot, sync_tree, write_atomically

COPY = "unit"
# systemd's own limits for a line of a unit, and for all that is handed to it as credentials.
_LONGEST_LINE, _LARGEST_CREDENTIAL = 1 << 20, 1 << 20
_log = structlog.get_logger()


class ReplicaUnitFiles:
    """`target` names the units, `user` runs them. They see nothing of `closed`."""

    def __init__(self, target: str, user: str, inventory: Inventory, gpus: Gpus, closed: tuple[Path, ...]) -> None:
        self._target = target
        self._user = user
        self._inventory = inventory
        self._gpus = gpus
        self._closed = closed
        self._drifts = Drifts()

    def _path(self, record: ReplicaRecord) -> Path:
        return UNITS / unit_name(self._target, record.id)

    def _copy(self, record: ReplicaRecord) -> Path:
        return self._inventory.replica_folder(record.id) / COPY

    def drift(self, record: ReplicaRecord) -> str:
        """How the unit differs from what was written; empty: not at all."""
        return self._drifts.of(self._path(record), self._copy(record))

    def present(self) -> dict[ReplicaId, Path]:
        """The unit of each replica for which there is one. Raises UnreadableRecord."""
        try:
            names = os.listdir(UNITS)
        except OSError as error:
            raise UnreadableRecord(cannot(error, UNITS, "read")) from None
        found = {replica_of(self._target, name): UNITS / name for name in names}
        return {replica: path for replica, path in found.items() if replica is not None}

    def record_in(self, path: Path) -> ReplicaRecord | None:
        """The record that is in a unit; None where there is none."""
        text = read_facts(path.read_text(errors="replace")).get(RECORD)
        if text is None:
            _log.warning("unit_unreadable", unit=path.name)
            return None
        try:
            return load_record(path, text)
        except UnreadableRecord as error:
            _log.warning("unit_unreadable", unit=path.name, error=str(error))
            return None

    def bring_up_to_date(self, records: Iterable[ReplicaRecord]) -> bool:
        """Have units of an older release stopped as those of this one are. Nothing is restarted for that.

        Returns whether systemd has to read any again. Killed in between, the file differs from our copy, and is
        repaired from it.
        """
        changed = False
        for record in records:
            path, ours = self._path(record), self._copy(record)
            try:
                text = ours.read_text()
                wanted = with_stop(text, self._target, record.address)
                if wanted != text and path.read_text() == text:
                    write_atomically(ours, wanted.encode())
                    changed |= write_atomically(path, wanted.encode())
            except FileNotFoundError:
                # Which is drift, and a pass sees to it.
                continue
            except (OSError, ValueError) as error:
                _log.warning("unit_update_failed", unit=path.name, error=str(error))
        return changed

    def write(self, record: ReplicaRecord, launch: Launch) -> None:
        """What is secret, our copy, then the unit. Raises Retryable, or Terminal for what no unit can hold."""
        folder = self._inventory.replica_folder(record.id)
        plan = self._plan(record, launch)
        try:
            text, hidden = build_unit(plan), (credential_of(plan) or "").encode("utf-8", "surrogateescape")
        except ValueError as error:
            raise Unstartable(f"replica {record.id}: {error}") from None
        path, files = self._path(record), launch.files
        try:
            if hidden and launch.image:
                files = {**files, plan.credential: hidden}
            elif hidden:
                write_atomically(folder / CREDENTIAL, hidden)
            self._write_secrets(files, folder / SECRETS)
            write_atomically(folder / COPY, text.encode())
            write_atomically(path, text.encode())
        except OSError as error:
            raise Retryable(cannot(error, error.filename or path, "written", "run the reconciler as root")) from None

    def _write_secrets(self, files: Mapping[str, bytes], folder: Path) -> None:
        """On disk, because a reboot must find them; only the replica's user sees them, and only in its unit."""
        user = pwd.getpwnam(self._user)
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        for name, data in files.items():
            path = folder / name.removeprefix(f"{PRIVATE}/")
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, data, 0o400)
        # Only now, and the outermost last: nothing is written where that user could have put a link.
        for here, _, names in os.walk(folder, topdown=False):
            for each in (*(os.path.join(here, name) for name in names), here):
                os.chown(each, user.pw_uid, user.pw_gid, follow_symlinks=False)
        sync_tree(folder)

    def repair(self, record: ReplicaRecord) -> None:
        """As it was written. Raises Retryable."""
        path = self._path(record)
        try:
            write_atomically(path, self._copy(record).read_bytes())
            delete_drop_ins(path)
        except OSError as error:
            raise Retryable(cannot(error, error.filename or path, "written", "run the reconciler as root")) from None

    def too_large(self, record: ReplicaRecord, launch: Launch) -> Iterator[Reason]:
        """What systemd does not read. Raises Terminal for what no unit can hold."""
        plan = self._plan(record, launch)
        try:
            text, hidden = build_unit(plan), credential_of(plan) or ""
        except ValueError as error:
            raise Unstartable(f"replica {plan.replica}: {error}") from None
        longest = max(len(line.encode("utf-8", "surrogateescape")) for line in text.splitlines())
        if longest >= _LONGEST_LINE:
            text = f"a line of its unit has {longest:,} bytes, and systemd reads {_LONGEST_LINE:,}"
            yield host_reason(ReasonCode.ARGUMENT_LIST_TOO_LONG, text)
        size = len(hidden.encode("utf-8", "surrogateescape"))
        if size > _LARGEST_CREDENTIAL:
            text = f"its variables have {size:,} bytes, and systemd hands over {_LARGEST_CREDENTIAL:,}"
            yield host_reason(ReasonCode.ARGUMENT_LIST_TOO_LONG, text)
        if fault := too_large(plan.argv, plan.env, os.sysconf("SC_ARG_MAX")):
            yield host_reason(ReasonCode.ARGUMENT_LIST_TOO_LONG, fault)

    def proxy_group(self) -> int:
        """The group of the proxy, which may connect to replicas."""
        return proxy_group(self._inventory.folder.absolute() / "proxy")

    def _plan(self, record: ReplicaRecord, launch: Launch) -> UnitPlan:
        """Raises Terminal for what no unit can hold."""
        user = pwd.getpwnam(self._user)
        folder = self._inventory.replica_folder(record.id)
        devices = self._gpus.nodes(record.lease.gpus)
        owner, hidden = f"{user.pw_uid}:{user.pw_gid}", conceal(launch.argv[0], launch.mounts, self._closed)
        try:
            return plan_unit(
                self._target, record, launch, self._user, devices, folder, owner, hidden, self.proxy_group()
            )
        except ValueError as error:
            raise Unstartable(f"replica {record.id}: {error}") from None
