"""What Envoy answers to gRPC by itself: a status and a message of gRPC in place of JSON. Pure.

Envoy turns the HTTP status into one of gRPC (403 into PERMISSION_DENIED, 404 into UNIMPLEMENTED, 503 into UNAVAILABLE,
which clients may try again) unless the answer names another.
"""

from __future__ import annotations

from typing import Any

from reconciler.host.routing.paths import ANNOTATION

Resource = dict[str, Any]

CONTENT_TYPE = "application/grpc"
_DEADLINE_EXCEEDED, _RESOURCE_EXHAUSTED = 4, 8


def shapes() -> list[Resource]:
    """For requests of gRPC alone, the most specific first."""
    return [
        _shape(_status(413), "the request is too large", _RESOURCE_EXHAUSTED),
        _shape(_status(403), f"this method is not open; open more with the service's annotation {ANNOTATION}"),
        _shape(_status(408), "the request did not arrive in time", _DEADLINE_EXCEEDED),
        _shape(_status(404), "no service takes gRPC here; call it by its host name"),
        _shape(_flags("UT", "SI"), "the service did not respond in time", _DEADLINE_EXCEEDED),
        _shape(_flags("UH", "NC", "UO"), "no replica of this service is ready"),
        _shape(_flags("UF", "UC", "LR", "UR", "URX", "UPE"), "the replica closed the connection before it responded"),
        _shape(_status(500), "the proxy holds more than it can; try again", status=503),
        _shape(_status(503), "the proxy holds more than it can; try again"),
    ]


def _shape(when: Resource, message: str, grpc_status: int | None = None, status: int = 0) -> Resource:
    header = {"header": {"key": "grpc-status", "value": str(grpc_status)}}
    return {
        "filter": {"and_filter": {"filters": [_IS_GRPC, when]}},
        "body_format_override": {"text_format_source": {"inline_string": message}},
        **({"status_code": status} if status else {}),
        **({"headers_to_add": [header]} if grpc_status is not None else {}),
    }


_IS_GRPC: Resource = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": CONTENT_TYPE}}}}


def _flags(*flags: str) -> Resource:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(code: int) -> Resource:
    value = {"default_value": code, "runtime_key": f"reconciler.grpc_answer_{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
