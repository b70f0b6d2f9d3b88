"""One InferenceService → its desired state here, or why it cannot be used. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from reconciler.config.settings import HostSettings, TargetSettings
from reconciler.desired.access import developer_mode, metrics_path, read_open_paths
from reconciler.desired.blockers import find_blockers
from reconciler.desired.context import DesiredContext
from reconciler.desired.deviations import ALL_FACTS, Case, depends_on_gpus, deviations, known_facts
from reconciler.desired.downloads import unused_tokens
from reconciler.desired.left_out import ignored_entries, ignored_variables
from reconciler.desired.limits import too_large
from reconciler.desired.origins import CONTAINER, Origins
from reconciler.desired.ports import port_warnings
from reconciler.desired.refused import refused_for, unreadable_for
from reconciler.desired.resources import idle_gpus
from reconciler.desired.secrets import Keyring, absent_connection, doubtful_connection, keyring, missing_secret
from reconciler.desired.serving_options import (
    find_misfits,
    ignored_rules,
    is_on_dashboard,
    is_stopped,
    read_display_name,
    read_serving_options,
    wants_auth,
    wants_passthrough,
    with_canary,
)
from reconciler.desired.spec import (
    Surroundings,
    UnusableField,
    build_spec,
    find_container,
)
from reconciler.desired.support import ELSEWHERE, Effect, Fact, TargetKind
from reconciler.desired.volumes import build_file_mounts, build_mounts
from reconciler.engines.arguments import model_names, speaks_grpc, takes_grpc
from reconciler.engines.digest import digest
from reconciler.engines.environment import doubtful_image, find_engine
from reconciler.kserve.names import TRANSFORMER_CONTAINER
from reconciler.kserve.resolve import Issue, Resolved, resolve
from reconciler.manifests import Manifest
from reconciler.model import Desired, EffectiveSpec, Reason, ReasonCode, ServiceId, texts
from reconciler.secrets.disclosed import disclosed


def describe(service: Manifest, context: DesiredContext) -> Desired:
    """A service with its spec and its canary's, or with the problems that prevent it."""
    return with_canary(service, _describe(service, context), lambda other: _describe(other, context))


def _describe(service: Manifest, context: DesiredContext) -> Desired:
    key = service_id(service, context.target)
    ring = keyring(key.namespace, service, context.secrets, context.target, context.unreadable.get("Secret"))
    resolved = resolve(service.data, context.cluster, may_use_secrets=not ring.closed)
    runtime = _runtime_of(resolved, context)
    origins = Origins(service, runtime)
    doubtful = {each: doubtful_connection(each, origins, ring) for each in resolved.warnings}
    plain = (_warning(each, origins, ring, resolved) for each, doubt in doubtful.items() if not doubt)
    warnings = (*plain, *disclosed(service))
    errors = [(issue, missing_secret(issue, origins, ring)) for issue in resolved.errors]
    beside = (missing_secret(issue, origins, ring) for issue in resolved.cluster_errors)
    secrets = tuple(filter(None, (*(secret for _, secret in errors), *beside)))
    found = list(deviations(origins, TargetKind.HOST, ALL_FACTS))
    impossible = (each.reason for each in found if each.effect is Effect.REFUSED)
    problems = list(refused_for(key, resolved, context.refused, context.cluster))
    problems += [*(reason_of(issue, origins, resolved.pod) for issue, secret in errors if not secret), *impossible]
    problems += filter(None, doubtful.values())
    if not problems:
        problems += _unsure_of_runtime(service, resolved, runtime, context)
        problems += unreadable_for(key, resolved, context.unreadable, context.cluster, context.config_maps)
    if problems:
        beside_them = (each.reason for each in found if each.effect is not Effect.REFUSED)
        return unusable(key, service, tuple(problems), (*warnings, *beside_them))
    try:
        usable = _usable(ring, resolved, origins, context, warnings)
    except UnusableField as problem:
        return unusable(key, service, (problem.reason,), warnings)
    if usable.not_here:
        return usable
    return replace(usable, blocked=(*usable.blocked, *secrets)) if secrets else usable


def service_id(service: Manifest, target: TargetSettings) -> ServiceId:
    return ServiceId(service.namespace or target.default_namespace, service.name)


def unusable(
    key: ServiceId, manifest: Manifest, problems: tuple[Reason, ...], warnings: tuple[Reason, ...] = ()
) -> Desired:
    """A service whose documents cannot be used: its replicas are kept."""
    return Desired(
        id=key,
        origin=manifest.origin,
        spec=None,
        digest="",
        problems=problems,
        warnings=(*manifest.warnings, *warnings),
        display_name=read_display_name(manifest),
        dashboard=is_on_dashboard(manifest),
    )


def _usable(
    ring: Keyring, resolved: Resolved, origins: Origins, context: DesiredContext, warnings: tuple[Reason, ...]
) -> Desired:
    service = origins.service
    container = find_container(resolved.pod)
    if container is None:
        raise UnusableField(
            Reason(ReasonCode.INVALID_PREDICTOR_SPEC, f"no container is named {CONTAINER}", service.origin)
        )
    options, around = read_serving_options(service), _surroundings(ring, resolved, context)
    spec = _spec_of(resolved, container, around, origins)
    case = Case(origins, resolved, container, spec, options.replicas, context.target)
    facts = known_facts(case)
    refused, ignored = _unsupported(case, facts)
    not_here = find_misfits(resolved, context.node, origins)
    # What this host would refuse is no fault where the service is for others.
    if refused and not not_here:
        return unusable(ServiceId(ring.namespace, service.name), service, refused, (*warnings, *ignored))
    found = Desired(
        id=ServiceId(ring.namespace, service.name),
        origin=service.origin,
        spec=spec,
        digest=digest(spec),
        replicas=0 if not_here else options.replicas,
        strategy=options.strategy,
        canary_percent=options.canary_percent,
        drain_timeout=options.drain_timeout,
        request_timeout=options.request_timeout,
        blocked=() if not_here else tuple(find_blockers(spec, ring, origins, around)),
        warnings=(*service.warnings, *warnings, *ignored, *_warnings_of(case, ring)),
        warnings_without_gpu=tuple(_without_gpu(case, facts)),
        display_name=options.display_name,
        dashboard=is_on_dashboard(service),
        not_here=not_here,
        stopped=is_stopped(service),
    )
    return _with_origins(_with_access(found, case, facts), spec, origins)


def _surroundings(ring: Keyring, resolved: Resolved, context: DesiredContext) -> Surroundings:
    ca_bundle = str(context.cluster.config["storageInitializer"].get("caBundleConfigMapName") or "")
    return Surroundings(
        ring.namespace, resolved.pod, context.config_maps, ca_bundle, context.target.name, context.binary_data
    )


def _spec_of(resolved: Resolved, container: Mapping[str, Any], around: Surroundings, origins: Origins) -> EffectiveSpec:
    """What would run. Raises UnusableField."""
    mounts, files = build_mounts(resolved, container, around), build_file_mounts(container, around, origins)
    spec = build_spec(container, mounts, files, around, origins)
    if reason := too_large(spec, origins.service.origin):
        raise UnusableField(reason)
    return spec


def _unsupported(case: Case, facts: frozenset[Fact]) -> tuple[tuple[Reason, ...], tuple[Reason, ...]]:
    """Fields that are refused here, and those that are ignored."""
    found = list(deviations(case.origins, TargetKind.HOST, facts))
    refused = (each.reason for each in found if each.effect is Effect.REFUSED)
    ignored = (each.reason for each in found if each.effect is not Effect.REFUSED)
    return (*refused, *_collocated(case)), tuple(ignored)


def _warnings_of(case: Case, ring: Keyring) -> Iterator[Reason]:
    """What is left out, and what may be a mistake."""
    spec, origins = case.spec, case.origins
    yield from ignored_entries(case)
    yield from ignored_rules(case.resolved, origins)
    yield from ignored_variables(spec, ring, origins)
    yield from unused_tokens(spec, ring, origins)
    yield from _doubtful_image(spec, case.target, origins)
    yield from idle_gpus(spec, origins)
    yield from port_warnings(case.container, spec, origins)
    yield from developer_mode(spec, origins, find_engine(spec.image, case.target.engines))


def _with_access(found: Desired, case: Case, facts: frozenset[Fact]) -> Desired:
    """The same, with how requests reach it."""
    service, spec, pod = case.origins.service, case.spec, case.resolved.pod
    return replace(
        found,
        metrics_path=metrics_path(pod, case.container, spec),
        guarded=wants_auth(service),
        open_paths=read_open_paths(pod, case.origins),
        passthrough=Fact.TLS in facts and wants_passthrough(service),
        model_names=_model_names(spec, found.id),
        grpc=takes_grpc(spec.command_line),
        http=not speaks_grpc(spec.command_line),
    )


def _with_origins(found: Desired, spec: EffectiveSpec, origins: Origins) -> Desired:
    """The same, with the lines of git for what is found out about it later."""
    return replace(
        found,
        variable_origins=tuple((each.name, origins.of_variable(each.name, each.source)) for each in spec.env),
        resources_origin=origins.of_container_field("resources"),
        mount_origins=tuple((each.path, origins.of_mount(each.path, each.uri)) for each in spec.mounts),
    )


def _doubtful_image(spec: EffectiveSpec, target: HostSettings, origins: Origins) -> Iterator[Reason]:
    """Where nothing runs the image, its blocker says so."""
    if (text := doubtful_image(spec.image, texts(spec.command))) and find_engine(spec.image, target.engines):
        yield Reason(ReasonCode.IMAGE_UNKNOWN, text, origins.of_container_field("image"))


def _model_names(spec: EffectiveSpec, key: ServiceId) -> tuple[str, ...]:
    """In addition to those that it has as a service."""
    return tuple(name for name in model_names(spec) if name not in (key.name, str(key)))


def _without_gpu(case: Case, facts: frozenset[Fact]) -> Iterator[Reason]:
    """Findings that apply once the host turns out to have no GPU: the config alone does not show that."""
    if depends_on_gpus(case):
        found = deviations(case.origins, TargetKind.HOST, facts - {Fact.ACCELERATOR})
        yield from (each.reason for each in found if each.reason.code is ReasonCode.ACCELERATOR_MISMATCH)


def _warning(issue: Issue, origins: Origins, ring: Keyring, resolved: Resolved) -> Reason:
    return absent_connection(issue, origins, ring) or reason_of(issue, origins, resolved.pod)


def reason_of(issue: Issue, origins: Origins, pod: Mapping[str, Any]) -> Reason:
    """What KServe says of a service, with its line."""
    return Reason(issue.reason, issue.message, origins.of_issue(issue, pod))


def _runtime_of(resolved: Resolved, context: DesiredContext) -> Manifest | None:
    if resolved.runtime is None:
        return None
    return context.runtimes.get((resolved.runtime.kind, resolved.runtime.namespace, resolved.runtime.name))


def _unsure_of_runtime(
    service: Manifest, resolved: Resolved, runtime: Manifest | None, context: DesiredContext
) -> Iterator[Reason]:
    """A runtime that another might outrank if only we could read it."""
    if runtime is None:
        return
    named = _names_runtime(service)
    if context.uncertain and (not named or runtime.kind == "ClusterServingRuntime"):
        first = context.uncertain[0]
        text = f"{first} - and that may hold the runtime this service would get; what runs is kept until it is readable"
        yield Reason(ReasonCode.DEPENDENCY_UNREADABLE, text, service.origin)


def _names_runtime(service: Manifest) -> bool:
    predictor = service.data["spec"].get("predictor")
    values = predictor.values() if isinstance(predictor, dict) else ()
    return any(isinstance(value, dict) and value.get("runtime") for value in values)


def _collocated(case: Case) -> Iterator[Reason]:
    """A transformer in the model's own pod: KServe sends it all requests, which a host's proxy sends to the engine."""
    if any(each.get("name") == TRANSFORMER_CONTAINER for each in case.resolved.pod.get("containers") or ()):
        text = f"container {TRANSFORMER_CONTAINER} is not supported on a host: all requests go to it; {ELSEWHERE}"
        yield Reason(ReasonCode.UNSUPPORTED_FIELD, text, case.origins.of_entry("containers", TRANSFORMER_CONTAINER))
