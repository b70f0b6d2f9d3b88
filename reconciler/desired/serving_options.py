"""What a service's document says about running it: replicas, rollout, timeouts, canary, placement. Pure."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reconciler.config.settings import HostSettings
from reconciler.desired.origins import Origins
from reconciler.desired.spec import UnusableField
from reconciler.formats.strict_yaml import find, line_at
from reconciler.kserve import names
from reconciler.kserve.issues import Issue
from reconciler.kserve.names import STOP
from reconciler.kserve.resolve import Resolved
from reconciler.kserve.scheduling import Malformed, Node, Taint, misfits, without_effect
from reconciler.manifests import FieldPath, Manifest
from reconciler.model import Canary, Desired, Reason, ReasonCode, Strategy

_PREDICTOR: FieldPath = ("spec", "predictor")
_DISPLAY_NAME = "openshift.io/display-name"
_DASHBOARD = "opendatahub.io/dashboard"
_PASSTHROUGH = "serving.knative.openshift.io/enablePassthrough"
_AUTH = (
    ("annotations", "security.opendatahub.io/enable-auth"),
    ("labels", "security.openshift.io/enable-authentication"),
)
_PERCENT = re.compile(r"\d{1,3}%", re.ASCII)
# Kubernetes' own for a Deployment whose strategy says nothing.
_DEFAULT = "25%"
# Kubernetes allows 292 billion years. The proxy refuses all routes for such a timeout, and it is no exact float either.
_LONGEST = 10 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """The answers; None where the document is silent. Durations in seconds."""

    replicas: int = 1
    strategy: Strategy | None = None
    canary_percent: int | None = None
    drain_timeout: float | None = None
    request_timeout: float | None = None
    display_name: str = ""


def read_serving_options(service: Manifest) -> ServingOptions:
    """Raises UnusableField for a value that Kubernetes would refuse."""
    predictor = _mapping(service.data["spec"], "predictor")
    replicas = read_replicas(service, predictor)
    percent = _integer(service, predictor, "canaryTrafficPercent")
    if percent is not None and percent > 100:
        raise _unusable(service, (*_PREDICTOR, "canaryTrafficPercent"), "must be between 0 and 100")
    return ServingOptions(
        replicas=replicas,
        strategy=read_strategy(service, predictor, replicas),
        canary_percent=percent,
        drain_timeout=_seconds(service, predictor, "terminationGracePeriodSeconds"),
        request_timeout=_seconds(service, predictor, "timeout"),
        display_name=read_display_name(service),
    )


def read_display_name(service: Manifest) -> str:
    """The name that OpenShift AI shows to people, or nothing."""
    name = _mapping(service.data["metadata"], "annotations").get(_DISPLAY_NAME)
    return name if isinstance(name, str) else ""


def is_on_dashboard(service: Manifest) -> bool:
    """Is it shown on dashboards? Yes, unless its label disables that."""
    return str(_mapping(service.data["metadata"], "labels").get(_DASHBOARD)).lower() != "false"


def wants_auth(service: Manifest) -> bool:
    """Does every request need a key?"""
    predictor = _mapping(service.data["spec"], "predictor")
    return any(
        str(_mapping(holder, kind).get(key)).lower() == "true"
        for holder in (service.data["metadata"], predictor)
        for kind, key in _AUTH
    )


def wants_passthrough(service: Manifest) -> bool:
    """Is TLS for its host name to reach the engine as it is?"""
    holders = (service.data["metadata"], _mapping(service.data["spec"], "predictor"))
    return any(str(_mapping(each, "annotations").get(_PASSTHROUGH)).lower() == "true" for each in holders)


def is_stopped(service: Manifest) -> bool:
    """Is the service stopped by its annotation? KServe takes any case."""
    stop = _mapping(service.data["metadata"], "annotations").get(STOP)
    return isinstance(stop, str) and stop.lower() == "true"


def read_replicas(service: Manifest, predictor: Mapping[str, Any]) -> int:
    """`minReplicas`, one where it is not written, none while the service is stopped. Raises UnusableField.

    Of 0, KServe's autoscalers make one, or start it on demand, which a host cannot: here one runs.
    """
    wanted = _integer(service, predictor, "minReplicas")
    if is_stopped(service):
        return 0
    return 1 if wanted is None else wanted or int(not may_have_none(service))


def may_have_none(service: Manifest) -> bool:
    """Is `minReplicas: 0` no replica at all? On KServe so where a Deployment has no autoscaler."""
    own = _mapping(service.data["metadata"], "annotations")
    both = {**own, **_mapping(_mapping(service.data["spec"], "predictor"), "annotations")}
    mode = str(own.get(names.DEPLOYMENT_MODE, names.STANDARD))
    return both.get(names.AUTOSCALER_CLASS) == "none" and names.LEGACY_MODES.get(mode, mode) != names.KNATIVE


def read_strategy(service: Manifest, predictor: Mapping[str, Any], replicas: int) -> Strategy | None:
    """None where the user leaves the choice to us. Percentages round as in Kubernetes: surge up, unavailable down.

    Raises UnusableField.
    """
    given = predictor.get("deploymentStrategy")
    if not isinstance(given, dict) or not given:
        return None
    if given.get("type") == "Recreate":
        return Strategy(0, replicas, recreate=True)
    rolling = _mapping(given, "rollingUpdate")
    path = (*_PREDICTOR, "deploymentStrategy", "rollingUpdate")
    surge = _share(service, (*path, "maxSurge"), rolling.get("maxSurge", _DEFAULT))
    unavailable = _share(service, (*path, "maxUnavailable"), rolling.get("maxUnavailable", _DEFAULT))
    if surge[0] == unavailable[0] == 0:
        raise _unusable(service, (*path, "maxUnavailable"), "may not be 0 while maxSurge is 0: nothing could move")
    most_extra = -(-surge[0] * replicas // 100) if surge[1] else surge[0]
    most_missing = unavailable[0] * replicas // 100 if unavailable[1] else unavailable[0]
    # Both can round to nothing; Kubernetes then lets one be missing.
    return Strategy(most_extra, min(most_missing, replicas) if most_extra or most_missing else 1)


def _share(service: Manifest, path: FieldPath, value: Any) -> tuple[int, bool]:
    """A number of replicas, or a percentage of them (True)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value, False
    if isinstance(value, str) and _PERCENT.fullmatch(value) and int(value[:-1]) <= 100:
        return int(value[:-1]), True
    raise _unusable(service, path, "must be a number of replicas or a percentage up to 100%")


def _seconds(service: Manifest, predictor: Mapping[str, Any], key: str) -> int | None:
    """Ten years at most: nothing lasts so long."""
    value = _integer(service, predictor, key)
    return None if value is None else min(value, _LONGEST)


def _integer(service: Manifest, predictor: Mapping[str, Any], key: str) -> int | None:
    value = predictor.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _unusable(service, (*_PREDICTOR, key), "must be a whole number, 0 or more")
    return value


def _unusable(service: Manifest, path: FieldPath, what: str) -> UnusableField:
    name = ".".join(str(step) for step in path)
    return UnusableField(Reason(ReasonCode.INVALID_FIELD, f"{name} {what}", service.origin_of(path)))


def _mapping(data: Any, key: str) -> Mapping[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


_PATH = ("spec", "canary", 0)


def with_canary(service: Manifest, stable: Desired, describe: Callable[[Manifest], Desired]) -> Desired:
    """The service with its second version. What is wrong with that one is wrong with the service: nothing changes."""
    entry = _entry(service)
    if entry is None or stable.spec is None or stable.not_here:
        return stable
    other = describe(_alone(service, entry))
    told = set(stable.warnings)
    warnings = (*stable.warnings, *(each for each in other.warnings if each not in told))
    if other.spec is None:
        return replace(stable, spec=None, digest="", problems=other.problems, warnings=warnings)
    if other.digest == stable.digest:
        text = "the canary is the same as the predictor; no canary replica runs"
        return replace(
            stable, warnings=(*warnings, Reason(ReasonCode.CANARY_UNCHANGED, text, service.origin_of(_PATH)))
        )
    if not other.replicas:
        return replace(stable, warnings=warnings)
    percent = int(entry.get("trafficPercent") or 0)
    canary = Canary(
        other.spec,
        other.digest,
        percent,
        other.replicas,
        other.blocked,
        other.variable_origins,
        other.resources_origin,
        other.mount_origins,
    )
    return replace(stable, canary=canary, warnings=warnings)


def _entry(service: Manifest) -> dict[str, Any] | None:
    """The first entry; more than one is refused elsewhere."""
    spec = service.data.get("spec")
    entries = spec.get("canary") if isinstance(spec, dict) else None
    first = entries[0] if isinstance(entries, list) and entries else None
    return first if isinstance(first, dict) and isinstance(first.get("predictor"), dict) else None


def _alone(service: Manifest, entry: dict[str, Any]) -> Manifest:
    """A document in which the canary's predictor is the only one; every field keeps its line."""
    data = {**service.data, "spec": {"predictor": entry["predictor"]}}
    lines = service.lines
    if isinstance(lines, tuple):
        inside = find(service.data, lines, (*_PATH, "predictor"))[1]
        spec = (line_at(inside), (inside,))
        children = tuple(spec if key == "spec" else child for key, child in zip(service.data, lines[1], strict=True))
        lines = (lines[0], children)
    return replace(service, data=data, lines=lines, warnings=())


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def node_of(target: HostSettings) -> Node:
    """The host as a scheduler would know it: what the config says, over the labels that every node has.

    Nothing here is measured. A label that came and went with a driver would stop what serves.
    """
    machine = platform.machine()
    defaults = {
        "kubernetes.io/hostname": target.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _ARCHITECTURES.get(machine, machine),
    }
    if target.gpus:
        defaults["nvidia.com/gpu.present"] = "true"
    taints = tuple(Taint(each.key, each.effect, each.value) for each in target.taints)
    return Node(target.name, defaults | target.labels, taints)


def find_misfits(resolved: Resolved, node: Node, origins: Origins) -> tuple[Reason, ...]:
    """Why the service is not for this host; none when it is. Raises UnusableField where no host can satisfy a rule."""
    try:
        found = list(misfits(resolved.pod, node))
    except Malformed as problem:
        raise UnusableField(_reason(problem.issue, origins)) from None
    return tuple(_reason(each, origins) for each in found)


def ignored_rules(resolved: Resolved, origins: Origins) -> Iterator[Reason]:
    """Rules that choose among several nodes."""
    for each in without_effect(resolved.pod):
        yield _reason(each, origins)


def _reason(issue: Issue, origins: Origins) -> Reason:
    return Reason(issue.reason, issue.message, origins.of_pod_field(issue.path))
