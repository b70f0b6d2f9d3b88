"""An Envoy that hangs, or whose admin socket is gone. Real Envoy."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.config.settings import Routing
from reconciler.errors import Retryable
from reconciler.host.routing import admin, watch
from reconciler.host.routing.admin import RefusedRequests
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.routing.process import find, spawn
from reconciler.host.routing.watch import ProxyWatch, does_answer
from reconciler.model import ProxyBreak, ServiceRoute
from tests.support.ports import free_port
from tests.support.proxy_parts import Backend, ask, load, route, service, wait_for

pytestmark = pytest.mark.slow

BODY = {"model": "tiny", "prompt": "x"}


@pytest.fixture
def tiny() -> Iterator[Backend]:
    with Backend("tiny") as backend:
        yield backend


@pytest.fixture
def proxy(tmp_path: Path, tiny: Backend) -> Iterator[EnvoyProxy]:
    made = EnvoyProxy(tmp_path / "proxy", Routing(listen=f"127.0.0.1:{free_port()}"))
    made.ensure_running()
    made.apply((route("tiny", tiny.port),))
    yield made
    if (running := made.find_process()) is not None:
        os.kill(running.pid, signal.SIGCONT)
    made.stop()


def looks(proxy: EnvoyProxy, alone: bool = False) -> ProxyWatch:
    return ProxyWatch(proxy, lambda: None, lambda _: None, lambda _: alone, lambda *_: None)


def test_deleted_admin_socket_is_restored_without_loss(proxy: EnvoyProxy, tiny: Backend, tmp_path: Path) -> None:
    before, port = proxy.find_process(), proxy.address[1]
    with load(port, "/v1/x", BODY) as seen:
        wait_for(lambda: sum(seen.served.values()) > 20)
        (tmp_path / "proxy" / "admin.sock").unlink()
        assert not proxy.observe().ready
        # As a daemon that has just started.
        again = EnvoyProxy(tmp_path / "proxy", Routing(listen=f"127.0.0.1:{port}"))
        again.ensure_running()
        assert again.observe().ready
        again.apply((route("tiny", tiny.port), route("other", free_port())))
        served = sum(seen.served.values())
        wait_for(lambda: sum(seen.served.values()) > served + 20)
    assert (seen.lost, seen.refused, again.find_process()) == ([], 0, before)


def test_file_in_place_of_the_admin_socket_is_replaced(proxy: EnvoyProxy, tmp_path: Path) -> None:
    (tmp_path / "proxy" / "admin.sock").unlink()
    (tmp_path / "proxy" / "admin.sock").touch()
    proxy.ensure_running()
    assert proxy.observe().ready


def test_name_of_an_earlier_proxys_socket_is_left_alone(proxy: EnvoyProxy, tmp_path: Path) -> None:
    folder = tmp_path / "proxy"
    earlier = proxy.find_process()
    assert earlier is not None
    os.kill(earlier.pid, signal.SIGKILL)
    wait_for(lambda: find(folder) is None)
    # As when systemd starts the next one.
    spawn(folder, 1)
    wait_for(lambda: is_asked(proxy))
    assert not (folder / "admin.sock").samefile(folder / "kept" / "admin.sock")
    assert not admin.restore(folder)
    proxy.ensure_running()
    assert proxy.observe().ready
    assert (folder / "admin.sock").samefile(folder / "kept" / "admin.sock")


def is_asked(proxy: EnvoyProxy) -> bool:
    with contextlib.suppress(Retryable):
        return proxy._admin.is_live()
    return False


def lose_socket(folder: Path) -> None:
    (folder / "admin.sock").unlink()
    shutil.rmtree(folder / "kept")


def test_proxy_that_cannot_be_told_holds_no_pass_up(
    proxy: EnvoyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_socket(tmp_path / "proxy")
    asked = []
    monkeypatch.setattr("reconciler.host.routing.envoy.procfs.age", lambda _: 100.0)
    monkeypatch.setattr("reconciler.host.routing.envoy.time.sleep", asked.append)
    monkeypatch.setattr("reconciler.host.routing.envoy.time.monotonic", lambda: sum(asked))
    with pytest.raises(Retryable, match=r"runs, but is not ready: the proxy is not responding on .*admin\.sock"):
        proxy.ensure_running()
    assert sum(asked) < 1.1


def test_proxy_that_cannot_be_told_serves_until_another_takes_its_place(
    proxy: EnvoyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_INTERVAL", 0.01)
    seen, before = looks(proxy), proxy.find_process()
    assert seen.look() is ProxyBreak.NONE
    lose_socket(tmp_path / "proxy")
    time.sleep(0.02)
    assert seen.look() is ProxyBreak.DEAF
    assert ask(proxy.address[1], "/v1/x", BODY).json["name"] == "tiny"
    proxy.ensure_running(replace=True)
    assert proxy.observe().ready
    assert proxy.find_process() != before
    assert ask(proxy.address[1], "/v1/x", BODY).json["name"] == "tiny"
    assert seen.look() is ProxyBreak.NONE


def test_stopped_proxy_is_hung_and_its_successor_serves_the_same(
    proxy: EnvoyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_TIMEOUT", 0.2)
    monkeypatch.setattr(watch, "_HUNG_AFTER", 0.5)
    seen, before = looks(proxy), proxy.find_process()
    assert before is not None
    assert seen.look() is ProxyBreak.NONE
    os.kill(before.pid, signal.SIGSTOP)
    assert seen.look() is ProxyBreak.NONE
    wait_for(lambda: seen.look() is ProxyBreak.HUNG)
    proxy.ensure_running(replace=True)
    assert proxy.find_process() != before
    assert find(proxy._folder) == proxy.find_process()
    assert ask(proxy.address[1], "/v1/x", BODY).json["name"] == "tiny"
    assert seen.look() is ProxyBreak.NONE


def test_stopped_proxy_on_a_stopped_host_is_not_hung(proxy: EnvoyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_TIMEOUT", 0.1)
    monkeypatch.setattr(watch, "_HUNG_AFTER", 0.2)
    running = proxy.find_process()
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    seen = looks(proxy, alone=True)
    assert {seen.look() for _ in range(6)} == {ProxyBreak.NONE}


def test_marked_proxy_that_neither_listens_nor_answers_is_replaced(
    tmp_path: Path, tiny: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_HUNG_AFTER", 0.2)
    made = EnvoyProxy(tmp_path / "mute", Routing(listen=f"127.0.0.1:{free_port()}"))
    made._lay_out()
    mute = spawn(tmp_path / "mute", 1)
    os.kill(mute.pid, signal.SIGSTOP)
    (tmp_path / "mute" / "process.json").unlink()
    seen = looks(made)
    assert seen.look() is ProxyBreak.NONE
    wait_for(lambda: seen.look() is ProxyBreak.HUNG)
    made.ensure_running(replace=True)
    assert made.observe().ready
    assert made.find_process() != mute
    made.stop()


def test_proxy_that_clients_keep_busy_is_not_hung_while_it_can_be_told(
    proxy: EnvoyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_HUNG_AFTER", 0.2)
    monkeypatch.setattr(watch, "does_answer", lambda *_: time.sleep(0.05) or False)
    seen = looks(proxy)
    assert {seen.look() for _ in range(8)} == {ProxyBreak.NONE}
    # In the end it has to go all the same.
    wait_for(lambda: seen.look() is ProxyBreak.HUNG)


def test_clients_cannot_use_up_the_descriptors_of_the_proxy(
    tmp_path: Path, tiny: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {resource.RLIMIT_NOFILE: (300, 300)}
    monkeypatch.setattr("reconciler.host.routing.process.resource.getrlimit", limits.__getitem__)
    made = EnvoyProxy(tmp_path / "proxy", Routing(listen=f"127.0.0.1:{free_port()}"))
    with contextlib.ExitStack() as clients:
        made.ensure_running()
        clients.callback(made.stop)
        made.apply((route("tiny", tiny.port),))
        for _ in range(350):
            clients.enter_context(socket.create_connection(made.address))
        assert made.observe().ready
        assert looks(made).look() is ProxyBreak.NONE
        assert does_answer(*made.address)


def test_nothing_that_listens_is_not_a_hang() -> None:
    assert does_answer("127.0.0.1", free_port()) is None


def test_service_that_left_answers_503_by_all_its_names(proxy: EnvoyProxy, tiny: Backend) -> None:
    port = proxy.address[1]
    proxy.apply((route("tiny", tiny.port), ServiceRoute(service("gone"), left_at=1.0)))
    answers = [
        ask(port, "/v1/completions", {"model": "gone"}),
        ask(port, "/v1/completions", {"model": "demo/gone"}),
        ask(port, "/demo/gone/v1/completions", {"model": "x"}),
        ask(port, "/v1/completions", {"model": "x"}, host="gone-demo.example.com"),
    ]
    assert [(one.status, one.headers["retry-after"]) for one in answers] == [(503, "5")] * 4
    assert {one["id"] for one in ask(port, "/v1/models").json["data"]} == {"tiny", "demo/tiny"}
    proxy.apply((route("tiny", tiny.port),))
    assert ask(port, "/v1/completions", {"model": "gone"}).status == 404


def test_refused_requests_are_counted_by_service(proxy: EnvoyProxy, tiny: Backend) -> None:
    port = proxy.address[1]
    proxy.apply((route("tiny", tiny.port), route("empty"), route("empty", namespace="prod")))
    for _ in range(2):
        assert ask(port, "/v1/completions", {"model": "demo/empty"}).status == 503
    assert ask(port, "/demo/empty/v1/x", {}).status == 503
    assert ask(port, "/v1/x", {}, host="empty-demo.example.com").status == 503
    assert ask(port, "/prod/empty/v1/x", {}).status == 503
    assert ask(port, "/v1/completions", BODY).status == 200
    assert ask(port, "/v1/completions", {"model": "nothing"}).status == 404
    assert proxy.refused() == RefusedRequests({"demo/empty": 4, "prod/empty": 1}, closed_paths=0)
