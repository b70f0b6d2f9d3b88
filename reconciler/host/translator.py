"""What today's config makes of specs, and whether an earlier translation can still be reproduced."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.config import settings as config
from reconciler.engines.environment import find_engine
from reconciler.engines.preflight import engine_version
from reconciler.errors import ReconcileError
from reconciler.fault_isolation import Faults
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.translation import ENV, RESTART, hashed, is_current, make_translation
from reconciler.model import Desired, EffectiveSpec, Outdated, Owned, ServiceId, Translation
from reconciler.model.model_sources import is_fetched
from reconciler.system import procfs

_PYTHON, _VERSION, _PODMAN = "engines[].python", "vLLM of engines[].python", "engines[].podman"
_VOLUME, _STORAGE, _USER = "volumes.", "storage.folder", "user"
_PVC = "pvc://"


@dataclass(frozen=True, slots=True)
class Setup:
    """What starts a replica: the engine, and the folder behind each volume."""

    engine: config.EngineSettings
    volumes: Mapping[str, Path]


@dataclass(slots=True)
class _KnownTranslation:
    desired: Desired
    restart: str
    versions: tuple[str, ...]
    translation: Translation


_Seen = tuple[tuple[Desired, ...], tuple[ReplicaRecord, ...], tuple[Owned, ...], tuple[str, ...]]


class Translator:
    """By one target's config. What it remembers is a cache."""

    def __init__(self, settings: config.HostSettings, kept: Callable[[], Mapping[str, str]] = dict) -> None:
        """`kept`: values of variables that something on record was started with, by their hashes."""
        self._settings = settings
        self._kept = kept
        self._known: dict[tuple[ServiceId, str], _KnownTranslation] = {}
        self._all_current: _Seen | None = None

    def of(self, spec: EffectiveSpec, owned: Owned | None) -> Translation:
        """What the config makes of a spec now; empty if it has no engine for its image."""
        engine = find_engine(spec.image, self._settings.engines)
        return self._make(spec, engine, owned.restart if owned else "") if engine else ()

    def outdated(
        self,
        wanted: Iterable[Desired],
        records: Iterable[ReplicaRecord],
        owned: Mapping[ServiceId, Owned],
        faults: Faults,
    ) -> dict[tuple[ServiceId, str], Outdated]:
        """Desired digests whose recorded translation differs from today's config.

        A service that makes us raise is noted in `faults`.
        """
        versions = self._versions()
        seen = (tuple(wanted), tuple(records), tuple(owned.values()), versions)
        # In most passes everything is the very same as in the one before: to see that costs next to nothing.
        if seen == self._all_current:
            return {}
        found = self._find(seen[0], seen[1], owned, versions, faults)
        self._all_current = None if found or faults.bugs else seen
        return found

    def _find(
        self,
        wanted: Iterable[Desired],
        records: Iterable[ReplicaRecord],
        owned: Mapping[ServiceId, Owned],
        versions: tuple[str, ...],
        faults: Faults,
    ) -> dict[tuple[ServiceId, str], Outdated]:
        made: dict[tuple[ServiceId, str], list[Translation]] = {}
        for record in records:
            made.setdefault((record.id.service, record.digest), []).append(record.translation)
        now: dict[tuple[ServiceId, str], _KnownTranslation] = {}
        found: dict[tuple[ServiceId, str], Outdated] = {}
        for desired in wanted:
            if desired.spec is None:
                continue
            key, mine = (desired.id, desired.digest), owned.get(desired.id)
            try:
                now[key] = known = self._know(desired, desired.spec, mine, versions)
                last = mine.promoted if mine else None
                before = [*made.get(key, ()), *([last.translation] if last and last.digest == desired.digest else ())]
                if not all(is_current(each, known.translation) for each in before):
                    found[key] = self._outdated(known, mine)
            except ReconcileError:
                raise
            except Exception as error:
                faults.note(desired.id, error, desired.origin)
        self._known = now
        return found

    def restored(self, spec: EffectiveSpec, before: Translation) -> Setup | None:
        """What made a translation, once more; None when that is not possible any more."""
        parts = dict(before)
        engine = find_engine(spec.image, self._settings.engines) or _removed_engine(spec.image, parts)
        env = self._env_before(parts, engine) if engine else None
        if engine is None or env is None or not self._is_possible(parts, engine):
            return None
        volumes = {key.removeprefix(_VOLUME): Path(path) for key, path in parts.items() if key.startswith(_VOLUME)}
        python = Path(parts[_PYTHON]) if _PYTHON in parts else None
        again = config.EngineSettings(image=engine.image, python=python, podman=python is None, env=env)
        return Setup(again, {**self._settings.volumes, **volumes})

    def _is_possible(self, parts: Mapping[str, str], engine: config.EngineSettings) -> bool:
        python = parts.get(_PYTHON)
        if python is None and not engine.podman:
            return False
        if python is not None and not os.access(python, os.X_OK):
            return False
        if python is not None and parts.get(_VERSION) and _version(Path(python)) != parts[_VERSION]:
            return False
        if parts.get(_USER, self._user) != self._user:
            return False
        return all(Path(path).is_dir() for key, path in parts.items() if key.startswith(_VOLUME))

    def _env_before(self, parts: Mapping[str, str], engine: config.EngineSettings) -> dict[str, str] | None:
        """The variables that stand behind these hashes; None where a value is not known any more."""
        wanted = {key.removeprefix(ENV): value for key, value in parts.items() if key.startswith(ENV)}
        known = {hashed(value): value for value in engine.env.values()}
        if not known.keys() >= {*wanted.values()}:
            known |= self._kept()
        found = {name: known.get(value) for name, value in wanted.items()}
        return None if None in found.values() else {name: value for name, value in found.items() if value is not None}

    @property
    def _user(self) -> str:
        return self._settings.replica_user or ""

    def _versions(self) -> tuple[str, ...]:
        return tuple(_version(each.python) if each.python else "" for each in self._settings.engines)

    def _know(
        self, desired: Desired, spec: EffectiveSpec, owned: Owned | None, versions: tuple[str, ...]
    ) -> _KnownTranslation:
        """A wish with its translation, worked out once for as long as nothing of it changes."""
        restart = owned.restart if owned else ""
        known = self._known.get((desired.id, desired.digest))
        if known is None or (known.desired is not desired or known.restart != restart or known.versions != versions):
            engine = find_engine(spec.image, self._settings.engines)
            known = _KnownTranslation(desired, restart, versions, self._make(spec, engine, restart))
        return known

    def _outdated(self, known: _KnownTranslation, owned: Owned | None) -> Outdated:
        last = owned.promoted if owned else None
        possible = last is not None and self.restored(last.spec, last.translation) is not None
        return Outdated(known.translation, possible)

    def _make(self, spec: EffectiveSpec, engine: config.EngineSettings | None, restart: str) -> Translation:
        parts = _engine_parts(engine) if engine else {}
        for mount in spec.mounts:
            name = mount.uri.removeprefix(_PVC).partition("/")[0] if mount.uri.startswith(_PVC) else ""
            if name in self._settings.volumes:
                parts[f"{_VOLUME}{name}"] = str(self._settings.volumes[name])
            elif is_fetched(mount.uri):
                parts[_STORAGE] = str(self._settings.storage.folder or "models in state_dir")
        if self._user:
            parts[_USER] = self._user
        if restart:
            parts[RESTART] = restart
        return make_translation(parts)


def _engine_parts(engine: config.EngineSettings) -> dict[str, str]:
    if engine.python is None:
        return {_PODMAN: "true", **_env(engine)}
    return {_PYTHON: str(engine.python), _VERSION: _version(engine.python), **_env(engine)}


def _removed_engine(image: str, parts: Mapping[str, str]) -> config.EngineSettings | None:
    """An entry that the config has no more is known by its interpreter."""
    return config.EngineSettings(image=image, python=Path(parts[_PYTHON])) if _PYTHON in parts else None


def _env(engine: config.EngineSettings) -> dict[str, str]:
    return {f"{ENV}{name}": hashed(value) for name, value in engine.env.items()}


def _version(python: Path) -> str:
    """The engine's version without the time of its installation; empty if unknown just now."""
    return ", ".join(word.removesuffix(".dist-info") for word in engine_version(python).split() if word[:1].isalpha())


# ---------------------------------------------------------------- values that the config may not have any more
# They are written down nowhere: only the processes know them, and we while we have seen these run.


class KeptValues:
    """By their hashes. `records` are all replicas on record."""

    def __init__(self, records: Callable[[], Iterable[ReplicaRecord]]) -> None:
        self._records = records
        self._known: dict[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """Every value that is known, by its hash."""
        for record in self._records():
            missing = {value for key, value in record.translation if key.startswith(ENV)} - self._known.keys()
            found = _values(record) if missing else ()
            self._known |= {key: value for value in found if (key := hashed(value)) in missing}
        return self._known


def _values(record: ReplicaRecord) -> Iterator[str]:
    if record.process is None or not procfs.is_running(record.process):
        return
    # Of a container, the main process is podman's, and the engine its child.
    for pid in (record.process.pid, *procfs.children(record.process.pid)):
        for entry in procfs.read_environment(pid):
            yield os.fsdecode(entry).partition("=")[2]
