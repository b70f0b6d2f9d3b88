"""Routes that change while clients keep sending requests. Real Envoy; every response is verified by its content."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reconciler.config.settings import Routing
from reconciler.desired.serving_options import read_serving_options
from reconciler.errors import Retryable
from reconciler.host.routing import resources
from reconciler.host.routing.admin import EndpointState
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.routing.files import dump_routes
from reconciler.host.routing.paths import find_fault
from reconciler.manifests.documents import read_file
from reconciler.model import Endpoint, ReplicaId, Routed, ServiceRoute
from tests.desired.test_desired import with_predictor
from tests.support.ports import free_port
from tests.support.proxy_parts import Backend, Client, ask, load, route, seat, service, wait_for

pytestmark = pytest.mark.slow

TINY = service("tiny")
BODY = {"model": "tiny", "prompt": "x" * 100}


@dataclass
class Gateway:
    proxy: EnvoyProxy
    folder: Path
    port: int

    def in_flight(self, backend: Backend) -> int | None:
        return self.proxy.observe().endpoint(backend.port).in_flight

    def is_quiet(self, backend: Backend) -> bool:
        return self.in_flight(backend) == 0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    port, folder = free_port(), tmp_path_factory.mktemp("proxy")
    proxy = EnvoyProxy(folder, Routing(listen=f"127.0.0.1:{port}"))
    proxy.ensure_running()
    yield Gateway(proxy, folder, port)
    proxy.stop()


@pytest.fixture
def backends() -> Iterator[tuple[Backend, Backend, Backend]]:
    with Backend("a") as a, Backend("b") as b, Backend("c") as c:
        yield a, b, c


def table(*stable: Backend, draining: Backend | None = None, canary: Backend | None = None) -> tuple[ServiceRoute, ...]:
    seats = [seat(TINY, backend.port, backend.name) for backend in stable]
    if draining:
        seats.append(seat(TINY, draining.port, draining.name, draining=True))
    others = (seat(TINY, canary.port, canary.name),) if canary else ()
    return (ServiceRoute(TINY, tuple(seats), others, canary_percent=30 if canary else 0),)


def test_route_that_raises_stays_as_it_was_and_holds_up_no_other(
    gateway: Gateway, backends: tuple[Backend, Backend, Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    def served_by(odd: Backend, fine: Backend) -> tuple[ServiceRoute, ...]:
        return route("odd", odd.port), route("fine", fine.port)

    def to(one: ServiceRoute) -> dict[str, object]:
        if one.service.name == "odd" and one.stable[0].port == b.port:
            raise OverflowError("1e999")
        return known(one)

    a, b, c = backends
    known = resources._to
    gateway.proxy.apply(served_by(a, a))
    monkeypatch.setattr(resources, "_to", to)
    with pytest.raises(Retryable, match="the routes of demo/odd raise an error"):
        gateway.proxy.apply(served_by(b, c))
    applied = gateway.proxy.observe().applied
    assert [applied[service(name)].stable[0].port for name in ("odd", "fine")] == [a.port, c.port]
    monkeypatch.undo()
    gateway.proxy.apply(served_by(b, c))
    assert gateway.proxy.observe().applied[service("odd")].stable[0].port == b.port


@pytest.mark.parametrize("path", ["/v1/completions", "/demo/tiny/v1/completions"])
def test_rollouts_lose_nothing(gateway: Gateway, path: str) -> None:
    old = Backend("0")
    gateway.proxy.apply(table(old))
    with load(gateway.port, path, BODY) as seen:
        for number in range(1, 11):
            new = Backend(str(number))
            gateway.proxy.apply(table(old, new))
            gateway.proxy.apply(table(new, draining=old))
            wait_for(lambda leaving=old: gateway.is_quiet(leaving))
            wait_for(lambda leaving=old: gateway.is_quiet(leaving))
            old.close()
            gateway.proxy.apply(table(new))
            wait_for(lambda arrived=new: seen.served[arrived.name])
            old = new
    old.close()
    assert (seen.lost, seen.refused) == ([], 0)
    assert seen.served.keys() == {str(number) for number in range(11)}


def test_drain_lets_the_running_stream_finish_and_shows_it(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    a, b, _ = backends
    gateway.proxy.apply(table(a))
    got: list[bytes] = []
    stream = threading.Thread(target=lambda: got.append(ask(gateway.port, "/v1/x", {**BODY, "stream": 60}).body))
    stream.start()
    wait_for(lambda: gateway.in_flight(a) == 1)
    assert gateway.proxy.observe().endpoint(a.port).routed is Routed.ACTIVE
    gateway.proxy.apply(table(b, draining=a))
    assert gateway.proxy.observe().endpoint(a.port).routed is Routed.DRAINING
    assert gateway.in_flight(a) == 1
    assert {ask(gateway.port, "/v1/x", BODY).json["name"] for _ in range(20)} == {"b"}
    stream.join(20)
    assert got[0].count(b"data: ") == 61
    wait_for(lambda: gateway.is_quiet(a))
    gateway.proxy.apply(table(b))
    assert gateway.proxy.observe().endpoint(a.port).routed is Routed.ABSENT


def test_rollout_between_sockets_and_ports_loses_nothing_and_is_counted(gateway: Gateway) -> None:
    """As an upgrade of the daemon finds it: what runs listens on ports, and its successors on sockets."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder:
        old = Backend("0")
        place = seat(TINY, old.port)
        gateway.proxy.apply((ServiceRoute(TINY, (place,)),))
        with load(gateway.port, "/v1/completions", BODY) as seen:
            for number in range(1, 5):
                new = Backend(str(number), path=f"{folder}/{number}")
                arriving = Endpoint(ReplicaId(TINY, f"s-{number}"), 1, socket=new.path)
                gateway.proxy.apply((ServiceRoute(TINY, (replace(place, draining=True), arriving)),))
                assert gateway.proxy.observe().endpoint(new.path).routed is Routed.ACTIVE
                for _ in range(2):
                    wait_for(lambda left=place: gateway.proxy.observe().endpoint(left.address).in_flight == 0)
                old.close()
                gateway.proxy.apply((ServiceRoute(TINY, (arriving,)),))
                wait_for(lambda arrived=new: seen.served[arrived.name])
                old, place = new, arriving
        got: list[bytes] = []
        stream = threading.Thread(target=lambda: got.append(ask(gateway.port, "/v1/x", {**BODY, "stream": 60}).body))
        stream.start()
        wait_for(lambda: gateway.proxy.observe().endpoint(old.path).in_flight == 1)
        gateway.proxy.apply((ServiceRoute(TINY, (replace(place, draining=True),)),))
        assert gateway.proxy.observe().endpoint(old.path) == EndpointState(Routed.DRAINING, 1)
        stream.join(20)
        assert got[0].count(b"data: ") == 61
        wait_for(lambda: gateway.proxy.observe().endpoint(old.path).in_flight == 0)
        old.close()
    assert (seen.lost, seen.refused) == ([], 0)


def test_stream_outlives_even_the_removal_of_its_endpoint(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    a, b, _ = backends
    gateway.proxy.apply(table(a))
    got: list[bytes] = []
    stream = threading.Thread(target=lambda: got.append(ask(gateway.port, "/v1/x", {**BODY, "stream": 40}).body))
    stream.start()
    wait_for(lambda: gateway.in_flight(a) == 1)
    gateway.proxy.apply((route("other", b.port),))
    stream.join(20)
    assert got[0].count(b"data: ") == 41
    assert ask(gateway.port, "/v1/x", BODY).status == 404


def test_stop_first_refuses_and_never_resets(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    a, b, _ = backends
    gateway.proxy.apply(table(a))
    with load(gateway.port, "/v1/completions", BODY) as seen:
        for old, new in ((a, b), (b, a), (a, b)):
            gateway.proxy.apply(table(draining=old))
            refused = seen.refused
            wait_for(lambda leaving=old: gateway.is_quiet(leaving))
            gateway.proxy.apply(table())
            wait_for(lambda before=refused: seen.refused > before)
            gateway.proxy.apply(table(new))
            served = seen.served[new.name]
            wait_for(lambda arrived=new, before=served: seen.served[arrived.name] > before)
    assert seen.lost == []


def test_canary_comes_and_is_promoted_without_a_loss(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    stable, canary, _ = backends
    gateway.proxy.apply(table(stable))
    with load(gateway.port, "/v1/completions", BODY) as seen:
        for _ in range(5):
            gateway.proxy.apply(table(stable, canary=canary))
            served = seen.served[canary.name]
            wait_for(lambda arrived=canary, before=served: seen.served[arrived.name] > before)
            gateway.proxy.apply(table(canary, draining=stable))
            wait_for(lambda leaving=stable: gateway.is_quiet(leaving))
            gateway.proxy.apply(table(canary))
            stable, canary = canary, stable
    assert (seen.lost, seen.refused) == ([], 0)


@pytest.mark.parametrize("path", ["/v1/completions", "/demo/tiny/v1/completions"])
def test_upload_that_outlasts_a_promotion_is_served(gateway: Gateway, backends: tuple[Backend, ...], path: str) -> None:
    a, b, _ = backends
    body = json.dumps(BODY).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    gateway.proxy.apply(table(a, canary=b))
    uploads = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(20)]
    for upload in uploads:
        upload.sendall(head.encode() + body[:10])
    # Envoy must have begun with all of them before the routes change.
    wait_for(lambda: ask(gateway.port, path, BODY).status == 200)
    gateway.proxy.apply(table(b, draining=a))
    gateway.proxy.apply(table(b))
    for upload in uploads:
        upload.sendall(body[10:])
    answers = [upload.recv(65536) for upload in uploads]
    for upload in uploads:
        upload.close()
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}


def survives(gateway: Gateway, wanted: Path, step: int) -> bool:
    """Whether a process that applies this table, and would be killed before its Nth step, came to its end."""
    argv = [sys.executable, "-m", "tests.crash.killed_apply", str(gateway.folder), f"127.0.0.1:{gateway.port}"]
    child = subprocess.run([*argv, str(wanted), str(step)], check=False, stdout=subprocess.PIPE)
    assert child.returncode in (0, -signal.SIGKILL)
    return child.stdout == b"done\n"


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_apply_may_be_killed_before_each_of_its_steps(
    gateway: Gateway, backends: tuple[Backend, ...], tmp_path: Path, turn: int
) -> None:
    a, b, c = backends
    tables = [table(a, canary=b), (*table(b, draining=a), route("extra", c.port)), table(a, c)]
    before, wanted, another = (tables[(turn + i) % 3] for i in range(3))
    file = tmp_path / "table.json"
    file.write_text(dump_routes(wanted))
    step = 1
    gateway.proxy.apply(before)
    with load(gateway.port, "/v1/completions", BODY, posts=2, streams=1) as seen:
        while not survives(gateway, file, step):
            # Every other time the next pass wants something else than the one that died.
            gateway.proxy.apply(another if step % 2 else wanted)
            gateway.proxy.apply(before)
            step += 1
    assert (seen.lost, seen.refused) == ([], 0)
    # Four files, each with a step before its flush, before its rename, after it and before the folder's flush.
    assert step > 16


def test_unchanged_table_writes_nothing(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    a, b, _ = backends

    def stamps() -> dict[str, tuple[int, int]]:
        return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in gateway.folder.iterdir()}

    wanted = (*table(a), route("other", b.port))
    gateway.proxy.apply(wanted)
    before = stamps()
    gateway.proxy.apply(wanted[::-1])
    gateway.proxy.ensure_running()
    assert stamps() == before


def test_only_endpoints_change_when_a_replica_comes(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    a, b, _ = backends
    gateway.proxy.apply(table(a))
    before = (gateway.folder / "rds.json").stat().st_ino
    gateway.proxy.apply(table(a, b))
    assert (gateway.folder / "rds.json").stat().st_ino == before


def test_refused_table_keeps_the_one_before(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    a, _, _ = backends
    gateway.proxy.apply(table(a))
    before = (gateway.folder / "rds.json").read_text()
    impossible = route("tiny", a.port, request_timeout=-1.0)
    with pytest.raises(Retryable, match=r"refused rds.json and keeps what it had: .*duration"):
        gateway.proxy.apply((impossible,))
    assert (gateway.folder / "rds.json").read_text() == before
    assert ask(gateway.port, "/v1/x", BODY).status == 200
    gateway.proxy.apply(table(a))
    assert gateway.proxy.observe().applied == {TINY: table(a)[0]}


@pytest.mark.parametrize("guarded", [False, True])
def test_longest_values_of_git_are_taken_by_the_proxy(
    gateway: Gateway, backends: tuple[Backend, ...], guarded: bool
) -> None:
    (manifest,) = read_file("a.yaml", with_predictor(f"timeout: {2**63 - 1}").encode()).documents
    paths = tuple(f"/{number:02}" + "~.-" * 19 for number in range(32))
    assert not find_fault(paths)
    longest = route("tiny", backends[0].port, request_timeout=read_serving_options(manifest).request_timeout)
    gateway.proxy.apply((replace(longest, open_paths=paths, guarded=guarded),))
    assert ask(gateway.port, f"/{TINY}{paths[-1]}", BODY).status == 200


@pytest.mark.parametrize("name", ["eds", "rds"])
def test_file_that_somebody_spoilt_is_repaired(gateway: Gateway, backends: tuple[Backend, ...], name: str) -> None:
    a, _, _ = backends
    gateway.proxy.apply(table(a))
    file = gateway.folder / f"{name}.json"
    good = file.read_text()
    beside = gateway.folder / "beside"
    beside.write_text("{")
    os.replace(beside, file)
    assert ask(gateway.port, "/v1/x", BODY).status == 200
    gateway.proxy.apply(table(a))
    assert file.read_text() == good
    assert ask(gateway.port, "/v1/x", BODY).status == 200


def test_applied_table_is_what_the_proxy_runs(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    a, b, c = backends
    wanted = (*table(a, b, draining=c), route("asleep", request_timeout=2.5))
    gateway.proxy.apply(wanted)
    again = EnvoyProxy(gateway.folder, Routing(listen=f"127.0.0.1:{gateway.port}"))
    assert again.observe().applied == {route.service: route for route in wanted}
    (gateway.folder / "routes.json").write_text(dump_routes(table(a)))
    assert again.observe().applied == {}
    (gateway.folder / "routes.json").write_text("{")
    assert again.observe().applied == {}


def test_port_of_a_gone_replica_never_serves_its_old_service(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    a, b, _ = backends
    gateway.proxy.apply(table(a))
    heir = ServiceRoute(service("heir"), (seat(service("heir"), a.port),))
    with load(gateway.port, "/v1/completions", {**BODY, "model": "heir"}) as seen:
        gateway.proxy.apply((heir, *table(b)))
        wait_for(lambda: seen.served["a"] > 50 or seen.lost)
        assert {ask(gateway.port, "/v1/x", BODY).json["name"] for _ in range(20)} == {"b"}
        gateway.proxy.apply(table(a))
    assert {ask(gateway.port, "/v1/x", BODY).json["name"] for _ in range(5)} == {"a"}


def test_thousand_services_are_taken_up(gateway: Gateway, backends: tuple[Backend, ...]) -> None:
    # More than Linux's 128 inotify instances per user; a watched file for each would end Envoy.
    a, b, _ = backends
    many = [route(f"m{i}", namespace=f"n{i % 7}") for i in range(1000)]
    gateway.proxy.apply((*many, *table(a)))
    client = Client(gateway.port)
    assert client.ask("/v1/completions", BODY).json["name"] == "a"
    assert len(client.ask("/v1/models").json["data"]) == 2002
    gateway.proxy.apply((*many, *table(b, draining=a)))
    assert client.ask("/v1/completions", BODY).json["name"] == "b"
    gateway.proxy.apply(table(b))
    client.close()
