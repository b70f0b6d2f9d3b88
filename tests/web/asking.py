"""Browsers and scripts that ask a web side, as people who may something, strangers, or other sites make them ask."""

from __future__ import annotations

import hashlib
import http.client
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from reconciler.config.settings import Settings, Web
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support import report_world
from tests.web.fake_loop import FakeLoop

ADA, BOB = "ada's token: an operator", "bob's token: a viewer"
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
COOKIE = "reconciler"
PROXY = "127.0.0.2"
"""Address from which a proxy connects."""


def token(name: str, text: str, role: str) -> dict[str, str]:
    return {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "role": role}


TOKENS = (token("ada", ADA, "operator"), token("bob", BOB, "viewer"))
BY_PROXY = {"addresses": [PROXY], "viewers": ["team"], "operators": ["admins"]}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    text: str

    @property
    def cookie(self) -> str:
        """The session that is set."""
        return (self.headers["set-cookie"] or "").partition(";")[0].partition("=")[2]


@dataclass
class Asker:
    """One client. `source`: the address that it connects from; `cookie`: the session that it shows."""

    web: WebSide
    source: str = "127.0.0.1"
    cookie: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    address: str = ""

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | list[tuple[str, str]] = (), body: str | None = None
    ) -> Answer:
        host, port = self.web.address
        kind = {"context": self.tls} if self.tls else {}
        make = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        connection = make(
            self.address or host, port, timeout=10, source_address=(self.source, 0) if self.source else None, **kind
        )
        try:
            connection.putrequest(method, path, skip_host=True)
            for name, value in self._headers(headers, body):
                connection.putheader(name, value)
            connection.endheaders(body.encode() if body is not None else None)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()

    def get(self, path: str = "/", headers: Mapping[str, str] | list[tuple[str, str]] = ()) -> Answer:
        return self.ask("GET", path, headers)

    def post(self, path: str, form: Mapping[str, str], headers: Mapping[str, str] = SAME_ORIGIN) -> Answer:
        """As a browser sends a form."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, {**kind, **headers}, urlencode(form))

    def log_in(self, text: str, next_: str = "/") -> Answer:
        """Whoever succeeds shows the session from now on."""
        answer = self.post("/login", {"token": text, "next": next_})
        self.cookie = answer.cookie or self.cookie
        return answer

    def _headers(self, given: Any, body: str | None) -> Iterator[tuple[str, str]]:
        known = list(given.items()) if isinstance(given, Mapping) else list(given)
        names = {name.lower() for name, _ in known}
        yield from known
        yield from ((name, value) for name, value in self.headers.items() if name.lower() not in names)
        if "host" not in names:
            yield "Host", f"{self.address or self.web.address[0]}:{self.web.address[1]}"
        if "accept" not in names and "Accept" not in self.headers:
            yield "Accept", HTML
        if self.cookie and "cookie" not in names:
            yield "Cookie", f"{COOKIE}={self.cookie}"
        if body is not None:
            yield "Content-Length", str(len(body.encode()))


def config(folder: Path, **web: Any) -> Settings:
    """`web`: the section of the config."""
    return report_world.settings(folder, web=Web(**({"listen": "127.0.0.1:0"} | web)))


@contextmanager
def serving(settings: Settings, loop: FakeLoop | None = None) -> Iterator[WebSide]:
    settings.state_dir.mkdir(mode=0o700, exist_ok=True)
    side = WebSide(settings, loop or FakeLoop(), Metrics())
    side.start()
    try:
        yield side
    finally:
        side.stop()
