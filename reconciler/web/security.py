"""What every answer of a page tells browsers to refuse, and which names the pages answer to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.config.web import Web

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types page"
    ),
    "X-Content-Type-Options": "nosniff",
    # For browsers that do not know frame-ancestors.
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": (
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-read=()"
    ),
    # Kept by the browser alone, and asked for again each time.
    "Cache-Control": "private, no-cache",
}

# What programs ask, from wherever they are, and what needs no login.
_FOR_PROGRAMS = re.compile(r"/(?:healthz|readyz|metrics|prometheus/.*|webhooks/.*)", re.DOTALL)
_MISDIRECTED = 421
_PORTLESS = re.compile(r"[^:]+|\[[^]]*\]")


def is_for_programs(path: str) -> bool:
    """Monitoring and forges have no login here; webhooks are signed."""
    return _FOR_PROGRAMS.fullmatch(path) is not None


class PageSecurity:
    """Around everything on the port, and without effect on what programs ask.

    Where no login is configured, whoever reaches the loopback address sees the pages. So could the site of a stranger
    in a browser on this host, once its name points here (DNS rebinding): its requests still carry that name.
    """

    def __init__(self, app: ASGIApp, web: Web) -> None:
        self._app = app
        self._is_checked = not web.auth.is_used
        self._known = urlsplit(web.url).hostname if web.url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_for_programs(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, **_over_tls(scope["scheme"], host)}.items():
                    headers.setdefault(name, value)
            await send(message)

        host = Headers(scope=scope).get("host", "")
        app = self._app if self._answers_to(host) else PlainTextResponse(_refusal(host), _MISDIRECTED)
        await app(scope, receive, send_safely)

    def _answers_to(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return not self._is_checked
        return not self._is_checked or name == self._known or _is_loopback(name.removesuffix("."))


def _over_tls(scheme: str, host: str) -> Mapping[str, str]:
    """Only for a name without a port: it binds all ports of the name, also those where somebody else serves."""
    return {"Strict-Transport-Security": "max-age=31536000"} if scheme == "https" and _PORTLESS.fullmatch(host) else {}


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _refusal(host: str) -> str:
    return (
        f"This page was asked as {host[:100]!a}. While no login is configured, it answers only to localhost, "
        "127.0.0.1, [::1] and the host of web.url, so that no other site can read it through a browser on this host. "
        "Set web.url to the address that people use, or configure web.auth.\n"
    )
