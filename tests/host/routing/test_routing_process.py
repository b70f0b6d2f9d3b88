"""Envoy as a process: started, adopted, replaced, ended. Real Envoy."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import Routing
from reconciler.errors import Retryable
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.routing.process import find, spawn
from reconciler.model import Routed
from tests.support.ports import free_port
from tests.support.proxy_parts import Backend, ask, route, service, wait_for

# Each test starts Envoy, some several times.
pytestmark = pytest.mark.slow

DAEMON = """
import os, signal, sys
from pathlib import Path
from reconciler.config.settings import Routing
from reconciler.host.routing import process
from reconciler.host.routing.envoy import EnvoyProxy
if sys.argv[3] == "before the record":
    process.record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
EnvoyProxy(Path(sys.argv[1]), Routing(listen=sys.argv[2])).ensure_running()
os.kill(os.getpid(), signal.SIGKILL)
"""


class Host:
    """One folder and one port, and every proxy that was made for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()

    def proxy(self, **settings: Any) -> EnvoyProxy:
        return EnvoyProxy(self.folder, Routing(**{"listen": f"127.0.0.1:{self.port}", **settings}))

    @property
    def pid(self) -> int:
        found = find(self.folder)
        assert found
        return found.pid

    def run_daemon(self, dies: str) -> None:
        argv = [sys.executable, "-c", DAEMON, str(self.folder), f"127.0.0.1:{self.port}", dies]
        assert subprocess.run(argv, check=False, env={**os.environ, "SECRET": "1"}).returncode == -signal.SIGKILL


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "proxy")
    yield made
    made.proxy().stop()


@pytest.fixture
def tiny() -> Iterator[Backend]:
    with Backend("tiny") as backend:
        yield backend


def test_proxy_starts_once(host: Host) -> None:
    proxy = host.proxy()
    assert not proxy.observe().running
    proxy.ensure_running()
    pid = host.pid
    proxy.ensure_running()
    state = proxy.observe()
    assert (state.running, state.ready, state.endpoints, state.applied, host.pid) == (True, True, {}, {}, pid)
    assert ask(host.port, "/v1/models").json == {"object": "list", "data": []}


def test_proxy_for_all_addresses_answers_in_both_families(host: Host) -> None:
    host.proxy(listen=f"[::]:{host.port}").ensure_running()
    for name in ("127.0.0.1", "::1"):
        connection = http.client.HTTPConnection(name, host.port, timeout=10)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 200
        connection.close()


def test_proxy_outlives_the_daemon_and_is_adopted(host: Host) -> None:
    host.run_daemon("after the record")
    pid = host.pid
    assert ask(host.port, "/v1/models").status == 200
    host.proxy().ensure_running()
    assert host.pid == pid


def test_proxy_whose_record_was_never_written_is_found(host: Host) -> None:
    host.run_daemon("before the record")
    assert not (host.folder / "process.json").exists()
    pid = host.pid
    host.proxy().ensure_running()
    assert host.pid == pid
    assert json.loads((host.folder / "process.json").read_text())["pid"] == pid


def test_proxy_has_its_own_session_a_clean_environment_and_many_files(host: Host) -> None:
    host.run_daemon("after the record")
    assert os.getsid(host.pid) == host.pid
    environ = Path(f"/proc/{host.pid}/environ").read_bytes().split(b"\0")
    assert [entry for entry in environ if entry] == [f"RECONCILER_PROXY={host.folder}".encode()]
    limits = Path(f"/proc/{host.pid}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft == hard
    assert (host.folder / "admin.sock").stat().st_mode & 0o777 == 0o600
    assert host.folder.stat().st_mode & 0o777 == 0o700


def test_killed_proxy_is_noticed_and_serves_the_same_when_it_is_back(host: Host, tiny: Backend) -> None:
    proxy = host.proxy()
    proxy.ensure_running()
    proxy.apply((route("tiny", tiny.port),))
    shared_memory = set(os.listdir("/dev/shm"))
    os.kill(host.pid, signal.SIGKILL)
    wait_for(lambda: find(host.folder) is None)
    state = proxy.observe()
    assert (state.running, state.ready, state.endpoints) == (False, False, None)
    assert (state.endpoint(tiny.port).routed, state.endpoint(tiny.port).in_flight) == (Routed.UNKNOWN, None)
    proxy.ensure_running()
    assert ask(host.port, "/v1/x", {"model": "tiny"}).json["name"] == "tiny"
    assert proxy.observe().applied == {service("tiny"): route("tiny", tiny.port)}
    assert set(os.listdir("/dev/shm")) <= shared_memory


@pytest.mark.slow
def test_silent_proxy_means_unknown_and_not_gone(host: Host, tiny: Backend) -> None:
    proxy = host.proxy()
    proxy.ensure_running()
    proxy.apply((route("tiny", tiny.port),))
    os.kill(host.pid, signal.SIGSTOP)
    try:
        state = proxy.observe()
        with pytest.raises(Retryable, match="is not responding"):
            proxy.apply(())
    finally:
        os.kill(host.pid, signal.SIGCONT)
    assert (state.running, state.ready) == (True, False)
    assert state.endpoint(tiny.port).in_flight is None
    assert proxy.observe().endpoint(tiny.port).in_flight == 0


def is_asked(proxy: EnvoyProxy) -> bool:
    with contextlib.suppress(Retryable):
        return bool(proxy._admin.survey())
    return False


def test_proxy_that_has_not_read_its_endpoints_yet_says_nothing_about_them(host: Host) -> None:
    proxy = host.proxy()
    proxy._lay_out()
    # A file that cannot be read holds it in the moment that a start passes through.
    (host.folder / "eds.json").write_text("{")
    spawn(host.folder, 1)
    wait_for(lambda: proxy.observe().running and is_asked(proxy))
    state = proxy.observe()
    assert state.running
    assert not state.ready
    assert state.endpoint(20000).routed is Routed.UNKNOWN


def test_record_of_another_process_is_not_believed(host: Host) -> None:
    host.folder.mkdir()
    record = {"pid": os.getpid(), "started": 1, "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    (host.folder / "process.json").write_text(json.dumps(record))
    proxy = host.proxy()
    assert not proxy.observe().running
    proxy.stop()
    proxy.ensure_running()
    assert host.pid != os.getpid()


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@ROOT
def test_mark_of_another_users_process_does_not_keep_it_from_starting(host: Host) -> None:
    env = {"RECONCILER_PROXY": str(host.folder)}
    with subprocess.Popen(["sleep", "60"], env=env, user=65534) as stranger:
        host.proxy().ensure_running()
        pid = host.pid
        stranger.kill()
    assert pid != stranger.pid


def test_mark_of_another_program_does_not_keep_it_from_starting(host: Host) -> None:
    with subprocess.Popen(["sleep", "60"], env={"RECONCILER_PROXY": str(host.folder)}) as stranger:
        host.proxy().ensure_running()
        pid = host.pid
        stranger.kill()
    assert pid != stranger.pid


@pytest.mark.parametrize("record", ["", "{", "[]", '{"pid": 1}', "\x00"])
def test_spoilt_record_does_not_matter(host: Host, record: str) -> None:
    proxy = host.proxy()
    proxy.ensure_running()
    pid = host.pid
    (host.folder / "process.json").write_text(record)
    proxy.ensure_running()
    assert host.pid == pid


def test_taken_port_is_reported_with_its_holder(host: Host) -> None:
    proxy = host.proxy()
    with socket.create_server(("127.0.0.1", host.port), reuse_port=True):
        with pytest.raises(Retryable, match=rf"127.0.0.1:{host.port} is in use by pid {os.getpid()} \("):
            proxy.ensure_running()
        assert not proxy.observe().running
    proxy.ensure_running()
    assert proxy.observe().ready


def test_port_taken_at_the_last_moment_is_reported_and_repaired(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = host.proxy()
    with monkeypatch.context() as patch, socket.create_server(("127.0.0.1", host.port), reuse_port=True):
        patch.setattr(EnvoyProxy, "_refuse_taken_port", lambda _: None)
        with pytest.raises(Retryable, match=r"refused lds\.json.*in use"):
            proxy.ensure_running()
        assert (proxy.observe().running, proxy.observe().ready) == (True, False)
    proxy.ensure_running()
    assert proxy.observe().ready
    assert ask(host.port, "/v1/models").status == 200


@pytest.mark.slow
def test_port_taken_after_a_reboot_is_reported_and_repaired(
    host: Host, tiny: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd starts the proxy before the daemon: it runs without a listener then, and asks for no routes."""
    proxy, routes = host.proxy(), (route("tiny", tiny.port),)
    proxy.ensure_running()
    proxy.apply(routes)
    os.kill(host.pid, signal.SIGKILL)
    wait_for(lambda: not proxy.observe().running)
    with monkeypatch.context() as patch, socket.create_server(("127.0.0.1", host.port), reuse_port=True):
        patch.setattr(EnvoyProxy, "_refuse_taken_port", lambda _: None)
        for tell in (proxy.ensure_running, lambda: proxy.apply((*routes, route("other", tiny.port)))):
            with pytest.raises(Retryable, match=r"refused lds\.json.*in use"):
                tell()
    proxy.ensure_running()
    assert proxy.observe().ready
    proxy.apply(routes)
    assert ask(host.port, "/v1/models").status == 200


def test_address_that_is_not_ours_is_reported(host: Host) -> None:
    with pytest.raises(Retryable, match=r"cannot listen on 192.0.2.1:\d+: Cannot assign"):
        host.proxy(listen=f"192.0.2.1:{host.port}").ensure_running()


def test_new_settings_are_taken_up_while_it_serves(host: Host, tiny: Backend) -> None:
    host.proxy().ensure_running()
    host.proxy().apply((route("tiny", tiny.port),))
    pid, other = host.pid, free_port()
    proxy = host.proxy(listen=f"127.0.0.1:{other}", max_body_bytes=100)
    assert not proxy.observe().ready
    proxy.ensure_running()
    assert (proxy.observe().ready, host.pid) == (True, pid)
    assert ask(other, "/v1/x", {"model": "tiny"}).status == 200
    assert ask(other, "/v1/x", {"model": "tiny", "prompt": "x" * 100}).status == 413
    # The listener that went lingers until its connections end, but takes no new ones.
    wait_for(lambda: is_closed(host.port))


def is_closed(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return False
    return True


def test_folder_may_lie_deeper_than_a_sockets_path(tmp_path: Path) -> None:
    deep = Host(tmp_path / ("d" * 100) / ("e" * 100) / "proxy")
    proxy = deep.proxy()
    try:
        proxy.ensure_running()
        assert proxy.observe().ready
    finally:
        proxy.stop()


@pytest.mark.parametrize("name", ["rds", "eds", "lds", "cds"])
def test_spoilt_file_does_not_keep_it_from_starting(host: Host, tiny: Backend, name: str) -> None:
    proxy = host.proxy()
    proxy.ensure_running()
    proxy.apply((route("tiny", tiny.port),))
    os.kill(host.pid, signal.SIGKILL)
    wait_for(lambda: find(host.folder) is None)
    (host.folder / f"{name}.json").write_text('{"resources": [')
    proxy.ensure_running()
    state = proxy.observe()
    assert state.ready
    # Either it still serves the table or it says that it does not.
    served = ask(host.port, "/v1/x", {"model": "tiny"}).status == 200
    assert bool(state.applied) == served == (name in ("lds", "cds"))


def test_log_stays_within_bounds(host: Host) -> None:
    proxy = host.proxy()
    proxy.ensure_running()
    with (host.folder / "log").open("ab") as log:
        log.write(b"x" * (5 << 20))
    proxy.ensure_running()
    assert (host.folder / "log").stat().st_size == 0
    assert (host.folder / "log.1").stat().st_size == 4 << 20


def test_stop_leaves_nothing_but_files(host: Host) -> None:
    proxy = host.proxy()
    proxy.ensure_running()
    pid = host.pid
    proxy.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert is_closed(host.port)
    assert not (host.folder / "admin.sock").exists()
    proxy.stop()


def test_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Retryable, match=r"cannot be made: (Not a directory|File exists)"):
        Host(tmp_path / "file" / "proxy").proxy().ensure_running()
