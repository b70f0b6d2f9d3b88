"""What a host runs for a spec: its interpreter, its folders, and its preflight."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import assert_never

from reconciler.config import settings as config
from reconciler.engines.container import Revealed, api_key
from reconciler.engines.environment import Folders, find_engine
from reconciler.engines.launch import Launch, PreflightQuestion, launch, question, without
from reconciler.engines.limits import Lacks
from reconciler.engines.preflight import engine_parts
from reconciler.engines.proposed import parser_question
from reconciler.errors import Retryable, Terminal, Unstartable
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.process import scratch
from reconciler.host.staging.stager import Stager
from reconciler.host.staging.weights import Ground, Served, find_folder, served_folders, watched
from reconciler.host.translator import Setup
from reconciler.model import EffectiveSpec, ReplicaId, ServiceId, Start
from reconciler.model.model_sources import is_fetched
from reconciler.secrets import SecretStore
from reconciler.secrets.store import find_files, find_parts, find_variables, is_secret_name, secret_ref
from reconciler.system import procfs
from reconciler.system.readability import Reader

_API_KEY = b"VLLM_API_KEY="


def home_of(folder: Path, engine: config.EngineSettings) -> str:
    """Shared by all replicas of one engine on a host: its caches live there and must survive them."""
    return _home_of(str(folder), engine.called)


# Asked for every service in every pass.
@lru_cache
def _home_of(folder: str, engine: str) -> str:
    return str(Path(folder).absolute() / "home" / _key_of(engine))


def _key_of(engine: str) -> str:
    return hashlib.sha256(os.fsencode(engine)).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class ReplicaFiles:
    """Where a replica finds its files.

    `paths` is what becomes of folders that its arguments name; `mounts` is what has to be put there for it instead.
    """

    folders: Folders
    paths: Mapping[str, str]
    mounts: Mapping[str, str]


def place_of(
    settings: config.HostSettings,
    folder: Path,
    engine: config.EngineSettings,
    paths: Mapping[str, str],
    replica: ReplicaId | None = None,
) -> ReplicaFiles:
    """A unit sees the models where the container would, and has a /tmp of its own; a child process sees the host's.

    Without a replica, folders that are its alone are shown as names in brackets.
    """
    match settings.kind:
        case "process":
            return _place_of_child(folder, engine, paths, replica)
        case "systemd":
            return _place_of_unit(folder, engine, paths, replica)
        case _:
            assert_never(settings.kind)


def _place_of_unit(
    folder: Path, engine: config.EngineSettings, paths: Mapping[str, str], replica: ReplicaId | None
) -> ReplicaFiles:
    from reconciler.host.systemd.replica_unit import PRIVATE, TMP
    from reconciler.host.systemd.unit import CACHES

    home = f"{CACHES}/reconciler/{_key_of(engine.called)}"
    socket = scratch.unit_socket(folder, replica) if replica else ""
    return ReplicaFiles(Folders(home, TMP, PRIVATE, socket), {path: path for path in paths}, paths)


def _place_of_child(
    folder: Path, engine: config.EngineSettings, paths: Mapping[str, str], replica: ReplicaId | None
) -> ReplicaFiles:
    if replica is None:
        return ReplicaFiles(Folders(home_of(folder, engine), "<tmp>", "<private>"), paths, {})
    tmp, private = scratch.folder_of(folder, replica), scratch.private_of(folder, replica)
    socket = scratch.child_socket(folder, replica)
    return ReplicaFiles(Folders(home_of(folder, engine), str(tmp), str(private), socket), paths, {})


class Workloads:
    """Translates specs to this host, by its config. `secrets` are looked up at every start.

    `find_image` tells the ID of a local image; it may raise Retryable.
    """

    def __init__(
        self,
        settings: config.HostSettings,
        folder: Path,
        secrets: Callable[[], SecretStore],
        stager: Stager,
        closed: tuple[Path, ...],
        lacks: Lacks,
        find_image: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._lacks = lacks
        self._settings = settings
        self._ground = Ground(settings.volumes, (folder.absolute(), *closed))
        self._folder = folder
        self._secrets = secrets
        self._stager = stager
        self._find_image = find_image

    def launch(self, start: Start, setup: Setup | None = None) -> Launch:
        """The process of one replica; `setup` is another one than today's config has.

        Raises Terminal when the host has not what it needs, Retryable for a Secret.
        """
        engine = setup.engine if setup else self._engine(start.spec)
        ground = replace(self._ground, volumes=setup.volumes) if setup else self._ground
        service = start.replica.service
        served = self._served(service, start.spec, ground, engine)
        paths = {path: str(each.folder) for path, each in served.items()}
        place = place_of(self._settings, self._folder, engine, paths, start.replica)
        secrets = reveal(start.spec, service.namespace, engine.env, self._secrets())
        secrets = replace(secrets, fields=fields_of(start.replica))
        try:
            found = launch(
                start.spec, engine, service, start.lease, place.paths, start.drain_timeout, place.folders, secrets
            )
            image = self._image(start.spec, engine)
            found = without(found, self._lacks.of(engine_parts(Path(found.argv[0]), image)), start.lease)
            pins = {path: each.inode for path, each in served.items() if each.inode is not None}
            return replace(found, mounts=place.mounts, pins=pins, image=image)
        except ValueError as error:
            raise Unstartable(f"replica {start.replica}: {error}") from None

    def question(self, service: ServiceId, spec: EffectiveSpec) -> PreflightQuestion:
        """The preflight of the installed engine.

        Raises Terminal when the host has no engine for it; Retryable for files.
        """
        engine = self._engine(spec)
        try:
            served = self._served(service, spec, self._ground, engine)
            paths = {path: str(each.folder) for path, each in served.items()}
            place = place_of(self._settings, self._folder, engine, paths)
            asked = question(spec, engine, paths, place.folders.home, mounted=bool(place.mounts))
            return replace(asked, image=self._image(spec, engine)) if engine.podman else asked
        except ValueError as error:
            raise Terminal(str(error)) from None

    def files(self, service: ServiceId, spec: EffectiveSpec, asked: PreflightQuestion) -> Iterator[str]:
        """The files and folders that a question was made from: while they and the image stay, it stays."""
        for mount in spec.mounts:
            if is_fetched(mount.uri):
                yield self._stager.state_file(service, mount)
            else:
                # A link may lead elsewhere by now.
                yield str(find_folder(mount.uri, self._settings.volumes))
        yield from watched(spec, asked.paths)

    def image(self, spec: EffectiveSpec) -> str:
        """The ID of the local image that a spec runs in; empty: it needs none. Raises as `question` does."""
        return self._image(spec, self._engine(spec))

    def api_key(self, record: ReplicaRecord) -> str | None:
        """The key that a replica was started with:

        a Secret may have changed since, and only the process has the old one.
        """
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

    def _engine(self, spec: EffectiveSpec) -> config.EngineSettings:
        engine = find_engine(spec.image, self._settings.engines)
        if engine is None:
            raise Terminal(f"nothing on this host runs the image {spec.image}; add it to engines in the config")
        return engine

    def _image(self, spec: EffectiveSpec, engine: config.EngineSettings) -> str:
        if not engine.podman:
            return ""
        found = self._find_image(spec.image)
        if found is None:
            # No commit is to blame: it is pulled again.
            raise Retryable(f"image {spec.image}: not on this host yet, or not there any more")
        return found

    def _served(
        self, service: ServiceId, spec: EffectiveSpec, ground: Ground, engine: config.EngineSettings
    ) -> dict[str, Served]:
        user = self._settings.replica_user
        reader = None if user is None else Reader(user, engine.podman)
        return served_folders(spec, replace(ground, reader=reader), partial(self._stager.find, service))


class ProposedWorkloads(Workloads):
    """Of a revision that nobody has accepted yet: nothing of it runs, not even for a preflight."""

    def question(self, service: ServiceId, spec: EffectiveSpec) -> PreflightQuestion:
        """What the engine's parser alone can be asked. Raises Retryable as well where even that would run something."""
        asked = parser_question(super().question(service, spec))
        # The config's own may hold secrets, which a parser needs none of.
        return replace(asked, env={name: value for name, value in asked.env.items() if not is_secret_name(name)})


def reveal(spec: EffectiveSpec, namespace: str, given: Collection[str], store: SecretStore) -> Revealed:
    """The values of a spec's references now; not those that the config sets. Raises Retryable when one is missing."""
    desired = replace(spec, env=tuple(each for each in spec.env if each.name not in given))
    files = {mount: find_files(mount, namespace, store) for mount in spec.secrets}
    return Revealed(find_variables(desired, namespace, store), files, find_parts(spec, namespace, store))


def fields_of(replica: ReplicaId) -> Mapping[str, str]:
    """The pod fields that a replica would get in its own pod."""
    return {
        "metadata.name": f"{replica.service.name}-{replica.serial}",
        "metadata.uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"reconciler:{replica}")),
    }
