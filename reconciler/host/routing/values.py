"""How many values the JSON of a request may have where Envoy reads its `model`. Pure.

Envoy's own filter builds all of a body in memory, and a short value takes a hundred times its size there: 31 MiB of
`1,1,1…` took 3 GB and held a thread for 8 s. So they are counted first, outside of strings, and as they lie.
"""

from __future__ import annotations

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
