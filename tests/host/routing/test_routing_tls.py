"""Engines that end TLS themselves: handed their clients' TLS as it is, by host name. Real Envoy, real TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.config.settings import Routing
from reconciler.engines.probe import Probe
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.model import Routed, ServiceRoute
from tests.support.ports import free_port
from tests.support.proxy_parts import Backend, Client, ask, load, route, seat, service, wait_for

pytestmark = pytest.mark.slow

TINY = service("tiny")
NAME = "tiny-demo.example.com"


@dataclass
class Gateway:
    proxy: EnvoyProxy
    port: int
    certificate: Path

    def backend(self, name: str) -> Backend:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return Backend(name, tls=context)

    def connect(self, name: str = NAME) -> http.client.HTTPSConnection:
        """A client that trusts this one certificate, and nobody who stands in between."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection(name, self.port, timeout=20, context=context)
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sock = context.wrap_socket(raw, server_hostname=name)
        return connection

    def ask(self, name: str = NAME) -> str:
        with contextlib.closing(self.connect(name)) as connection:
            return answer(connection)

    def in_flight(self, backend: Backend) -> int | None:
        return self.proxy.observe().endpoint(backend.port).in_flight


def answer(connection: http.client.HTTPSConnection) -> str:
    connection.request("POST", "/v1/completions", b"{}", {"content-type": "application/json"})
    return str(json.loads(connection.getresponse().read())["name"])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("tls")
    pem = folder / "server.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(folder / "key.pem")]
    name = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME},DNS:other-demo.example.com"]
    made = ["openssl", "req", "-x509", "-days", "2", *key, *name, "-out", str(pem)]
    subprocess.run(made, check=True, capture_output=True)
    pem.write_text(pem.read_text() + (folder / "key.pem").read_text())
    port = free_port()
    proxy = EnvoyProxy(folder / "proxy", Routing(listen=f"127.0.0.1:{port}"))
    proxy.ensure_running()
    yield Gateway(proxy, port, pem)
    proxy.stop()


def table(*active: Backend, draining: Backend | None = None, passthrough: bool = True) -> tuple[ServiceRoute, ...]:
    seats = [seat(TINY, backend.port, backend.name, tls=True) for backend in active]
    if draining:
        seats.append(seat(TINY, draining.port, draining.name, draining=True, tls=True))
    return (ServiceRoute(TINY, tuple(seats), passthrough=passthrough),)


def test_tls_for_the_host_name_reaches_the_engine_unopened(gateway: Gateway) -> None:
    with gateway.backend("a") as a:
        gateway.proxy.apply(table(a))
        assert gateway.ask() == "a"
        assert gateway.proxy.observe().ready


def test_plain_http_still_has_its_three_ways_in(gateway: Gateway) -> None:
    with gateway.backend("a") as a:
        gateway.proxy.apply(table(a))
        assert ask(gateway.port, "/v1/completions", {"model": "tiny"}).json["name"] == "a"
        assert ask(gateway.port, "/demo/tiny/v1/completions", {}).json["name"] == "a"
        assert ask(gateway.port, "/v1/completions", {}, host=NAME).json["name"] == "a"


def test_tls_for_other_names_is_not_answered(gateway: Gateway) -> None:
    with gateway.backend("a") as a, Backend("plain") as plain:
        gateway.proxy.apply((*table(a), route("other", plain.port)))
        with pytest.raises((ssl.SSLError, OSError)):
            gateway.ask("other-demo.example.com")
        gateway.proxy.apply(table(a, passthrough=False))
        with pytest.raises((ssl.SSLError, OSError)):
            gateway.ask()


def test_draining_engine_keeps_its_connections_and_gets_no_new_ones(gateway: Gateway) -> None:
    with gateway.backend("a") as a, gateway.backend("b") as b:
        gateway.proxy.apply(table(a))
        old = gateway.connect()
        old.request("POST", "/v1/completions", b'{"stream": 60}', {"content-type": "application/json"})
        wait_for(lambda: gateway.in_flight(a) == 1)
        gateway.proxy.apply(table(b, draining=a))
        assert gateway.proxy.observe().endpoint(a.port).routed is Routed.DRAINING
        assert {gateway.ask() for _ in range(10)} == {"b"}
        assert gateway.in_flight(a) == 1
        text = old.getresponse().read().decode()
        assert text.endswith("data: a 59\n\ndata: [DONE]\n\n")
        old.close()
        wait_for(lambda: gateway.in_flight(a) == 0)
        gateway.proxy.apply(table(b))
        assert gateway.proxy.observe().endpoint(a.port).routed is Routed.ABSENT
        assert gateway.ask() == "b"


def test_other_services_lose_nothing_while_passthrough_comes_and_goes(gateway: Gateway) -> None:
    body = {"model": "plain"}
    with gateway.backend("a") as a, Backend("plain") as plain:
        others = (route("plain", plain.port),)
        gateway.proxy.apply((*others, *table(a, passthrough=False)))
        with contextlib.closing(Client(gateway.port)) as client, load(gateway.port, "/v1/completions", body) as seen:
            for _ in range(4):
                for passthrough in (True, False):
                    gateway.proxy.apply((*others, *table(a, passthrough=passthrough)))
                    # The very same connection: none is closed for a chain that it does not belong to.
                    assert client.ask("/v1/completions", body).headers.get("connection") != "close"
        assert seen.lost == []
        assert seen.served["plain"] > 20


def test_proxy_that_starts_again_passes_through_as_before(gateway: Gateway) -> None:
    with gateway.backend("a") as a:
        gateway.proxy.apply(table(a))
        gateway.proxy.stop()
        gateway.proxy.ensure_running()
        assert gateway.ask() == "a"
        assert gateway.proxy.observe().applied[TINY].passthrough


def test_probe_speaks_tls_to_such_an_engine(gateway: Gateway) -> None:
    with gateway.backend("a") as a:
        assert Probe(tls=True).health(a.port) is True
        assert Probe().health(a.port) is None
