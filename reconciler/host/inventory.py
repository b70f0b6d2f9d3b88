"""What we own on one host: a record per replica, and one per service. Read by observe, written by perform.

A folder holds `replicas/<id>/record.json`, `services/<namespace>.<name>.json` and `lock`. A record that cannot be read
is neither deleted nor taken for absent: reading raises, so that nothing is planned for the host until a person fixes
it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from reconciler.errors import Retryable, Terminal
from reconciler.model import Address, EffectiveSpec, Lease, Origin, Owned, ReplicaId, ServiceId, Translation
from reconciler.system.files import Stamp, cannot, make_folder, stamp_from, sync_folder, write_atomically
from reconciler.system.procfs import Identity, SharedMemory

SCHEMA = 1
RECORD = "record.json"
_PARTIAL = f".{RECORD}.new"
_GONE = ".gone-"
# Seconds; between fork and exec of a child, on a busy machine.
_FORKED = 5.0
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?")
T = TypeVar("T")


class UnreadableRecord(Retryable):
    """A record is there but cannot be understood; what it describes may be serving."""


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """One replica as we wrote it down: before its process was started, and completed as it goes along.

    `process` is None until the spawn was confirmed. `boot` is the boot in which the record was made. `members` and
    `shared_memory` are what belonged to it when it was last observed, to be found again after a sudden death. Of the
    environment only names are kept: values may be secret. `image` is the ID of the local image that it runs in, if any.
    `again` says why it has to get ready once more, until it is. `translation` is what the config made of its spec.
    `socket` is the path of the Unix socket that it listens on; empty, as in records of older daemons: its port.
    """

    id: ReplicaId
    digest: str
    spec: EffectiveSpec
    origin: Origin
    lease: Lease
    created_at: float
    drain_timeout: float
    parsed: str
    revision: str
    boot: str
    process: Identity | None = None
    argv: tuple[str, ...] = ()
    env_names: tuple[str, ...] = ()
    members: tuple[Identity, ...] = ()
    shared_memory: tuple[SharedMemory, ...] = ()
    image: str = ""
    ready_at: float | None = None
    draining_at: float | None = None
    stopping_at: float | None = None
    again: str = ""
    translation: Translation = ()
    socket: str = ""

    @property
    def address(self) -> Address:
        return self.socket or self.lease.port


_ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (ReplicaRecord, Owned)}


def dump_record(record: ReplicaRecord) -> str:
    """A record as one line of text, to be kept next to what it describes."""
    return json.dumps({"schema": SCHEMA, "content": _ADAPTERS[ReplicaRecord].dump_python(record, mode="json")})


def load_record(where: Path, text: str) -> ReplicaRecord:
    """The inverse of `dump_record`. Raises UnreadableRecord."""
    return _parse(where, text, ReplicaRecord)


class Inventory:
    """The records in one folder. Reading costs one `stat` a record while nothing changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cache: dict[str, tuple[Stamp, Any]] = {}
        self._writing = threading.RLock()

    # ------------------------------------------------------------ replicas

    def replicas(self) -> tuple[ReplicaRecord, ...]:
        """All records, by id. Raises UnreadableRecord."""
        found = []
        for name in _names(self.folder / "replicas"):
            if name.startswith("."):
                continue
            record = self._read_replica(name)
            if record is not None:
                found.append(record)
        return tuple(sorted(found, key=_place_of))

    def replica(self, replica: ReplicaId) -> ReplicaRecord | None:
        """One record, or None if there is none. Raises UnreadableRecord."""
        return self._read_replica(self.replica_folder(replica).name)

    def write(self, record: ReplicaRecord) -> None:
        """Keep a record. Raises Retryable when the disk does not take it."""
        folder = self.replica_folder(record.id)
        with self._writing, _explained(folder):
            if not folder.is_dir():
                make_folder(folder)
            self._write(folder / RECORD, record)

    def change(self, replica: ReplicaId, **fields: Any) -> ReplicaRecord:
        """Change some fields of a record. Raises Retryable when it does not exist."""
        with self._writing:
            record = self.replica(replica)
            if record is None:
                raise Retryable(f"replica {replica} is not on record; the next pass will look again")
            changed = replace(record, **fields)
            if changed != record:
                self.write(changed)
            return changed

    def forget_replica(self, replica: ReplicaId) -> None:
        """Drop a replica's folder with all that is in it. Raises Retryable when the disk refuses."""
        folder = self.replica_folder(replica)
        with self._writing, _explained(folder):
            # Renamed first: a process killed while deleting leaves something that is recognised as garbage.
            gone = folder.with_name(_GONE + folder.name)
            shutil.rmtree(gone, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                folder.rename(gone)
                sync_folder(folder.parent)
                shutil.rmtree(gone)
            self._cache.pop(str(folder / RECORD), None)

    def sweep(self) -> None:
        """Drop what a killed daemon left half made or half deleted. Never touches a folder that may be a replica."""
        root = self.folder / "replicas"
        with self._writing:
            for name in _names(root):
                if name.startswith(_GONE) or set(_names(root / name)) <= {_PARTIAL}:
                    shutil.rmtree(root / name, ignore_errors=True)

    def replica_folder(self, replica: ReplicaId) -> Path:
        """Where a replica's record, log and temporary files are. Raises Terminal for an invalid name."""
        _checked(replica.service)
        if not _LABEL.fullmatch(replica.serial):
            raise Terminal(f'"{replica.serial}" cannot be the serial of a replica')
        return self.folder / "replicas" / str(replica)

    def _read_replica(self, name: str) -> ReplicaRecord | None:
        record = self._read(f"{self.folder}/replicas/{name}/{RECORD}", ReplicaRecord, name)
        if record is None:
            folder = self.folder / "replicas" / name
            # An empty folder was never used; one with a log but no record may belong to something that serves.
            if set(_names(folder)) - {_PARTIAL}:
                raise _unreadable(folder / RECORD, "it is missing, but its folder is in use")
        return record

    # ------------------------------------------------------------ services

    def services(self) -> Mapping[ServiceId, Owned]:
        """What we remember of every service. Raises UnreadableRecord."""
        found: dict[ServiceId, Owned] = {}
        for name in sorted(_names(self.folder / "services")):
            if name.startswith(".") or not name.endswith(".json"):
                continue
            owned = self._read(f"{self.folder}/services/{name}", Owned, name.removesuffix(".json"))
            if owned is not None:
                found[owned.id] = owned
        return found

    def service(self, service: ServiceId) -> Owned | None:
        """What we remember of one service, or None. Raises UnreadableRecord."""
        path = self._service_path(service)
        return self._read(str(path), Owned, path.stem)

    def remember_service(self, owned: Owned) -> None:
        """Keep what there is to remember of a service. Raises Retryable when the disk does not take it."""
        path = self._service_path(owned.id)
        with self._writing, _explained(path):
            make_folder(path.parent)
            self._write(path, owned)

    def forget_service(self, service: ServiceId) -> None:
        """Drop what we remember of a service. Raises Retryable when the disk refuses."""
        path = self._service_path(service)
        with self._writing, _explained(path), contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold off other writers of this process while something is read, changed and written."""
        with self._writing:
            yield

    def _service_path(self, service: ServiceId) -> Path:
        _checked(service)
        return self.folder / "services" / f"{_name_of(service)}.json"

    # ------------------------------------------------------------ files

    # A path is a text here: many are looked at in every pass.
    def _read(self, path: str, kind: type[T], name: str) -> T | None:
        """What is kept there, which must describe what it is named after."""
        try:
            info = os.stat(path)
        except FileNotFoundError:
            self._cache.pop(path, None)
            return None
        except OSError as error:
            raise _unreadable(Path(path), error.strerror or str(error)) from None
        stamp = stamp_from(info)
        known = self._cache.get(path)
        if known is None or known[0] != stamp:
            found: Any = _decode(Path(path), kind)
            if _name_of(found.id) != name:
                raise _unreadable(Path(path), f"it describes {found.id}, not {name}")
            known = self._cache[path] = (stamp, found)
        value: T = known[1]
        return value

    def _write(self, path: Path, value: ReplicaRecord | Owned) -> None:
        body = _ADAPTERS[type(value)].dump_python(value, mode="json")
        text = json.dumps({"schema": SCHEMA, "content": body}, indent=1, ensure_ascii=False)
        write_atomically(path, text.encode() + b"\n")


class TargetLock:
    """One daemon per target folder, held until it ends however it ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._file: int | None = None

    @property
    def is_held(self) -> bool:
        return self._file is not None

    def acquire(self) -> None:
        """Raises Terminal, naming the holder, if another process drives this folder; Retryable if the disk fails."""
        if self._file is not None:
            return
        with _explained(self._path):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _locked(file):
            holder = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise Terminal(
                f"{self._path.parent}: another reconciler (pid {holder}) drives this target; "
                "stop it, or give this one another state_dir"
            )
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def check(self) -> None:
        """Is it still the folder that was locked? Raises Retryable: without records all would be started twice."""
        if self._file is None:
            return
        held, there = os.fstat(self._file), None
        with contextlib.suppress(OSError):
            there = os.stat(self._path)
        if there is None or (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
            raise vanished(self._path.parent)

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _locked(file: int) -> bool:
    """Is it ours now? A child that a killed daemon was just starting holds its lock until it runs its program."""
    give_up_at = time.monotonic() + _FORKED
    while True:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > give_up_at or _is_alive(os.pread(file, 32, 0)):
            return False
        time.sleep(0.02)


def _is_alive(pid: bytes) -> bool:
    return pid.strip().isdigit() and Path(f"/proc/{int(pid)}").exists()


def vanished(folder: Path) -> Retryable:
    """The error if a folder of the daemon is not the one that it started with."""
    return Retryable(
        f"{folder} is no longer the folder that this daemon started with: it was moved, deleted or unmounted. Nothing "
        "is changed until it is back, and models keep serving; put it back. If it is lost, stop the replicas, "
        "then start the daemon again"
    )


def _name_of(thing: ReplicaId | ServiceId) -> str:
    return str(thing) if isinstance(thing, ReplicaId) else f"{thing.namespace}.{thing.name}"


def _place_of(record: ReplicaRecord) -> tuple[str, str, str]:
    """Where it stands in the order of ids."""
    return record.id.service.namespace, record.id.service.name, record.id.serial


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return _parse(path, path.read_bytes(), kind)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None


def _parse(path: Path, text: str | bytes, kind: type[T]) -> T:
    try:
        envelope = json.loads(text)
        if envelope["schema"] != SCHEMA:
            raise _unreadable(path, f"its schema is {envelope['schema']}, this reconciler reads {SCHEMA}")
        # Strict in JSON's sense: lists become tuples, but no text becomes a number.
        value: T = _ADAPTERS[kind].validate_json(json.dumps(envelope["content"]), strict=True)
        return value
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _unreadable(path, f"{where}: {first['msg']}") from None
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise _unreadable(path, f"it is not a record ({type(error).__name__})") from None


def _unreadable(path: Path, why: str) -> UnreadableRecord:
    return UnreadableRecord(
        f"{path}: cannot be read: {why}. Nothing is changed on this target meanwhile. Restore the file, or stop the "
        "replica that it describes and delete it"
    )


def _checked(service: ServiceId) -> None:
    for part in (service.namespace, service.name):
        if not _LABEL.fullmatch(part):
            raise Terminal(f'"{part}" in {service} is not a name that Kubernetes allows')


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error.strerror or str(error)) from None


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Retryable(cannot(error, path, "written", "check the disk and its permissions")) from None
