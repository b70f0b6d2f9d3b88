"""A forge behind the proxy that HTTPS_PROXY names, as git reaches it."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from reconciler.errors import Retryable
from reconciler.forge.http import Request
from tests.forge.local_forge import Asked, Reply, local_forge
from tests.source.https_server import answering

GET = Request("GET", "/user")


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.asked: list[tuple[str, str]] = []


class _Tunnel(BaseHTTPRequestHandler):
    server: _Proxy
    protocol_version: ClassVar[str] = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
        host, _, port = self.path.partition(":")
        with closing(socket.create_connection((host, int(port)))) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(there, self.connection), daemon=True)
            back.start()
            _copy(self.connection, there)
            back.join(5)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Proxy]:
    for name in ("HTTPS_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with answering(_Proxy()) as found:
        monkeypatch.setenv("https_proxy", f"http://me:pass%20word@127.0.0.1:{found.server_port}")
        yield found


def fine(_: Asked) -> Reply:
    return Reply(body={"login": "bot"})


def test_forge_behind_a_proxy_is_asked_through_it_alone(proxy: _Proxy, tmp_path: Path):
    with local_forge(tmp_path, fine) as forge, closing(forge.http()) as http:
        assert http.ask(GET).body == {"login": "bot"}
        assert "Proxy-Authorization" not in forge.asked[0].headers
        login = base64.b64encode(b"me:pass word").decode()
        assert proxy.asked == [(forge.url.removeprefix("https://"), f"Basic {login}")]


def test_forge_that_no_proxy_names_is_asked_directly(proxy: _Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with local_forge(tmp_path, fine) as forge, closing(forge.http()) as http:
        assert http.ask(GET).status == 200
    assert proxy.asked == []


@pytest.mark.parametrize("address", ["ftp://me:hush@proxy", "http://me:hush@proxy:port"])
def test_proxy_that_cannot_be_is_told_without_its_password(
    address: str, proxy: _Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("https_proxy", address)
    with local_forge(tmp_path, fine) as forge, pytest.raises(Retryable, match="HTTPS_PROXY") as caught:
        forge.http().ask(GET)
    assert "hush" not in str(caught.value)


def test_proxy_that_is_away_is_told_without_its_password(
    proxy: _Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("https_proxy", "http://me:hush@127.0.0.1:1")
    with local_forge(tmp_path, fine) as forge, closing(forge.http()) as http, pytest.raises(Retryable) as caught:
        http.ask(GET)
    assert "hush" not in str(caught.value)
