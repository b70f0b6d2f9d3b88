"""What one host makes of a tree, in addition to KServe's verdict: `render` and `validate` with a target. Nothing is
asked.

The host is known by its settings, and on the host itself by what it has; so this works far from it too. Whether the
models are there, whether GPUs are free and whether the installed engine takes the arguments, only `plan` can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from reconciler.config.settings import EngineSettings, HostSettings
from reconciler.desired import HOST_MODE, as_kserve_sees, build_desired
from reconciler.desired.blockers import closed_arguments
from reconciler.desired.limits import MAX_FINDINGS, first
from reconciler.desired.origins import locator
from reconciler.desired.resources import never_here, not_at_once
from reconciler.engines.container import GIVEN_AT_START, Revealed
from reconciler.engines.environment import find_engine
from reconciler.engines.file_arguments import CLOSED, is_below
from reconciler.engines.fit import MemoryBudget, room_of
from reconciler.engines.fit_model import arguments_of
from reconciler.engines.launch import Launch, launch, question
from reconciler.errors import Retryable, Terminal
from reconciler.host.checks.fits import Machine, local_model, look_at
from reconciler.host.checks.start_checks import unusable_arguments, unusable_variables
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.routing.resources import accepted_models, host_names, other_models
from reconciler.host.staging.weights import find_folder
from reconciler.host.systemd.replica_unit import plan_unit
from reconciler.host.systemd.unit import build_unit
from reconciler.host.workload import home_of, place_of
from reconciler.kserve.quantity import memory_bytes
from reconciler.manifests import Manifests
from reconciler.model import (
    Argument,
    Capacity,
    Desired,
    DesiredState,
    EffectiveSpec,
    Lease,
    Origin,
    Reason,
    ReasonCode,
    ReplicaId,
    ServiceId,
    Snapshot,
    Strategy,
    is_under,
    texts,
)
from reconciler.model.model_sources import is_fetched
from reconciler.preview import on_cluster
from reconciler.preview.on_cluster import Document
from reconciler.report.redact import scrub
from reconciler.report.status_parts import fit_document
from reconciler.secrets import SecretSources

# What only a start can determine is shown as a name in brackets.
_GPU, _MODEL, _IMAGE, _OWNER = "<gpu>", "<fetched model>", "<image id>", "<uid>:<gid>"
_PORTS = {f"{flag}=0": f"{flag}=<port>" for flag in ("--port", "--grpc-port")}
_UNSTARTED = Revealed(fields={name: f"<{name}>" for name in GIVEN_AT_START})
# A document that a host can do nothing with: a sync goes on without it, but its author should know.


def validate_on(
    manifests: Manifests, target: HostSettings, closed: tuple[Path, ...] = (), folder: Path | None = None
) -> Document:
    """The document of `validate`, with what this host refuses and what it would do otherwise than a cluster.

    `closed` are folders and files of the host that no service may name, and `folder` is the target's state.
    """
    capacity = _measured(target, folder)
    place, wanted = _look(manifests, target, capacity)
    verdict = on_cluster.validate(manifests, place, locator(manifests, place.default_namespace))
    errors = _merged(verdict["errors"], [*_refusals(wanted), *_closed(wanted, target, closed)])
    crowded = tuple(not_at_once(wanted.services, target, capacity))
    doubts = [*_doubtful_names(manifests, wanted, target), *first(crowded, MAX_FINDINGS)]
    not_checked = verdict["notChecked"]
    warnings = _merged(verdict["warnings"], [*_warnings(wanted), *doubts])
    return on_cluster.verdict_of(errors, [each for each in warnings if each not in not_checked], not_checked)


def render_on(manifests: Manifests, target: HostSettings, folder: Path) -> Document:
    """The document of `render`; each service says as `host` what would be started. `folder` is the target's state."""
    place, wanted = _look(manifests, target, _measured(target, folder))
    document = on_cluster.render(manifests, place)
    found = {each.id: each for each in wanted.services}
    for service in document["services"]:
        desired = found.get(ServiceId(service["namespace"], service["name"]))
        service["host"] = _host(desired, target, folder) if desired else None
        problems = [{"reason": each.code, "message": each.message} for each in (desired.problems if desired else ())]
        service["errors"] += [each for each in problems if each not in service["errors"]]
        doubts = [each for each in (desired.blocked if desired else ()) if _is_of_this_machine(each)]
        service["warnings"] += [{"reason": each.code, "message": each.message} for each in doubts]
    document["errors"] = _merged(document["errors"], (*_bad_names(wanted), *_refused(wanted)))
    return document


def _measured(target: HostSettings, folder: Path | None) -> Capacity | None:
    """What this machine has, where it is the host: only there a daemon keeps the target's state. None elsewhere."""
    with suppress(OSError, Retryable):
        if folder is not None and folder.is_dir():
            return Machine(target, Gpus(target.gpus)).capacity(())
    return None


def _look(
    manifests: Manifests, target: HostSettings, capacity: Capacity | None
) -> tuple[on_cluster.RenderContext, DesiredState]:
    """The host as KServe's rules see it, and what it would run."""
    target = _as_named_here(manifests, target)
    secrets = SecretSources(target).load(manifests)
    place = on_cluster.RenderContext(target.default_namespace, HOST_MODE, as_kserve_sees(secrets))
    wanted = build_desired(manifests, target, Snapshot(revision="", files=()), secrets=secrets)
    services = (
        replace(each, blocked=(*never_here(each, target, capacity), *_unstartable(each, target), *each.blocked))
        for each in wanted.services
    )
    return place, replace(wanted, services=tuple(services))


def _unstartable(service: Desired, target: HostSettings) -> Iterator[Reason]:
    """Arguments and variables in git that no process can be given."""
    engine = find_engine(service.spec.image, target.engines) if service.spec else None
    if service.spec is None or engine is None or service.not_here:
        return
    with suppress(ValueError):
        asked = question(service.spec, engine, _model_paths(service.spec, target), "/")
        yield from unusable_arguments(service, asked)
        process = _process(service, service.spec, engine, target, Path("/"))
        if process is not None:
            found = unusable_variables(service, service.spec, process)
            yield from (reason for is_in_git, reason in found if is_in_git)


def _as_named_here(manifests: Manifests, target: HostSettings) -> HostSettings:
    """Files that are named otherwise than from the repository's root are in no folder that the config could mean."""
    if any(is_under(each.origin.file, target.paths) for each in manifests.documents):
        return target
    return target.model_copy(update={"secrets": target.secrets.model_copy(update={"folders": ()})})


def _is_of_this_machine(reason: Reason) -> bool:
    """Secrets that cannot be read here may exist for the host itself: they count as present."""
    return reason.code is ReasonCode.SECRETS_UNREADABLE


def _refused(wanted: DesiredState) -> list[Reason]:
    return [reason for reason in wanted.refused if not _is_of_this_machine(reason)]


# ---------------------------------------------------------------- findings


def _refusals(wanted: DesiredState) -> Iterator[Reason]:
    yield from _bad_names(wanted)
    yield from _refused(wanted)
    for service in wanted.services:
        yield from service.problems
        yield from (each for each in _blocked(service) if not _is_of_this_machine(each))
    yield from (note for note in wanted.notes if note.code is ReasonCode.UNSUPPORTED_FIELD)


def _blocked(service: Desired) -> tuple[Reason, ...]:
    return (*service.blocked, *(service.canary.blocked if service.canary else ()))


def _closed(wanted: DesiredState, target: HostSettings, closed: tuple[Path, ...]) -> Iterator[Reason]:
    """Folders and files of the daemon, by their names: where links lead is known on the host alone."""

    def is_ours(path: str) -> bool:
        return any(is_below(path, str(each)) for each in closed)

    for service in wanted.services:
        if service.spec is not None:
            yield from _closed_folders(service, service.spec, target, closed)
            yield from closed_arguments(service.spec, service.origin, is_ours)


def _closed_folders(
    service: Desired, spec: EffectiveSpec, target: HostSettings, closed: tuple[Path, ...]
) -> Iterator[Reason]:
    origins = dict(service.mount_origins)
    for path, folder in _model_paths(spec, target).items():
        if any(is_below(folder, str(ours)) or is_below(str(ours), folder) for ours in closed):
            text = f"{folder}: {CLOSED}; keep models in a folder of their own"
            yield Reason(ReasonCode.PATH_NOT_ALLOWED, text, origins.get(path) or service.origin)


def _bad_names(wanted: DesiredState) -> list[Reason]:
    return [
        reason for reason in wanted.unreadable if reason.code in (ReasonCode.INVALID_NAME, ReasonCode.DUPLICATE_HOST)
    ]


def _warnings(wanted: DesiredState) -> Iterator[Reason]:
    yield from filter(_is_of_this_machine, wanted.refused)
    for service in wanted.services:
        yield from service.warnings
        yield from (replace(why, message=f"not for this host: {why.message}") for why in service.not_here)
        yield from filter(_is_of_this_machine, _blocked(service))
    # The paths of a command need not be all that the target reads, so nothing is said about its own file.
    yield from (
        note for note in wanted.notes if note.code not in (ReasonCode.NOT_PRUNABLE, ReasonCode.UNSUPPORTED_FIELD)
    )


def _doubtful_names(manifests: Manifests, wanted: DesiredState, target: HostSettings) -> Iterator[Reason]:
    """Names that more than one service answers to: a client must then say more."""
    named = {each.origin: each.origin_of(("metadata", "name")) for each in manifests.of_kind("InferenceService")}
    origins = {each.id: named.get(each.origin, each.origin) for each in wanted.services}
    for model, sharing in accepted_models(origins).items():
        if len(sharing) > 1:
            text = f"the model name {model} alone answers 404: write {_either(sharing)} as `model`, or rename one"
            yield from (Reason(ReasonCode.AMBIGUOUS_MODEL, text, origins[each]) for each in sharing)
    yield from _shared_models(wanted, origins)
    for host, those in host_names(origins, target.routing.domain).items():
        if len(those) > 1:
            text = f"the host name {host} matches {_either(those)}, so it answers 404: use their paths, or rename one"
            yield from (Reason(ReasonCode.AMBIGUOUS_HOST, text, origins[each]) for each in those)


def _shared_models(wanted: DesiredState, origins: Mapping[ServiceId, Origin]) -> Iterator[Reason]:
    """Names that a service gives its models, and that mean another service, or more than one, where all are reached."""
    named = {each.id: each.model_names for each in wanted.services}
    own = accepted_models(named)
    for model, sharing in other_models(named).items():
        claimants = {*own.get(model, ()), *sharing}
        for each in sharing if len(claimants) > 1 else ():
            others = _either(claimants - {each})
            text = f"the model name {model} may mean {others} as well: use the path /{each}/v1/…, or rename it"
            yield Reason(ReasonCode.AMBIGUOUS_MODEL, text, origins[each])


def _either(services: Iterable[ServiceId]) -> str:
    return " or ".join(str(each) for each in sorted(services))


def _merged(known: list[Document], more: Iterable[Reason]) -> list[Document]:
    """What KServe says already is not said twice."""
    reported = {(each["file"], each["message"]) for each in known}
    found = [on_cluster.finding_of(reason) for reason in dict.fromkeys(more)]
    return on_cluster.in_order([*known, *(each for each in found if (each["file"], each["message"]) not in reported)])


# ---------------------------------------------------------------- what would be started


def started_on(service: Desired, target: HostSettings, folder: Path) -> Document:
    """What would be started of a service: its interpreter or image, arguments and variables, without secrets.

    `folder` is the target's state. Nothing of the machine is read.
    """
    engine = find_engine(service.spec.image, target.engines) if service.spec else None
    process = _process(service, service.spec, engine, target, folder) if service.spec and engine else None
    return _started(service, engine, process)


def _started(service: Desired, engine: EngineSettings | None, process: Launch | None) -> Document:
    return {
        "interpreter": str(engine.python) if engine and engine.python else None,
        "image": service.spec.image if engine and engine.podman and service.spec else None,
        "argv": scrub(list(process.argv)) if process else None,
        "env": _environment(service.spec, process) if process and service.spec else None,
    }


def _host(service: Desired, target: HostSettings, folder: Path) -> Document:
    engine = find_engine(service.spec.image, target.engines) if service.spec else None
    process = _process(service, service.spec, engine, target, folder) if service.spec and engine else None
    return {
        **_started(service, engine, process),
        "unit": _unit(service, service.spec, process, target, folder) if service.spec and process else None,
        "digest": service.digest or None,
        "replicas": service.replicas,
        "strategy": _strategy(service.strategy),
        "blocked": [
            {"reason": each.code, **on_cluster.finding_of(each)}
            for each in service.blocked
            if not _is_of_this_machine(each)
        ],
        **_fit(service.spec, engine, target, folder),
        "notForThisHost": [{"reason": each.code, **on_cluster.finding_of(each)} for each in service.not_here],
    }


def _environment(spec: EffectiveSpec, process: Launch) -> object:
    """Of a variable that gets its value when the process starts, where that comes from."""
    later = {each.name: f"<{each.source}>" for each in spec.env if each.source and each.name not in process.env}
    return {**later, **{name: scrub(value, name) for name, value in process.env.items()}}


def _process(
    service: Desired, spec: EffectiveSpec, engine: EngineSettings, target: HostSettings, folder: Path
) -> Launch | None:
    """None for a command that no host can run; `blocked` says why."""
    lease = Lease(0, (_GPU,) * spec.resources.gpu_devices)
    drain = target.rollout.drain_timeout if service.drain_timeout is None else service.drain_timeout
    place = place_of(target, folder, engine, _model_paths(spec, target))
    try:
        process = launch(spec, engine, service.id, lease, place.paths, drain, place.folders, _UNSTARTED)
    except ValueError:
        return None
    argv = tuple(_PORTS.get(word, word) for word in process.argv)
    return replace(process, argv=argv, mounts=place.mounts, image=_IMAGE if engine.podman else "")


def _unit(service: Desired, spec: EffectiveSpec, process: Launch, target: HostSettings, folder: Path) -> str | None:
    """The unit of a first replica; None where replicas are no units."""
    match target.kind:
        case "process":
            return None
        case "systemd":
            return _systemd_unit(service, spec, process, target, folder)
        case _:
            assert_never(target.kind)


def _systemd_unit(
    service: Desired, spec: EffectiveSpec, process: Launch, target: HostSettings, folder: Path
) -> str | None:
    record = ReplicaRecord(
        id=ReplicaId(service.id, f"{service.digest[:8]}-0"),
        digest=service.digest,
        spec=_scrubbed(spec),
        origin=service.origin,
        lease=Lease(0, (_GPU,) * spec.resources.gpu_devices),
        created_at=0.0,
        drain_timeout=target.rollout.drain_timeout if service.drain_timeout is None else service.drain_timeout,
        parsed="",
        revision="",
        boot="",
    )
    shown = replace(
        process, argv=_hide(process.argv), env={name: _hide_one(name, v) for name, v in process.env.items()}
    )
    devices = (f"/dev/nvidia{_GPU}",) * spec.resources.gpu_devices
    try:
        home = folder / "replicas" / str(record.id)
        return build_unit(plan_unit(target.name, record, shown, target.user, devices, home, _OWNER))
    except ValueError:
        return None


def _scrubbed(spec: EffectiveSpec) -> EffectiveSpec:
    env = tuple(replace(variable, value=_hide_one(variable.name, variable.value)) for variable in spec.env)
    files = tuple(
        replace(volume, files=tuple(replace(each, text="…" if each.text else "") for each in volume.files))
        for volume in spec.files
    )
    command, args = (_arguments_shown(each) for each in (spec.command, spec.args))
    return replace(spec, command=command, args=args, env=env, files=files)


def _arguments_shown(given: tuple[Argument, ...]) -> tuple[Argument, ...]:
    return tuple(each.rewritten(text) for each, text in zip(given, _hide(texts(given)), strict=True))


def _hide(arguments: tuple[str, ...]) -> tuple[str, ...]:
    found = scrub(list(arguments))
    return tuple(str(word) for word in found) if isinstance(found, list) else ()


def _hide_one(name: str, value: str) -> str:
    return str(scrub(value, name))


def _fit(spec: EffectiveSpec | None, engine: EngineSettings | None, target: HostSettings, folder: Path) -> Document:
    """From the model's own files, where this machine has them; `fitReason` says why not."""
    try:
        if spec is None or engine is None:
            return {"fit": None, "fitReason": "nothing to start"}
        asked = question(spec, engine, _model_paths(spec, target), home_of(folder, engine))
        room = _room(spec, target)
        given = arguments_of("", asked.argv, {} if room.gpus else asked.env)
    except ValueError as error:
        return {"fit": None, "fitReason": str(error)}
    model = local_model(given, asked)
    if model is None or not model.exists():
        return {"fit": None, "fitReason": f"the model {given.model} cannot be read from here"}
    found = look_at(model, given, room)
    known = found.weights_bytes is not None
    return {"fit": fit_document(found) if known else None, "fitReason": None if known else found.line}


def _room(spec: EffectiveSpec, target: HostSettings) -> MemoryBudget:
    """The host's GPUs are not seen from here, and of its memory only what the config allows."""
    limit = target.allocatable.memory
    return room_of(spec.resources, (), memory_bytes(limit) if limit else 0, spec.resources.gpu_devices)


def _model_paths(spec: EffectiveSpec, target: HostSettings) -> dict[str, str]:
    """Folders of the models as far as the config tells; `blocked` names the others."""
    paths = {}
    for mount in spec.mounts:
        if is_fetched(mount.uri):
            paths[mount.path] = _MODEL
            continue
        with suppress(Terminal):
            paths[mount.path] = str(find_folder(mount.uri, target.volumes))
    return paths


def _strategy(given: Strategy | None) -> Document | None:
    """None: a surge where capacity allows, else stop-first."""
    if given is None:
        return None
    return {"maxSurge": given.max_surge, "maxUnavailable": given.max_unavailable, "recreate": given.recreate}
