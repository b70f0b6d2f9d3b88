"""Whether desired specs fit in this host's memory, and what this machine may give to replicas altogether.

A folder holds one small file for each model and engine, written after a start.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from reconciler.config import settings as config
from reconciler.engines.environment import replace_paths
from reconciler.engines.fit import NEVER_STARTED, MemoryBudget, Past, estimate, overhead_of, room_of, unknown
from reconciler.engines.fit_files import MeasuredMemory, UnreadableModel, read_figures, read_json, read_weights
from reconciler.engines.fit_model import MemoryArguments, arguments_of, shape_of
from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.preflight import key_of_model
from reconciler.engines.verdict import PreflightVerdict
from reconciler.host.gpus.devices import Gpus
from reconciler.kserve.quantity import cpu_millis, memory_bytes
from reconciler.model import Capacity, EffectiveSpec, Fit, Gpu, Resources
from reconciler.system import procfs
from reconciler.system.files import write_atomically


class Machine:
    """One host, within the limits of its config."""

    def __init__(self, settings: config.HostSettings, gpus: Gpus) -> None:
        self._gpus = gpus
        self._ports = settings.port_range
        limits = settings.allocatable
        self._cpu = _least((os.cpu_count() or 1) * 1000, limits.cpu, cpu_millis)
        self._memory = _least(_memory_total(), limits.memory, memory_bytes)

    @property
    def memory_bytes(self) -> int:
        """What replicas may take of this host's memory altogether."""
        return self._memory

    def gpus(self) -> tuple[Gpu, ...]:
        """Raises Retryable when the GPUs cannot be listed."""
        return self._gpus.list()

    def capacity(self, leased: Iterable[int]) -> Capacity:
        """Raises Retryable when the GPUs cannot be listed."""
        held, taken = frozenset(leased), procfs.listeners()
        # Most replicas listen on a socket, and need their port for nothing: one that is taken is better than none.
        ports = sorted((port for port in self._ports if port not in held), key=lambda port: port in taken)
        return Capacity(self._cpu, self._memory, self._gpus.list(), tuple(ports))


def _least(have: int, limit: str | None, parse: Callable[[str], int]) -> int:
    return have if limit is None else min(have, parse(limit))


def _memory_total() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class Reservations:
    """Ports, and GPUs by their UUID, each with a text about who holds it."""

    ports: frozenset[int] = frozenset()
    gpus: Mapping[str, str] = field(default_factory=dict)


NOTHING = Reservations()
# Raises Retryable when a record cannot be read.
Reserved = Callable[[], Reservations]


_STARTS_KEPT = 32
_Key = tuple[str, Resources, tuple[Gpu, ...]]


def look_at(model: Path, given: MemoryArguments, room: MemoryBudget, past: Past = NEVER_STARTED) -> Fit:
    """The fit of one model's folder (or file), from its own files."""
    folder = model if model.is_dir() else model.parent
    try:
        config = read_json(folder / "config.json")
        shape = shape_of(config or {}, read_json(folder / "tokenizer_config.json"))
        weights = read_weights(model, shape.layers or None, shape.is_tied)
        if config is None:
            # What of the files is not loaded only the config would tell.
            weights = replace(weights, exact=False)
    except UnreadableModel as error:
        return unknown(str(error), room)
    return estimate(weights, shape, given, room, past)


def local_model(given: MemoryArguments, asked: PreflightQuestion) -> Path | None:
    """The folder on this host of the model that the arguments name; None if they name none."""
    path = Path(replace_paths(given.model, asked.paths)) if given.model else None
    return path if path is not None and path.is_absolute() else None


@dataclass(frozen=True, slots=True)
class _Subject:
    """One spec as its arguments and this host make it."""

    given: MemoryArguments
    room: MemoryBudget
    model: Path | None


class Fits:
    """Results are cached while question, resources, GPUs and the model's folder stay: a pass reads nothing again."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self._folder = folder
        self._machine = machine
        self._writing = threading.Lock()
        self._known: dict[_Key, tuple[Path | None, int, Fit]] = {}

    def of(self, key: str, asked: PreflightQuestion, spec: EffectiveSpec, verdict: PreflightVerdict) -> Fit:
        """The fit of a spec; `key` is its question's. Raises Retryable when the GPUs cannot be listed."""
        # One question may be asked for services that ask for different amounts, and a driver may come back.
        kept = (key, spec.resources, self._machine.gpus())
        known = self._known.get(kept)
        if known is not None and known[1] == _time_of(known[0]):
            return known[2]
        subject = self._subject(asked, spec, verdict)
        stamp = _time_of(subject.model)
        fit = self._judge(subject, key, asked)
        self._known[kept] = (subject.model, stamp, fit)
        return fit

    def note(
        self, key: str, asked: PreflightQuestion, spec: EffectiveSpec, verdict: PreflightVerdict, log: Iterable[str]
    ) -> None:
        """Keep the memory figures of a replica that just became ready. What cannot be kept stays unknown."""
        figures = read_figures(log)
        if figures is None:
            return
        subject = self._subject(asked, spec, verdict)
        weights = self.of(key, asked, spec, verdict).weights_bytes or 0
        overhead = overhead_of(figures, subject.room, subject.given, weights)
        with self._writing, contextlib.suppress(OSError):
            _add(self._path(asked), key, figures, overhead)
        # Others of this model learn of its overhead.
        self._known.clear()

    def keep(self, asked: Iterable[PreflightQuestion]) -> None:
        """Delete the figures of other models. What cannot be deleted is deleted another time."""
        kept = {self._path(question) for question in asked}
        for path in self._folder.glob("*.json"):
            if path not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _subject(self, asked: PreflightQuestion, spec: EffectiveSpec, verdict: PreflightVerdict) -> _Subject:
        room = room_of(spec.resources, self._machine.gpus(), self._machine.memory_bytes, verdict.gpus)
        given = arguments_of(verdict.parsed, asked.argv, {} if room.gpus else asked.env)
        return _Subject(given, room, local_model(given, asked))

    def _judge(self, subject: _Subject, key: str, asked: PreflightQuestion) -> Fit:
        if subject.model is None:
            return unknown(f"its model {subject.given.model or ''} is not a folder on this host", subject.room)
        kept = _read(self._path(asked))
        past = Past(_figures(kept["starts"].get(key)), kept["overhead"])
        return look_at(subject.model, subject.given, subject.room, past)

    def _path(self, asked: PreflightQuestion) -> Path:
        return self._folder / f"{key_of_model(asked)}.json"


def _time_of(path: Path | None) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns if path else 0
    return 0


def _add(path: Path, key: str, figures: MeasuredMemory, overhead: int | None) -> None:
    """One more start, the latest at the end. Raises OSError."""
    kept = _read(path)
    starts = {name: each for name, each in kept["starts"].items() if name != key} | {key: asdict(figures)}
    after = {
        "starts": dict(list(starts.items())[-_STARTS_KEPT:]),
        "overhead": kept["overhead"] if overhead is None else overhead,
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(after, indent=1).encode() + b"\n")


def _read(path: Path) -> dict[str, Any]:
    """What earlier starts left; a file that is no such thing counts as none."""
    with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        found = json.loads(path.read_bytes())
        overhead = found["overhead"]
        return {"starts": dict(found["starts"]), "overhead": overhead if type(overhead) is int else None}
    return {"starts": {}, "overhead": None}


def _figures(kept: Any) -> MeasuredMemory | None:
    try:
        found = MeasuredMemory(**kept)
    except TypeError:
        return None
    return found if all(isinstance(each, int | float | None) for each in kept.values()) else None
