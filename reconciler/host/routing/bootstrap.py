"""The static configuration of Envoy: its bootstrap, the one listener and the clusters. Pure; the resources are plain
dicts.

All replicas of a host stand in one cluster, or in its like for gRPC, and each service is a subset of it. A cluster per
service would need a watched file per service, and Envoy holds one inotify instance per watched file: at Linux's default
of 128 per user it aborts, streams and all, when one service too many is added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reconciler.config.settings import Routing
from reconciler.config.values import parse_listen
from reconciler.host.routing import filters, paths

Resource = dict[str, Any]

CLUSTER = "replicas"
PASSTHROUGH = "passthrough"
GRPC = "grpc"
# Where an endpoint says that it speaks TLS.
TLS_MATCH = "envoy.transport_socket_match"
ROUTES = "services"
STATS = "gateway"
# Where the body's `model` lands.
MODEL_METADATA = "reconciler.model"

TYPE = "type.googleapis.com/"
_HTTP = TYPE + "envoy.extensions.filters.http."
_UNLIMITED = 1_000_000
_FEWEST_CONNECTIONS, _MOST_CONNECTIONS, _OWN_DESCRIPTORS = 16, 8_000, 128
_MIB = 1 << 20
# What is reserved for incomplete bodies, in addition to connections and tables of routes.
_HEAP, _BODIES = 384 * _MIB, 8
_FULL = 8 / 3
MEMORY_FACTOR = 2
"""How much more memory than its full heap an Envoy may take: the kernel's buffers for its connections count as well."""
_HEAP_MONITOR = "envoy.resource_monitors.fixed_heap"
# vLLM closes a connection that idled for 5 s; we must let go of it first, or a request meets a closing connection.
_UPSTREAM_IDLE = "3s"
STREAM_IDLE = "3600s"
# A request must be whole by then, and nothing of it may stand still for so long. Its answer may take its time.
_BODY_DEADLINE, _BODY_IDLE = "60s", "20s"
_RETRY_AFTER = "5"
_CLOSED = (
    "this path is not open. A service with an API key opens only /v1/…; others open inference paths: /v1/…, /tokenize, "
    f"/score, /v2/models/…. Open more with the service's annotation {paths.ANNOTATION}"
)
_TOO_LARGE = (
    f"the request body is too large; one of more than {filters.MOST:,} JSON values is, too, where it is routed by its "
    "`model`: use /{namespace}/{name}/v1/… for that"
)
_BUSY = "the proxy holds more than it can; try again"
_KEEPALIVE = {"tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 10}}
_TLS_INSPECTOR = TYPE + "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"


def bootstrap(max_body_bytes: int, descriptors: float = math.inf) -> Resource:
    """Where Envoy finds its other resources. Paths are relative: Envoy runs inside the proxy's folder.

    It may open so many `descriptors`. One that has none left can neither serve nor be reconfigured: before that, it
    refuses connections.
    """
    return {
        "node": {"id": "reconciler", "cluster": "reconciler"},
        "admin": {"address": {"pipe": {"path": "./admin.sock", "mode": 0o600}}},
        "dynamic_resources": {"lds_config": _file("lds"), "cds_config": _file("cds")},
        "overload_manager": _overload(max_body_bytes, descriptors),
    }


def full_heap(max_body_bytes: int) -> int:
    """The bytes with which Envoy takes nothing more. It never gets there by requests alone."""
    return int(_FULL * max(_HEAP, _HEAP // 3 + _BODIES * max_body_bytes))


def _overload(max_body_bytes: int, descriptors: float) -> Resource:
    """Who sends much is cut off first.

    From a share of the full heap on, each time that something arrives on a connection it may be refused, the likelier
    the fuller. A small request arrives at once and a large body in a hundred parts, so hardly any of the one kind meets
    that and hardly any of the other escapes it. Of HTTP/2 the largest requests, or responses that are not read, are
    ended as well.
    """
    heap = {"@type": TYPE + "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig"}
    scaled = {"scaled": {"scaling_threshold": 1 / _FULL, "saturation_threshold": 1.0}}
    triggers = [{"name": _HEAP_MONITOR, **scaled}]
    action = "envoy.overload_actions."
    return {
        "refresh_interval": "0.025s",
        # Only requests and answers with less than 4 KiB are never ended for it: a connection has a hundred at once.
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 12},
        "resource_monitors": [
            {"name": _HEAP_MONITOR, "typed_config": {**heap, "max_heap_size_bytes": full_heap(max_body_bytes)}},
            _connection_limit(descriptors),
        ],
        "loadshed_points": [{"name": "envoy.load_shed_points.http1_server_abort_dispatch", "triggers": triggers}],
        "actions": [
            {"name": action + "reset_high_memory_stream", "triggers": triggers},
            {"name": action + "stop_accepting_requests", "triggers": _from(0.95)},
            {"name": action + "shrink_heap", "triggers": _from(1 / _FULL)},
        ],
    }


def _from(share: float) -> list[Resource]:
    return [{"name": _HEAP_MONITOR, "threshold": {"value": share}}]


def cluster() -> Resource:
    """The cluster of all replicas. A request is balanced inside the subset of its service."""
    options = {
        "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return _asked(CLUSTER, "eds", options)


def grpc_cluster() -> Resource:
    """The cluster of those that speak gRPC, which needs HTTP/2."""
    return _asked(GRPC, "grpc", {"explicit_http_config": {"http2_protocol_options": {}}})


def _asked(name: str, file: str, options: Resource) -> Resource:
    """A cluster of replicas that requests are balanced over."""
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        **_replicas(name, file, _part("stable"), _part("canary"), {"keys": ["service"]}),
        "transport_socket_matches": [{"name": "tls", "match": {"tls": "yes"}, "transport_socket": _tls_to_replica()}],
        "typed_extension_protocol_options": {protocol: {"@type": TYPE + protocol, **options}},
    }


def passthrough_cluster() -> Resource:
    """The replicas that end TLS themselves, for connections that are handed to them byte by byte."""
    return _replicas(PASSTHROUGH, "tls", {"keys": ["service"]})


def _replicas(name: str, file: str, *subsets: Resource) -> Resource:
    """A cluster of replicas that a file names. A request picks one within a subset."""
    return {
        "@type": TYPE + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _file(file)},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "lb_subset_config": {"fallback_policy": "NO_FALLBACK", "subset_selectors": list(subsets)},
        # Without these, a service whose replicas all drain would still get requests.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "ignore_health_on_host_removal": True,
        "circuit_breakers": {"thresholds": [_no_limits()]},
        "upstream_connection_options": _KEEPALIVE,
    }


def _tls_to_replica() -> Resource:
    """Nothing is verified: replicas listen on the loopback address, and their certificate is for their clients."""
    context = {"@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}
    return {"name": "tls", "typed_config": context}


def _part(name: str) -> Resource:
    # A request keeps the routes it came in with. If its body took longer than a rollout, the part it was meant for may
    # be empty by now; any replica of the service is better than an error.
    return {"keys": ["service", name], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["service"]}


def listener(settings: Routing, passthrough: Mapping[str, Resource] | None = None) -> Resource:
    """The one way in. TLS for one of these host names is passed through to the replicas that its metadata names.

    Envoy changes its filter chains in place: connections in the others are not touched.
    """
    host, port = parse_listen(settings.listen)
    both = {"ipv4_compat": True} if host == "::" else {}
    return {
        "@type": TYPE + "envoy.config.listener.v3.Listener",
        "name": "entrance",
        "address": {"socket_address": {"address": host, "port_value": port, **both}},
        # A second process on the same port must fail, and not take half of the connections.
        "enable_reuse_port": False,
        "listener_filters": [{"name": "tls_inspector", "typed_config": {"@type": _TLS_INSPECTOR}}],
        # A client may connect long before it says anything.
        "continue_on_listener_filters_timeout": True,
        "filter_chains": [
            {
                "name": "http",
                "filter_chain_match": {"transport_protocol": "raw_buffer"},
                "filters": [{"name": "http", "typed_config": _connection_manager(settings.max_body_bytes)}],
            },
            *(_passthrough_chain(host, replicas) for host, replicas in sorted((passthrough or {}).items())),
        ],
    }


def _passthrough_chain(host: str, replicas: Resource) -> Resource:
    proxy = {
        "@type": TYPE + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": PASSTHROUGH,
        "cluster": PASSTHROUGH,
        "metadata_match": replicas,
        "idle_timeout": STREAM_IDLE,
        "max_connect_attempts": 4,
    }
    return {
        "name": host,
        "filter_chain_match": {"transport_protocol": "tls", "server_names": [host]},
        "filters": [{"name": "passthrough", "typed_config": proxy}],
    }


def _connection_manager(max_body_bytes: int) -> Resource:
    return {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STATS,
        # Holds until a request has a route, which has one of its own for what comes then.
        "stream_idle_timeout": _BODY_IDLE,
        "request_headers_timeout": "30s",
        "request_timeout": _BODY_DEADLINE,
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 1 << 16,
            "initial_connection_window_size": 1 << 20,
        },
        # The engine decodes slashes, so what it will see is what is looked at.
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        "normalize_path": True,
        "merge_slashes": True,
        "strip_trailing_host_dot": True,
        "server_header_transformation": "PASS_THROUGH",
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        # No client may set Envoy's own headers (timeouts, retries), wherever it connects from. An empty list of
        # internal addresses would mean all private ones, so it names one that no client has.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "rds": {"route_config_name": ROUTES, "config_source": _file("rds")},
        "http_filters": [
            *({"name": name, "typed_config": rules} for name, rules in paths.filters()),
            {"name": "size", "typed_config": _limit(max_body_bytes)},
            {"name": "buffer", "typed_config": _buffer(max_body_bytes)},
            {"name": "values", "typed_config": filters.counting()},
            {"name": "model", "typed_config": _read_model()},
            {
                "name": "router",
                "typed_config": {"@type": _HTTP + "router.v3.Router", "suppress_envoy_headers": True},
            },
        ],
        "local_reply_config": {"mappers": _error_shapes()},
    }


def _limit(max_body_bytes: int) -> Resource:
    """Counts as the body goes by. A longer one that is announced gets nowhere."""
    return {"@type": _HTTP + "body_size_limit.v3.BodySizeLimit", "max_request_bytes": max_body_bytes}


def _buffer(max_body_bytes: int) -> Resource:
    return {"@type": _HTTP + "buffer.v3.Buffer", "max_request_bytes": max_body_bytes}


def _read_model() -> Resource:
    """Puts the body's `model` where routes can match it. Whatever is wrong with the body, nothing is put there."""
    rule = {
        "selectors": [{"key": "model"}],
        "on_present": {"metadata_namespace": MODEL_METADATA, "key": "model", "type": "STRING"},
    }
    return {
        "@type": _HTTP + "json_to_metadata.v3.JsonToMetadata",
        "request_rules": {"rules": [rule], "allow_content_types_regex": {"regex": "(?i)application/json.*"}},
    }


def _error_shapes() -> list[Resource]:
    """Every answer that Envoy itself gives, as an OpenAI client expects an error, or one of gRPC."""
    return [
        *filters.shapes(),
        _error(_status(413), _TOO_LARGE, "BadRequestError"),
        _error(_status(403), _CLOSED, "PermissionDeniedError"),
        _error(_status(408), "the request did not arrive in time", "TimeoutError"),
        # Envoy's response text for what it sheds.
        _error(_status(500), _BUSY, "ServiceUnavailableError", retry=True, status=503),
        _error(_flags("OM"), _BUSY, "ServiceUnavailableError", retry=True),
        _error(_flags("UT", "SI"), "the service did not respond in time", "TimeoutError"),
        _error(_flags("UH", "NC", "UO"), "no replica of this service is ready", "ServiceUnavailableError", retry=True),
        _error(
            _flags("UF", "UC", "LR", "UR", "URX", "UPE"),
            "the replica closed the connection before it responded",
            "ServiceUnavailableError",
            retry=True,
        ),
    ]


def _error(when: Resource, message: str, kind: str, *, retry: bool = False, status: int = 0) -> Resource:
    shape = {"error": {"message": message, "type": kind, "param": None, "code": "%RESPONSE_CODE%"}}
    header = {"header": {"key": "retry-after", "value": _RETRY_AFTER}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "filter": when,
        "body_format_override": {"json_format": shape, "content_type": "application/json"},
        **({"status_code": status} if status else {}),
        **({"headers_to_add": [header]} if retry else {}),
    }


def _flags(*flags: str) -> Resource:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(code: int) -> Resource:
    value = {"default_value": code, "runtime_key": f"reconciler.answer_{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _no_limits() -> Resource:
    # The engine queues; a limit here would turn its queue into errors.
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return dict.fromkeys(limits, _UNLIMITED)


def _connection_limit(descriptors: float) -> Resource:
    # Each takes two, one of them to a replica, and Envoy has its own.
    most = max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, (descriptors - _OWN_DESCRIPTORS) / 2))
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": int(most),
        },
    }


def _file(name: str) -> Resource:
    return {"resource_api_version": "V3", "path_config_source": {"path": f"./{name}.json"}}
