"""What Envoy answers by itself: the list of models, and errors in the shape that OpenAI's clients read. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from reconciler.host.routing.bootstrap import TYPE, Resource
from reconciler.host.routing.paths import BELOW, PLAIN

_NOTHING: Mapping[str, Resource | None] = MappingProxyType({})
READING = ("buffer", "values", "model")
"""The filters that read a body to find its `model`."""
_ALL = (PLAIN, BELOW, *READING)
_KINDS = {400: "BadRequestError", 403: "PermissionDeniedError", 404: "NotFoundError", 405: "MethodNotAllowedError"}


def answer(match: Resource, status: int, body: str) -> Resource:
    """A route with a fixed JSON body."""
    return _route(match, status, {"body": {"inline_string": body}}, skip(*_ALL))


def refusal(
    match: Resource, status: int, message: str, *, param: str | None = None, allow: str = "", read_body: bool = False
) -> Resource:
    """A route with a fixed error. `read_body`: the request must pass the filters first, as they decide what matches."""
    text = json.dumps(_error(status, message, param))
    unread = skip(BELOW) if read_body else skip(*_ALL)
    return _route(match, status, {"body": {"inline_string": text}}, unread, allow)


def refusal_quoting(match: Resource, status: int, template: str, *, param: str) -> Resource:
    """A route with an error that quotes the request, by Envoy's %OPERATORS%."""
    shape = {"json_format": _error(status, template, param), "content_type": "application/json"}
    return _route(match, status, {"body_format": shape}, skip(BELOW))


def skip(*filters: str, own: Mapping[str, Resource | None] = _NOTHING) -> Resource:
    """Disables filters for the requests of one route; others apply its settings of `own`."""
    disabled = {"@type": TYPE + "envoy.config.route.v3.FilterConfig", "disabled": True}
    told = {name: rules for name, rules in own.items() if rules}
    return {"typed_per_filter_config": {**dict.fromkeys(filters, disabled), **told}}


def _error(status: int, message: str, param: str | None) -> Resource:
    return {"error": {"message": message, "type": _KINDS[status], "param": param, "code": status}}


def _route(match: Resource, status: int, body: Resource, extra: Resource, allow: str = "") -> Resource:
    headers = {"content-type": "application/json", **({"allow": allow} if allow else {})}
    return {
        "match": match,
        "direct_response": {"status": status, **body},
        "response_headers_to_add": [_header(name, value) for name, value in headers.items()],
        **extra,
    }


def _header(name: str, value: str) -> Resource:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
