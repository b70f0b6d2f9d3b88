"""What a host runs for a spec: its interpreter, its folders, and what the installed engine is asked about it first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from reconciler import config, procfs
from reconciler.engines.images import find_engine
from reconciler.engines.launch import Folders, Launch, Question, Revealed, api_key, launch, question
from reconciler.engines.preflight import Begin, PreflightRunner, key_of
from reconciler.errors import Retryable, Terminal
from reconciler.inventory import ReplicaRecord
from reconciler.model import AskPreflight, Desired, EffectiveSpec, Preflight, Reason, ReplicaId, ServiceId, Start
from reconciler.secrets import SecretStore
from reconciler.secrets.wanted import find_files, find_variables, secret_ref
from reconciler.targets import scratch
from reconciler.targets.fits import Fits
from reconciler.targets.stager import Stager
from reconciler.targets.systemd.replica import PRIVATE, TMP
from reconciler.targets.systemd.unit import CACHES
from reconciler.targets.weights import Ground, Unusable, folders_of

_API_KEY = b"VLLM_API_KEY="


def home_of(folder: Path, engine: config.Engine) -> str:
    """Shared by all replicas of one engine on a host: its caches live there and must survive them."""
    return _home_of(str(folder), engine.called)


# Asked for every service in every pass.
@lru_cache
def _home_of(folder: str, engine: str) -> str:
    return str(Path(folder).absolute() / "home" / _key_of(engine))


def _key_of(engine: str) -> str:
    return hashlib.sha256(os.fsencode(engine)).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica finds its files.

    `paths` is what becomes of folders that its arguments name; `mounts` is what has to be put there for it instead.
    """

    folders: Folders
    paths: Mapping[str, str]
    mounts: Mapping[str, str]


def place_of(
    settings: config.HostTarget,
    folder: Path,
    engine: config.Engine,
    paths: Mapping[str, str],
    replica: ReplicaId | None = None,
) -> Place:
    """A unit sees the models where the container would, and has a /tmp of its own; a child process sees the host's.

    Without a replica, folders that are its alone stand as words in brackets.
    """
    if settings.kind == "systemd":
        home = f"{CACHES}/reconciler/{_key_of(engine.called)}"
        return Place(Folders(home, TMP, PRIVATE), {path: path for path in paths}, paths)
    if replica is None:
        return Place(Folders(home_of(folder, engine), "<tmp>", "<private>"), paths, {})
    tmp, private = scratch.folder_of(folder, replica), scratch.private_of(folder, replica)
    return Place(Folders(home_of(folder, engine), str(tmp), str(private)), paths, {})


class Workloads:
    """Translates specs to this host, by its config. `secrets` are looked up at every start.

    `find_image` tells the ID of a local image; it may raise Retryable.
    """

    def __init__(
        self,
        settings: config.HostTarget,
        folder: Path,
        secrets: Callable[[], SecretStore],
        stager: Stager,
        closed: tuple[Path, ...],
        find_image: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._settings = settings
        reader = settings.user if settings.kind == "systemd" else ""
        self._ground = Ground(settings.volumes, (folder.absolute(), *closed), reader)
        self._folder = folder
        self._secrets = secrets
        self._stager = stager
        self._find_image = find_image

    def launch(self, start: Start) -> Launch:
        """The process of one replica. Raises Terminal when the host has not what it needs, Retryable for a Secret."""
        engine = self._engine(start.spec)
        service = start.replica.service
        place = place_of(self._settings, self._folder, engine, self._model_paths(service, start.spec), start.replica)
        secrets = reveal(start.spec, service.namespace, engine.env, self._secrets())
        try:
            found = launch(
                start.spec, engine, service, start.lease, place.paths, start.drain_timeout, place.folders, secrets
            )
            return replace(found, mounts=place.mounts, image=self._image(start.spec, engine))
        except ValueError as error:
            raise Terminal(f"replica {start.replica}: {error}") from None

    def question(self, service: ServiceId, spec: EffectiveSpec) -> Question:
        """What to ask the installed engine. Raises Terminal when the host lacks something; Retryable for files."""
        engine = self._engine(spec)
        try:
            paths = self._model_paths(service, spec)
            place = place_of(self._settings, self._folder, engine, paths)
            asked = question(spec, engine, paths, place.folders.home, mounted=bool(place.mounts))
            return replace(asked, image=self._image(spec, engine)) if engine.podman else asked
        except ValueError as error:
            raise Terminal(str(error)) from None

    def api_key(self, record: ReplicaRecord) -> str | None:
        """The key that a replica was started with: a Secret may have changed since, and the process alone knows."""
        spec = record.spec
        if (key := api_key(spec)) or not any(secret_ref(each) for each in spec.env):
            return key
        if record.process is not None and procfs.is_running(record.process):
            # Of a container, the main process is podman's, and the engine its child.
            for pid in (record.process.pid, *procfs.children(record.process.pid)):
                for entry in procfs.read_environment(pid):
                    if entry.startswith(_API_KEY):
                        return os.fsdecode(entry[len(_API_KEY) :]) or None
        with suppress(Retryable, Terminal):
            # It was started only now.
            engine = self._engine(spec)
            return api_key(spec, reveal(spec, record.id.service.namespace, engine.env, self._secrets()))
        return None

    def _engine(self, spec: EffectiveSpec) -> config.Engine:
        engine = find_engine(spec.image, self._settings.engines)
        if engine is None:
            raise Terminal(f"nothing on this host runs the image {spec.image}; add it to engines in the config")
        return engine

    def _image(self, spec: EffectiveSpec, engine: config.Engine) -> str:
        if not engine.podman:
            return ""
        found = self._find_image(spec.image)
        if found is None:
            # Nobody's commit is to blame: it is pulled again.
            raise Retryable(f"image {spec.image}: not on this host yet, or not there any more")
        return found

    def _model_paths(self, service: ServiceId, spec: EffectiveSpec) -> dict[str, str]:
        found = folders_of(spec, self._ground, partial(self._stager.find, service))
        return {path: str(folder) for path, folder in found.items()}


def reveal(spec: EffectiveSpec, namespace: str, given: Collection[str], store: SecretStore) -> Revealed:
    """What a spec's references stand for now; not those that the config gives. Raises Retryable when one is missing."""
    wanted = replace(spec, env=tuple(each for each in spec.env if each.name not in given))
    files = {mount: find_files(mount, namespace, store) for mount in spec.secrets}
    return Revealed(find_variables(wanted, namespace, store), files)


class Preflights:
    """The verdicts on wanted specs: the engine's own, kept on disk; and missing weights, seen anew every time."""

    def __init__(self, workloads: Workloads, cache: Path, wake: Callable[[], None], fits: Fits, begin: Begin) -> None:
        self._workloads = workloads
        self._fits = fits
        self._wake = wake
        self._runner = PreflightRunner(cache, wake, begin=begin)
        self._refused: dict[str, Preflight] = {}

    def ask(self, action: AskPreflight) -> None:
        """Begin to ask. Raises Retryable when no answer is possible now."""
        try:
            asked = self._workloads.question(action.service, action.spec)
        except Terminal as error:
            code = error.code if isinstance(error, Unusable) else "WeightsMissing"
            reason = Reason(code, str(error), action.origin)
            self._refused[action.digest] = Preflight("", reasons=(reason,))
            self._wake()
            return
        self._runner.ask(asked)

    def look_up(self, wanted: Iterable[Desired]) -> tuple[dict[str, Preflight], frozenset[str]]:
        """The verdicts known by digest, and the digests that are being asked about."""
        known: dict[str, Preflight] = {}
        asking: set[str] = set()
        pending = self._runner.pending()
        for service in wanted:
            key = self._key(service, known)
            if key is None or service.spec is None:
                continue
            asked, name = key
            verdict = self._runner.result(name)
            if verdict is not None:
                said = verdict.about(asked, service.spec, service.argument_origins, service.origin)
                known[service.digest] = replace(said, fit=self._fits.of(name, asked, service.spec, verdict))
            elif name in pending:
                asking.add(service.digest)
        return known, frozenset(asking)

    def note_start(self, service: ServiceId, spec: EffectiveSpec, log: Iterable[str]) -> None:
        """A replica of this spec became ready, and this is its log: keep what it says of memory."""
        with suppress(Retryable, Terminal):
            asked = self._workloads.question(service, spec)
            name = key_of(asked)
            if verdict := self._runner.result(name):
                self._fits.note(name, asked, spec, verdict, log)

    def close(self) -> None:
        self._runner.close()

    def _key(self, service: Desired, known: dict[str, Preflight]) -> tuple[Question, str] | None:
        if service.spec is None:
            return None
        try:
            asked = self._workloads.question(service.id, service.spec)
        except Retryable:
            return None
        except Terminal:
            if service.digest in self._refused:
                known[service.digest] = self._refused[service.digest]
            return None
        # The files are there now: what was said before does not hold any more.
        self._refused.pop(service.digest, None)
        return asked, key_of(asked)
