"""The body of a request, as far as there is room for it."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 20


def content_type(request: Request) -> str:
    """In small letters and without parameters; empty where the request does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, most: int) -> bytes | None:
    """None: it has more bytes than that, and the rest is not read. Raises ClientDisconnect."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            return None
    return bytes(data)


async def read_form(request: Request, most: int) -> dict[str, str] | None:
    """The fields of an HTML form, each once; None for another kind of body, or one that is too long or broken off."""
    if content_type(request) != FORM:
        return None
    try:
        data = await read_body(request, most)
        fields = parse_qsl((data or b"").decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except (ClientDisconnect, ValueError):
        return None
    return dict(fields) if data is not None and len(dict(fields)) == len(fields) else None
