"""What a person asks of the daemon, over the control socket or on a page: the fields of a request, and what is done.

Every function raises BadRequest, UnknownService, or the ReconcileError that says why it cannot be done.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from starlette.requests import Request

from reconciler.errors import ReconcileError
from reconciler.model import ByHand
from reconciler.report.redact import printable
from reconciler.report.status import Document
from reconciler.state.suspension import LATEST
from reconciler.web.client import UnknownService, resolve_service
from reconciler.web.request_body import read_body

if TYPE_CHECKING:
    from reconciler.web.control import Control

MAX_BODY_BYTES = 64 << 10
MAX_REASON = 500


class BadRequest(Exception):
    """The request is invalid; the message says how."""


def status_code(error: BadRequest | ReconcileError) -> int:
    """HTTP's, of what any of these functions raises."""
    if isinstance(error, BadRequest):
        return 400
    return 404 if isinstance(error, UnknownService) else 409


def suspend(control: Control, body: Document, by: str) -> Document:
    service = service_in(control, body.get("service"))
    return {"suspended": control.suspend(service, asked_in(body, by))}


def resume(control: Control, body: Document, by: str) -> Document:
    return {"suspended": control.resume(service_in(control, body.get("service")), by)}


def approve(control: Control, body: Document, by: str) -> Document:
    return {"targets": control.approve(hash_in(body), target_in(body), asked_in(body, by))}


def withdraw(control: Control, body: Document, by: str) -> Document:
    return {"targets": control.withdraw(hash_in(body), target_in(body), asked_in(body, by))}


async def json_body(request: Request) -> Document:
    data = await read_body(request, MAX_BODY_BYTES)
    if data is None:
        raise BadRequest(f"body is larger than {MAX_BODY_BYTES} bytes")
    if not data:
        return {}
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("body is not JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("body is not a JSON object")
    return body


def service_in(control: Control, text: object, *, gone_is_fine: bool = False) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadRequest("service: expected text")
    return resolve_service(control.status(), text, gone_is_fine=gone_is_fine)


def target_in(body: Document) -> str | None:
    target = body.get("target")
    if not isinstance(target, str | None):
        raise BadRequest("target: expected text")
    return target


def hash_in(body: Document) -> str:
    found = body.get("hash")
    if not isinstance(found, str) or not found:
        raise BadRequest("hash: expected text, as `reconciler status` shows it")
    return found.lower()


def asked_in(body: Document, by: str) -> ByHand:
    reason, until = body.get("reason", ""), body.get("until")
    if not isinstance(reason, str) or len(reason) > MAX_REASON:
        raise BadRequest(f"reason: expected text of at most {MAX_REASON} characters")
    now = time.time()
    is_number = isinstance(until, int | float) and not isinstance(until, bool)
    if until is not None and not (is_number and now < until < LATEST):
        raise BadRequest("until: expected a time to come, in seconds since 1970")
    return ByHand(by, now, printable(reason), until)
