"""What Envoy's filters do: count the values of a body's JSON, and answer gRPC in its own form. Pure.

Envoy's own filter builds all of a body in memory, and a short value takes a hundred times its size there: 31 MiB of
`1,1,1…` took 3 GB and held a thread for 8 s. So they are counted first, outside of strings, and as they lie.

Envoy turns the HTTP status into one of gRPC (403 into PERMISSION_DENIED, 404 into UNIMPLEMENTED, 503 into UNAVAILABLE,
which clients may try again) unless the answer names another.
"""

from __future__ import annotations

from typing import Any

from reconciler.host.routing.paths import ANNOTATION

MOST = 200_000
"""A prompt of so many tokens fits; long texts and pictures are one value each."""
# What begins a value: `,` `[` `{`. What is no JSON is counted as well; it names no model in the end.
_COUNT = """
local most, step = %d, 65536
local byte, min = string.byte, math.min
function envoy_on_request(request)
  local body = request:body()
  if body == nil then return end
  local length, values, quoted, escaped = body:length(), 0, false, false
  for begin = 0, length - 1, step do
    local text = body:getBytes(begin, min(step, length - begin))
    for at = 1, #text do
      local c = byte(text, at)
      if escaped then escaped = false
      elseif quoted then
        escaped = c == 92
        quoted = c ~= 34
      elseif c == 34 then quoted = true
      elseif c == 44 or c == 91 or c == 123 then values = values + 1
      end
    end
    if values > most then
      request:respond({[":status"] = "413"}, "")
      return
    end
  end
end
"""


def counting() -> dict[str, object]:
    """The filter."""
    kind = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    return {"@type": kind, "default_source_code": {"inline_string": _COUNT % MOST}}


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
