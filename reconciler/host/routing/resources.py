"""Services → the dynamic configuration of Envoy: its routes and its endpoints. Pure; resources are plain dicts.

Three ways in, the most specific first: by host name, by path, by the `model` of an OpenAI request. gRPC comes in by
host name alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from reconciler.host.routing.bootstrap import CLUSTER, GRPC, MODEL_METADATA, ROUTES, STREAM_IDLE, TYPE, Resource
from reconciler.host.routing.direct_responses import READING, answer, refusal, refusal_quoting, skip
from reconciler.host.routing.endpoints import subset, subset_of_service
from reconciler.host.routing.paths import BELOW, PLAIN, grpc_rules, own_rules
from reconciler.model import ServiceId, ServiceRoute

Models = Mapping[str, tuple[ServiceId, ...]]
Targets = Mapping[ServiceId, "RouteTarget"]

_RETRY: Resource = {
    # Only what certainly never reached a replica; and then another one, if there is one.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 3,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    "retry_host_predicate": [
        {
            "name": "previous_hosts",
            "typed_config": {"@type": TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 5,
}


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """Where a service's requests go, and which of its paths are open. `grpc` is where those of gRPC go.

    `http`: others are taken as well.
    """

    way: Resource
    guarded: bool
    opened: tuple[str, ...]
    grpc: Resource | None = None
    http: bool = True


@dataclass(frozen=True, slots=True)
class Claims:
    """The owners of model names: `own` are names of services, `others` are names that their replicas answer to."""

    own: Models
    others: Models

    def beside(self, gone: Claims) -> Claims:
        """With the names of services that left, as far as nothing here has them."""
        taken = self.own.keys() | self.others.keys()
        own = {model: sharing for model, sharing in gone.own.items() if model not in taken}
        others = {model: sharing for model, sharing in gone.others.items() if model not in taken}
        return Claims({**own, **self.own}, {**others, **self.others})


def accepted_models(
    services: Iterable[ServiceId], new: Collection[ServiceId] = frozenset()
) -> dict[str, tuple[ServiceId, ...]]:
    """What `model` may say: `namespace/name`, and `name`. More than one service means that the name is ambiguous.

    Those that are `new` take no name away from others.
    """
    models: dict[str, tuple[ServiceId, ...]] = {}
    for service in sorted(services):
        models[service.name] = (*models.get(service.name, ()), service)
        models[str(service)] = (service,)
    return {model: _claimants(sharing, new) for model, sharing in models.items()}


def other_models(
    named: Mapping[ServiceId, Collection[str]], new: Collection[ServiceId] = frozenset()
) -> dict[str, tuple[ServiceId, ...]]:
    """The values of `model` in addition to the names of services. Those that are `new` take none away from others."""
    models: dict[str, tuple[ServiceId, ...]] = {}
    for service in sorted(named):
        for name in dict.fromkeys(named[service]):
            models[name] = (*models.get(name, ()), service)
    return {model: _claimants(sharing, new) for model, sharing in models.items()}


def all_models(named: Mapping[ServiceId, Collection[str]], new: Collection[ServiceId] = frozenset()) -> Claims:
    """All that `model` may say. A service's own name belongs to no other, except one that is `new`.

    `namespace/name` is that service's even then: its requests may not reach a replica of others.
    """
    own, others, whole = accepted_models(named, new), other_models(named, new), set(map(str, named))
    kept = {
        model: sharing
        for model, sharing in others.items()
        if model not in whole
        if model not in own or (new and set(own[model]) <= set(new) and not set(sharing) <= set(new))
    }
    return Claims({model: sharing for model, sharing in own.items() if model not in kept}, kept)


def _claimants(sharing: tuple[ServiceId, ...], new: Collection[ServiceId]) -> tuple[ServiceId, ...]:
    return tuple(service for service in sharing if service not in new) or sharing


def route_table(routes: Iterable[ServiceRoute], domain: str) -> Resource:
    """All ways in to all services."""
    ordered = sorted(routes, key=lambda route: route.service)
    targets = {route.service: _target(route) for route in ordered}
    here, left = (frozenset(r.service for r in ordered if (r.left_at is None) == is_here) for is_here in (True, False))
    new = frozenset(r.service for r in ordered if r.is_new)
    # No body of gRPC names a `model` that could be read here.
    named = {r.service: (*r.model_names, *r.canary_names) for r in ordered if r.takes_http}
    claims = all_models({service: named[service] for service in sorted(here & named.keys())}, new)
    listing = json.dumps(_model_list({**claims.others, **claims.own}))
    gone = all_models({service: named[service] for service in sorted(left & named.keys())})
    shared = [
        *_model_list_routes(listing),
        *_path_routes(targets),
        *_model_routes(targets, {route.service: route for route in ordered}, claims.beside(gone)),
        _nowhere(),
    ]
    return {
        "@type": TYPE + "envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "ignore_port_in_host_matching": True,
        "max_direct_response_body_size_bytes": len(listing) + (1 << 20),
        "virtual_hosts": [
            *_hosts(host_names(here, domain, left, new), targets),
            _virtual_host("shared", "*", shared),
        ],
    }


def _target(route: ServiceRoute) -> RouteTarget:
    grpc = _to(route, grpc=True) if route.takes_grpc else None
    return RouteTarget(_to(route), route.guarded, route.open_paths, grpc, route.takes_http)


def host_names(
    services: Iterable[ServiceId],
    domain: str,
    left: Iterable[ServiceId] = (),
    new: Collection[ServiceId] = frozenset(),
) -> dict[str, tuple[ServiceId, ...]]:
    """One host name per service. `a-b` in `c` and `a` in `b-c` have the same one; what `left` keeps only its own.

    Those that are `new` take none away from others.
    """
    if left:
        return {**host_names(left, domain), **host_names(services, domain, new=new)}
    sharing: dict[str, list[ServiceId]] = defaultdict(list)
    for service in sorted(services):
        label = _literal(f"{service.name}-{service.namespace}")
        sharing[f"{label}.{domain}".lower()].append(service)
    return {host: _claimants(tuple(those), new) for host, those in sharing.items()}


def passthrough_hosts(routes: Iterable[ServiceRoute], domain: str) -> dict[str, Resource]:
    """The host names whose TLS is passed through, and to which replicas. A name that means two services is left out."""
    routes = tuple(routes)
    passed = {route.service for route in routes if route.passthrough}
    new = {route.service for route in routes if route.is_new}
    sharing = host_names((route.service for route in routes if route.left_at is None), domain, new=new)
    return {
        host: subset_of_service(str(those[0]))
        for host, those in sharing.items()
        if len(those) == 1 and those[0] in passed
    }


def _hosts(sharing: Mapping[str, tuple[ServiceId, ...]], targets: Targets) -> list[Resource]:
    """A virtual host for each host name: Envoy would refuse two with the same."""
    return [_virtual_host(host, host, _by_host(services, targets)) for host, services in sharing.items()]


def _virtual_host(name: str, domain: str, routes: list[Resource]) -> Resource:
    return {"name": name, "domains": [domain], "retry_policy": _RETRY, "routes": routes}


def _by_host(sharing: tuple[ServiceId, ...], targets: Targets) -> list[Resource]:
    if len(sharing) == 1:
        target = targets[sharing[0]]
        return [*_by_grpc(target), _below("", target) if target.http else refusal({"prefix": "/"}, 404, _ONLY_GRPC)]
    paths = " or ".join(f"/{service}/" for service in sharing)
    return [refusal({"prefix": "/"}, 404, f"this host name matches more than one service; use the path {paths}")]


def _path_routes(targets: Targets) -> list[Resource]:
    """`/v1/` belongs to the `model` way in: services of a namespace `v1` have no path."""
    return [
        _below(path, target) if target.http else refusal({"prefix": f"{path}/"}, 404, _ONLY_GRPC)
        for path, target in (
            (f"/{_literal(service.namespace)}/{_literal(service.name)}", target)
            for service, target in targets.items()
            if service.namespace != "v1"
        )
    ]


_ONLY_GRPC = "this service speaks gRPC alone; call it by gRPC under its host name"


def _by_grpc(target: RouteTarget) -> list[Resource]:
    """The methods that are open, in front of what else the host name takes."""
    if target.grpc is None:
        return []
    rules = skip(*READING, BELOW, own={PLAIN: grpc_rules(target.guarded, target.opened)})
    return [{"match": {"prefix": "/", "grpc": {}}, **rules, **target.grpc}]


def _below(prefix: str, target: RouteTarget) -> Resource:
    """Everything below a prefix that is open. No body is read for that."""
    rewrite = {"prefix_rewrite": "/"} if prefix else {}
    unused, used = (PLAIN, BELOW) if prefix else (BELOW, PLAIN)
    own = {used: own_rules(used, target.guarded, target.opened)}
    return {
        "match": {"prefix": f"{prefix}/"},
        **skip(*READING, unused, own=own),
        **target.way,
        "route": {**target.way["route"], **rewrite},
    }


def _model_routes(targets: Targets, routes: Mapping[ServiceId, ServiceRoute], claims: Claims) -> list[Resource]:
    return [
        refusal({"prefix": "/v1/", "headers": [_method("POST", invert=True)]}, 405, _ONLY_POST, allow="POST"),
        *(
            _by_model(model, targets[choices[0]].way) if len(choices) == 1 else _ambiguous(model, choices)
            for model, choices in claims.own.items()
        ),
        *(
            _by_model(model, _to(_answering(routes[choices[0]], model)))
            if len(choices) == 1
            else _ambiguous_path(model, choices)
            for model, choices in claims.others.items()
        ),
        refusal_quoting(
            _model({"present_match": True}),
            404,
            f"The model `%DYNAMIC_METADATA({MODEL_METADATA}:model):200%` does not exist.",
            param="model",
        ),
        refusal({"prefix": "/v1/"}, 400, _NO_MODEL, param="model", read_body=True),
    ]


_ONLY_POST = "only POST requests are routed by their `model`; for others use /{namespace}/{name}/v1/…"
_NO_MODEL = "the body must be JSON (content-type application/json) and name a `model`; or use /{namespace}/{name}/v1/…"


def _by_model(model: str, way: Resource) -> Resource:
    """Paths were checked before the body was read, by the default: no annotation opens more here."""
    return {"match": _model({"string_match": {"exact": model}}), **skip(BELOW), **way}


def _answering(route: ServiceRoute, model: str) -> ServiceRoute:
    """The side of a route that knows this name; both, if both do."""
    if model in route.model_names:
        return route if model in route.canary_names else replace(route, canary=())
    return replace(route, stable=(), canary_percent=100)


def _ambiguous(model: str, choices: tuple[ServiceId, ...]) -> Resource:
    message = f"The model `{model}` is ambiguous; write {' or '.join(f'`{choice}`' for choice in choices)}."
    return refusal(_model({"string_match": {"exact": model}}), 404, message, param="model", read_body=True)


def _ambiguous_path(model: str, choices: tuple[ServiceId, ...]) -> Resource:
    paths = " or ".join(f"/{choice}/v1/…" for choice in choices)
    message = f"More than one service serves a model `{model}`; use the path {paths}."
    return refusal(_model({"string_match": {"exact": model}}), 404, message, param="model", read_body=True)


def _model_list_routes(listing: str) -> list[Resource]:
    return [
        answer({"path": "/v1/models", "headers": [_method("GET|HEAD")]}, 200, listing),
        refusal({"path": "/v1/models"}, 405, "the list of models can only be read", allow="GET, HEAD"),
    ]


def _model_list(models: Models) -> Resource:
    known = {model: choices[0] for model, choices in models.items() if len(choices) == 1}
    # `created` must be there, but is unknown; and what never changes by itself needs no new table.
    entries = [
        {"id": model, "object": "model", "created": 0, "owned_by": service.namespace}
        for model, service in sorted(known.items())
    ]
    return {"object": "list", "data": entries}


def _nowhere() -> Resource:
    message = (
        "no service here; the ways in are /v1/… with a `model`, /{namespace}/{name}/v1/…, and a service's host name"
    )
    return refusal({"prefix": "/"}, 404, message)


def _to(route: ServiceRoute, *, grpc: bool = False) -> Resource:
    """Where requests go, and under which name they are counted."""
    action = {**_weights(route, grpc), "timeout": f"{route.request_timeout or 0:.3f}s", "idle_timeout": STREAM_IDLE}
    return {"stat_prefix": str(route.service), "route": action}


def _weights(route: ServiceRoute, grpc: bool) -> Resource:
    """The canary has its share while both sides can take requests; else the side that can has all of them."""
    cluster = GRPC if grpc else CLUSTER
    stable, canary = (
        any((e.takes_grpc if grpc else not e.grpc) and not e.draining for e in side)
        for side in (route.stable, route.canary)
    )
    percent = route.canary_percent if canary else 0
    if percent and not stable:
        percent = 100
    chosen = [
        {"name": cluster, "weight": weight, "metadata_match": subset(str(route.service), part)}
        for part, weight in (("stable", 100 - percent), ("canary", percent))
        if weight
    ]
    if len(chosen) == 1:
        return {"cluster": cluster, "metadata_match": chosen[0]["metadata_match"]}
    return {"weighted_clusters": {"clusters": chosen}}


def _model(value: Resource) -> Resource:
    """Matches requests by the model that their body names."""
    metadata = {"filter": MODEL_METADATA, "path": [{"key": "model"}], "value": value}
    return {"prefix": "/v1/", "dynamic_metadata": [metadata]}


def _method(pattern: str, *, invert: bool = False) -> Resource:
    return {"name": ":method", "string_match": {"safe_regex": {"regex": pattern}}, "invert_match": invert}


def _literal(name: str) -> str:
    """Names are DNS labels; if one ever is not, it must not become a wildcard or another path."""
    return quote(name, safe="")
