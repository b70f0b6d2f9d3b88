"""Which paths of an engine are open to clients: those for inference, and never those that control the engine. Pure.

Envoy's RBAC filter stands in the chain twice: once for paths as an engine sees them, once for those below
`/{namespace}/{name}`. A route leaves out the one that is not for it; without an entry of its own it gets the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

ANNOTATION = "reconciler/open-paths"
PLAIN, BELOW = "paths", "paths_below"
"""The two filters."""

Rules = dict[str, object]

_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3."
# What stands before an engine's paths, for either filter.
_BEFORE = {PLAIN: "", BELOW: "/[^/]+/[^/]+"}

# Envoy limits the size of a pattern: hence one for each path.
_KEYED = ("/v1/.*",)
"""What an engine asks its key for."""
# What vLLM and KServe's protocols answer requests by. `/invocations` and `/generative_scoring` answer without the key.
_INFERENCE = (
    *_KEYED,
    *("/tokenize", "/detokenize", "/pooling", "/classify", "/score", "/rerank", "/ping", "/health"),
    *("/embed", "/embed_all", "/embed_sparse", "/embeddings", "/v2/embed", "/v2/rerank"),
    *("/v2", "/v2/health/(live|ready)", "/v2/models", "/v2/models/[^/]+", "/v2/models/[^/]+/versions/[^/]+"),
    *("/v2/models/[^/]+/(ready|config|stats|infer)", "/v2/models/[^/]+/generate(_stream)?"),
    "/v2/models/[^/]+/versions/[^/]+/(ready|config|stats|infer)",
    "/v2/models/[^/]+/versions/[^/]+/generate(_stream)?",
)
_HEALTH = (r"/grpc\.health\.v1\.Health/(Check|Watch)",)
# Of vLLM's two gRPC servers, and of KServe's second protocol.
_GRPC = (
    *_HEALTH,
    r"/vllm\.grpc\.engine\.VllmEngine/(Generate|Embed|HealthCheck|GetModelInfo)",
    r"/vllm\.Inference/(Generate|GenerateStream)",
    r"/inference\.GRPCInferenceService/(ServerLive|ServerReady|ServerMetadata|ModelReady|ModelMetadata|ModelInfer)",
)
# What steers an engine by gRPC, wherever it stands.
_GRPC_STEERING = (
    *(r"vllm\.Control", "FlushCache", "Abort", "Repository[a-z]*", "[a-z]*SharedMemory[a-z]*"),
    *("TraceSetting", "LogSettings", "SubscribeKvEvents"),
)
_ADAPTERS = "/v1/(un)?load_lora_adapter"
# Of vLLM 0.32, with and without VLLM_SERVER_DEV_MODE, and the like of other engines.
_STEERING = (
    *("collective_rpc", "wake_up", "pause", "resume", "is_paused", "get_world_size", "kv_event_sources"),
    *("fault_tolerance", "load", "metrics", "docs", "redoc", r"openapi\.json", "static", "shutdown", "flush_cache"),
    *("configure_logging", "freeze_gc", "[a-z_]*sleep(ing)?", "[a-z_]*elastic_ep", "[a-z_]*server_info"),
    *("[a-z_]*profile", "[a-z_]*abort_requests?", "[a-z_]*memory_occupation", "reset_[a-z_]*", "release_[a-z_]*"),
    *("[a-z_]*weights?(_[a-z_]*)?", "v2/repository"),
)
_LISTED = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", re.ASCII)
_LONGEST, _MOST = 60, 32


def find_fault(paths: tuple[str, ...]) -> str:
    """Why these cannot be opened, or None."""
    if len(paths) > _MOST:
        return f"names {len(paths)} paths, more than {_MOST}"
    for path in paths:
        if len(path) > _LONGEST or not _LISTED.fullmatch(path):
            shown = path[:_LONGEST]
            return f'"{shown}" must be a path such as /generate: letters, digits and - . _ ~, {_LONGEST} at most'
        if any(re.fullmatch(pattern, path) for pattern in (*_steering(""), *_steering("", _GRPC_STEERING))):
            return f'"{path}" steers the engine: it is for no client, and cannot be opened'
    return ""


def filters() -> Iterator[tuple[str, Rules]]:
    """Both, by name, with the default paths of a service without the annotation."""
    for name, before in _BEFORE.items():
        yield name, {"@type": _RBAC + "RBAC", "rules": _rules([_usual(before, _INFERENCE)])}


def own_rules(name: str, guarded: bool, opened: tuple[str, ...]) -> Rules | None:
    """A route's settings for the filter of this name; None where the default applies."""
    if not guarded and not opened:
        return None
    before = _BEFORE[name]
    usual = _usual(before, _KEYED if guarded else _INFERENCE)
    more = (_opened(before, path) for path in opened)
    return {"@type": _RBAC + "RBACPerRoute", "rbac": {"rules": _rules([usual, *more])}}


def grpc_rules(guarded: bool, opened: tuple[str, ...]) -> Rules:
    """The settings of the gRPC route for the filter of plain paths. No gRPC server checks a key."""
    usual = _but(_HEALTH if guarded else _GRPC, ())
    closed = (*_steering(""), *_steering("", _GRPC_STEERING))
    more = (_but([f"{re.escape(path)}(/.*)?"], closed) for path in opened)
    return {"@type": _RBAC + "RBACPerRoute", "rbac": {"rules": _rules([usual, *more])}}


def _usual(before: str, patterns: tuple[str, ...]) -> Rules:
    return _but((before + each for each in patterns), (f"{before}{_ADAPTERS}.*",))


def _opened(before: str, path: str) -> Rules:
    """The path and what is below it; adapters only where they are named."""
    adapters = () if re.match(_ADAPTERS, path) else (f"{before}{_ADAPTERS}.*",)
    return _but([f"{before}{re.escape(path)}(/.*)?"], (*adapters, *_steering(before)))


def _steering(before: str, words: tuple[str, ...] = _STEERING) -> Iterator[str]:
    """Wherever in a path they stand: an engine may have another root."""
    return (f"(?i){before}(/.*)?/{word}([/;%].*)?" for word in words)


def _but(patterns: Iterable[str], closed: Iterable[str]) -> Rules:
    """Paths of one of the patterns and of none of the closed ones."""
    some: Rules = {"or_rules": {"rules": [_path(each) for each in patterns]}}
    return {"and_rules": {"rules": [some, *({"not_rule": _path(each)} for each in closed)]}}


def _path(pattern: str) -> Rules:
    return {"url_path": {"path": {"safe_regex": {"regex": pattern}}}}


def _rules(permissions: list[Rules]) -> Rules:
    return {"action": "ALLOW", "policies": {"open": {"permissions": permissions, "principals": [{"any": True}]}}}
