"""The provider's process, and a person who logs in at it."""

from __future__ import annotations

import html
import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import pytest

from tests.controlplane.certificates import Authority

CLIENT, SECRET = "reconciler of:the tests", "a secret/with+signs%"
"""With characters that RFC 6749, 2.3.1 quotes."""
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Provider:
    """`issuer` has no slash at its end. Olga may act, Vera may look, Nina neither: `provider.mjs`."""

    issuer: str
    ca_file: Path


@contextmanager
def provider(folder: Path, *redirects: str) -> Iterator[Provider]:
    """One that runs until the block ends; skips where none is installed. `redirects`: where it may send people back to.
    `folder`: for its certificates."""
    installed = Path(os.environ.get("RECONCILER_TEST_OIDC", ""))
    if not (installed / "complete").is_file():
        pytest.skip("no identity provider to log in with: run tests/run.sh fast once, or set RECONCILER_TEST_OIDC")
    authority = Authority(folder)
    modules, certificate = installed / "node_modules", authority.server("provider")
    command: list[str | Path] = [
        installed / "node",
        HERE / "provider.mjs",
        modules,
        *certificate,
        CLIENT,
        SECRET,
        *redirects,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Provider(process.stdout.readline().strip(), authority.certificate)
        process.stdin.close()


class Person:
    """Somebody with a browser that keeps cookies; it goes nowhere but to the provider."""

    def __init__(self, provider: Provider) -> None:
        self._issuer = provider.issuer
        context = ssl.create_default_context(cafile=str(provider.ca_file))
        self._opener = build_opener(HTTPSHandler(context=context), HTTPCookieProcessor(), _Stays())

    def log_in(self, location: str, user: str) -> str:
        """The address that the provider sends them back to. `location`: where the daemon sent them."""
        where, page = self._follow(location)
        if not where.startswith(self._issuer):
            return where
        form = re.search(r'<form[^>]* action="([^"]+)"', page)
        assert form is not None, page
        data = urlencode({"prompt": "login", "login": user, "password": "any"}).encode()
        return self._follow(urljoin(where, html.unescape(form[1])), data)[0]

    def cancel(self, location: str) -> str:
        """The same, of who does not log in."""
        where, page = self._follow(location)
        link = re.search(r'href="([^"]+/abort)"', page)
        assert link is not None, page
        return self._follow(urljoin(where, html.unescape(link[1])))[0]

    def _follow(self, where: str, data: bytes | None = None) -> tuple[str, str]:
        """Where redirects end, and the page there; nothing of a page elsewhere."""
        while where.startswith(self._issuer):
            status, location, page = self._ask(Request(where, data))
            if status not in (302, 303):
                return where, page
            where, data = urljoin(where, location), None
        return where, ""

    def _ask(self, request: Request) -> tuple[int, str, str]:
        try:
            with self._opener.open(request, timeout=20) as response:
                return response.status, "", response.read().decode()
        except HTTPError as error:
            return error.code, error.headers.get("Location", ""), error.read().decode()


class _Stays(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None
