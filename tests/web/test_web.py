"""The daemon's HTTP side on real sockets, with a loop that only answers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.config.settings import Settings, Web
from reconciler.errors import Retryable, SettingsError, Terminal
from reconciler.model import ServiceId, Unreachable
from reconciler.report.requests import RequestCounts
from reconciler.report.status import Document
from reconciler.system.unix_sockets import answers, connect
from reconciler.web.client import (
    DaemonClient,
    NoDaemon,
    RequestRefused,
    follow_logs,
    follow_restart,
    follow_sync,
    new_lines,
)
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide, listen_unix
from tests.support.report_world import (
    TINY,
    desired,
    observed,
    replica,
    report,
    settings,
    state,
    status_of,
    with_service,
)
from tests.support.world import eventually
from tests.web.fake_loop import FakeLoop


def get(web: WebSide, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*web.address, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def ask(config: Settings, method: str, path: str, body: bytes | None = None) -> tuple[int, Document]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connect(config.socket_path, 10)
    connection.request(method, path, body)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, json.loads(answer)


# ---------------------------------------------------------------- public endpoints


def test_loop_that_turns_is_alive_and_one_that_does_not_is_stuck(web: WebSide, loop: FakeLoop) -> None:
    assert get(web, "/healthz")[0] == 200
    loop.age = 1000.0
    assert get(web, "/healthz") == (503, '{"status":"stuck","heartbeatAgeSeconds":1000.0}')


@pytest.mark.slow
def test_nobody_asks_and_nothing_wakes_up(web: WebSide) -> None:
    assert get(web, "/healthz")[0] == 200
    before = wakes(web)
    time.sleep(1)
    assert wakes(web) - before < 5


def wakes(web: WebSide) -> int:
    """How often its thread began to wait, so far."""
    status = Path(f"/proc/self/task/{web._thread.native_id}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))
    return int(line.split()[1])


def test_ready_means_one_pass_and_every_target_reached(web: WebSide, loop: FakeLoop) -> None:
    assert get(web, "/readyz")[0] == 200
    loop.document = status_of(report(observed=Unreachable("a", 1.0, "no route")), passes=0)
    code, body = get(web, "/readyz")
    assert (code, json.loads(body)["waitingFor"]) == (503, ["the first pass", "target a"])


def test_nothing_else_is_offered_to_the_network(web: WebSide) -> None:
    for path in ("/status", "/sync", "/logs", "/../healthz"):
        assert get(web, path)[0] == 404
    assert get(web, "/healthz", "POST")[0] == 405


@pytest.mark.slow
def test_half_open_connections_starve_nobody(web: WebSide) -> None:
    silent = [socket.create_connection(web.address, 10) for _ in range(100)]
    drips = [socket.create_connection(web.address, 10) for _ in range(60)]
    for connection in drips:
        with suppress(OSError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
    assert [get(web, "/healthz")[0] for _ in range(20)] == [200] * 20
    for connection in (*silent, *drips):
        connection.close()


def test_connection_that_never_asks_is_closed(web: WebSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.web.connections._ASK_SECONDS", 0.1)
    with socket.create_connection(web.address, 10) as silent, suppress(ConnectionResetError):
        silent.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        assert silent.recv(1) == b""


def test_connection_that_asks_again_has_time_again(web: WebSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.web.connections._ASK_SECONDS", 2.0)
    monkeypatch.setattr("reconciler.web.connections._ANSWER_SECONDS", 0.05)
    connection = http.client.HTTPConnection(*web.address, timeout=10)
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        time.sleep(0.1)
    connection.close()


def test_metrics_are_scraped_from_the_status_of_the_moment(web: WebSide, loop: FakeLoop) -> None:
    code, body = get(web, "/metrics")
    assert code == 200
    assert 'reconciler_build_info{version="1.2.3"} 1.0' in body
    labels = 'health_status="Healthy",name="tiny",namespace="demo",sync_status="Synced",target="a"'
    assert f"reconciler_resource_info{{{labels}}} 1.0" in body
    loop.document = status_of(report(observed=Unreachable("a", 1.0, "no route")))
    assert 'reconciler_target_reachable{target="a"} 0.0' in get(web, "/metrics")[1]


# ---------------------------------------------------------------- metrics


def test_what_the_loop_tells_is_counted() -> None:
    metrics = Metrics()
    metrics.observe_pass("a", 0.02, ok=True)
    metrics.observe_fetch(0.1, ok=False)
    metrics.observe_commit_applied("a", 12.0)
    metrics.observe_first_token("a", 3.0)
    metrics.count_action("a", "start", "Done")
    counted = {TINY: RequestCounts({"drained": 7, "lost": 2, "refused": 3})}
    text = metrics.text(status_of(report(requests=counted))).decode()
    assert 'reconciler_reconcile_duration_seconds_count{result="success",target="a"} 1.0' in text
    assert 'reconciler_source_fetch_duration_seconds_count{result="failure"} 1.0' in text
    assert 'reconciler_commit_to_applied_seconds_sum{target="a"} 12.0' in text
    assert 'reconciler_applied_to_first_token_seconds_sum{target="a"} 3.0' in text
    assert 'reconciler_actions_total{action="start",outcome="Done",target="a"} 1.0' in text
    for fate, number in (("drained", 7.0), ("lost", 2.0), ("refused", 3.0)):
        assert f'reconciler_requests_total{{fate="{fate}",name="tiny",namespace="demo",target="a"}} {number}' in text


def test_labels_of_services_that_are_gone_go_too() -> None:
    counted = {TINY: RequestCounts(), ServiceId("demo", "gone"): RequestCounts()}
    text = Metrics().text(status_of(report(desired=state(desired()), observed=observed(), requests=counted))).decode()
    assert 'name="tiny"' in text
    assert 'name="gone"' not in text


def test_no_label_ever_holds_a_digest_or_revision() -> None:
    text = Metrics().text(status_of(report())).decode()
    assert "aaaaaaaa" not in text
    assert "4f1c2ab" not in text


# ---------------------------------------------------------------- what the owner may ask


def test_owner_gets_status_history_and_logs(client: DaemonClient, loop: FakeLoop) -> None:
    assert client.status() == loop.document
    assert client.history("tiny", 7) == [{"event": "start"}]
    assert client.logs("demo/tiny", 2) == ["two", "HF_TOKEN=***"]
    assert loop.asked == [("history", ("demo/tiny", 7)), ("logs", "demo/tiny")]


def test_owner_may_suspend_by_short_or_full_name_or_everything(client: DaemonClient, loop: FakeLoop) -> None:
    assert client.suspend("tiny") == ["demo/tiny"]
    assert client.suspend("demo/tiny") == ["demo/tiny"]
    assert client.suspend(None) == ["*"]


def test_ambiguous_name_lists_the_choices(client: DaemonClient, loop: FakeLoop) -> None:
    loop.document = status_of(report(desired=state(desired(), desired(ServiceId("prod", "tiny")))))
    with pytest.raises(Terminal, match='"tiny" names 2 services; use one of: demo/tiny, prod/tiny'):
        client.logs("tiny", 1)


def test_misspelt_name_gets_a_suggestion(client: DaemonClient) -> None:
    with pytest.raises(Terminal, match=r'no service is named "tinny"; did you mean demo/tiny\?'):
        client.suspend("tinny")


def test_history_is_filtered_by_time_and_revision(client: DaemonClient, loop: FakeLoop) -> None:
    client.history(None, 5, "1970-01-01T00:01:00Z", "4F1C")
    client.history(None, 5)
    assert loop.asked == [("history", (None, 5, 60.0, "4f1c")), ("history", (None, 5))]
    for since, revision in (("soon", None), (None, "main")):
        with pytest.raises(Terminal, match="is no"):
            client.history(None, 5, since, revision)


def test_history_of_a_service_that_is_gone_can_still_be_read(client: DaemonClient, loop: FakeLoop) -> None:
    client.history("demo/gone", 5)
    assert loop.asked == [("history", ("demo/gone", 5))]


def test_what_the_loop_refuses_is_told_and_its_bugs_are_not(client: DaemonClient) -> None:
    with pytest.raises(RequestRefused, match="the whole target is suspended"):
        client.resume("tiny")
    with pytest.raises(RequestRefused, match="internal error of the daemon") as caught:
        client.resume(None)
    assert "bug in the loop" not in str(caught.value)
    assert client.status()


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/history?limit=0", None, 400),
        ("GET", "/history?limit=-1", None, 400),
        ("GET", "/history?limit=%D9%A3", None, 400),
        ("GET", "/history?limit=" + "9" * 5000, None, 400),
        ("GET", "/logs", None, 400),
        ("GET", "/logs?service=nobody", None, 404),
        ("POST", "/suspend", b"{", 400),
        ("POST", "/suspend", b"[]", 400),
        ("POST", "/suspend", b'{"service": 5}', 400),
        ("POST", "/suspend", b"[" * 60_000, 400),
        ("POST", "/suspend", b"x" * 200_000, 400),
    ],
)
def test_wrong_question_gets_one_clear_answer(
    web: WebSide, config: Settings, loop: FakeLoop, method: str, path: str, body: bytes | None, code: int
) -> None:
    status, answer = ask(config, method, path, body)
    assert (status, set(answer)) == (code, {"error"})
    assert loop.asked == []


# ---------------------------------------------------------------- the socket itself


def test_only_the_owner_can_open_the_socket(web: WebSide, config: Settings) -> None:
    found = config.socket_path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(config.socket_path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_turned_away_even_where_the_mode_would_let_them(loop: FakeLoop, web: WebSide) -> None:
    # A socket in the abstract namespace has no mode at all: only the check of the peer is left.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0reconciler-test-{os.getpid()}")
    listener.listen()
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(10)\n"
        "s.connect(sys.argv[1].replace('@', chr(0)))\n"
        "try:\n"
        "    s.sendall(b'GET /status HTTP/1.0\\r\\n\\r\\n')\n"
        "    print(len(s.recv(100)))\n"
        "except OSError: print(0)\n"
    )
    thread = threading.Thread(target=_serve_owner_only, args=(loop, listener), daemon=True)
    thread.start()
    answer = subprocess.run(
        [sys.executable, "-c", code, f"@reconciler-test-{os.getpid()}"], capture_output=True, text=True, timeout=30
    )
    assert answer.stdout.strip() == "0", answer.stderr


def _serve_owner_only(loop: FakeLoop, listener: socket.socket) -> None:
    import asyncio

    from reconciler.web.control import control_app
    from reconciler.web.server import _OwnersOnly, _server

    asyncio.run(_server(control_app(loop), _OwnersOnly).serve([listener]))


def test_socket_that_a_dead_daemon_left_is_replaced(config: Settings, loop: FakeLoop) -> None:
    config.state_dir.mkdir(parents=True)
    dead = listen_unix(config.socket_path)
    dead.close()
    assert not answers(config.socket_path)
    side = WebSide(config, loop, Metrics())
    side.start()
    assert DaemonClient(config.socket_path).status() == loop.document
    side.stop()


def test_second_daemon_is_refused(web: WebSide, config: Settings, loop: FakeLoop) -> None:
    with pytest.raises(Retryable, match="another daemon is running on"):
        WebSide(config, loop, Metrics()).start()
    assert DaemonClient(config.socket_path).status()


@pytest.mark.slow
def test_taken_port_does_not_keep_the_daemon_from_starting(tmp_path: Path, loop: FakeLoop) -> None:
    """Any user of the host may do that."""
    with socket.create_server(("127.0.0.1", 0)) as thief:
        port = thief.getsockname()[1]
        side = WebSide(settings(tmp_path, web=Web(listen=f"127.0.0.1:{port}")), loop, Metrics())
        side.start()
        assert DaemonClient(tmp_path / "control.sock").status() == loop.document
    eventually(lambda: side.address[1] == port)
    assert get(side, "/healthz")[0] == 200
    side.stop()


@pytest.mark.slow
def test_stop_does_not_wait_for_a_taken_port(web: WebSide, tmp_path: Path, loop: FakeLoop) -> None:
    side = WebSide(settings(tmp_path / "other", web=Web(listen=f"127.0.0.1:{web.address[1]}")), loop, Metrics())
    side.start()
    side.stop()
    assert not side.is_alive()


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:http", ":9", "127.0.0.1:99999", "a b:9"])
def test_impossible_address_is_a_wrong_setting(listen: str) -> None:
    with pytest.raises(ValidationError, match=r"write for example 127\.0\.0\.1:"):
        Web(listen=listen)


def test_host_without_an_address_is_said_at_start(tmp_path: Path, loop: FakeLoop) -> None:
    with pytest.raises(SettingsError, match=r"^web\.listen: cannot resolve no-such-host\.invalid"):
        WebSide(settings(tmp_path, web=Web(listen="no-such-host.invalid:80")), loop, Metrics()).start()


def test_ipv6_is_an_address_too(tmp_path: Path, loop: FakeLoop) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    side = WebSide(settings(tmp_path, web=Web(listen="[::1]:0")), loop, Metrics())
    side.start()
    assert get(side, "/healthz")[0] == 200
    side.stop()


def test_address_for_all_answers_in_both_families(tmp_path: Path, loop: FakeLoop) -> None:
    side = WebSide(settings(tmp_path, web=Web(listen="[::]:0")), loop, Metrics())
    side.start()
    for host in ("127.0.0.1", "::1"):
        connection = http.client.HTTPConnection(host, side.address[1], timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    side.stop()


def test_stopping_does_not_wait_for_idle_connections_and_leaves_no_socket(config: Settings, loop: FakeLoop) -> None:
    side = WebSide(config, loop, Metrics())
    side.start()
    idle = connect(config.socket_path, 10)
    keep_alive = http.client.HTTPConnection(*side.address, timeout=10)
    keep_alive.request("GET", "/healthz")
    keep_alive.getresponse().read()
    side.stop()
    assert not side.is_alive()
    assert not config.socket_path.exists()
    idle.close()
    keep_alive.close()


def test_stopping_spares_the_socket_of_a_successor(config: Settings, loop: FakeLoop) -> None:
    side = WebSide(config, loop, Metrics())
    side.start()
    config.socket_path.unlink()
    successor = listen_unix(config.socket_path)
    side.stop()
    assert answers(config.socket_path)
    successor.close()


# ---------------------------------------------------------------- the command line's side


def test_without_a_daemon_the_client_says_how_to_start_one(tmp_path: Path) -> None:
    for place in (tmp_path / "no.sock", tmp_path / "no" / "no.sock"):
        with pytest.raises(
            NoDaemon,
            match=r"the daemon is not running \(nothing listens on .*start it \(`systemctl start reconciler`, or",
        ):
            DaemonClient(place).status()


def test_daemon_that_hangs_or_dies_is_not_waited_for_forever(tmp_path: Path) -> None:
    listener = listen_unix(tmp_path / "control.sock")
    with pytest.raises(NoDaemon, match=r"did not respond in 0\.2 s"):
        DaemonClient(tmp_path / "control.sock", timeout=0.2).status()
    listener.setblocking(True)
    client = DaemonClient(tmp_path / "control.sock", timeout=30)
    listener.accept()[0].close()
    threading.Thread(target=lambda: listener.accept()[0].close()).start()
    with pytest.raises(NoDaemon, match="closed the connection"):
        client.status()
    listener.close()


def test_sync_is_followed_until_its_pass_is_over_and_nothing_moves(client: DaemonClient, loop: FakeLoop) -> None:
    before, after = status_of(report(), passes=1), status_of(report(), passes=2)
    moving = with_service(after, sync="OutOfSync", health={"status": "Progressing", "reason": "x", "message": "starts"})
    shown: list[Document] = []
    answers_in_turn = [before, moving, after]

    def next_answer() -> Document:
        return answers_in_turn.pop(0) if len(answers_in_turn) > 1 else answers_in_turn[0]

    loop.status = next_answer  # type: ignore[method-assign]
    assert follow_sync(client, 60, shown.append) == after
    assert shown == [before, moving, after]


def test_sync_that_takes_too_long_returns_what_is(client: DaemonClient, loop: FakeLoop) -> None:
    loop.document = status_of(report(), passes=0)
    assert follow_sync(client, 0.1, lambda _: None) == loop.document


def test_sync_asked_of_a_daemon_that_hangs_ends_with_its_timeout(tmp_path: Path) -> None:
    listener = listen_unix(tmp_path / "control.sock")
    with pytest.raises(NoDaemon, match=r"did not respond in 0\.5 s"):
        follow_sync(DaemonClient(tmp_path / "control.sock"), 0.1, lambda _: None)
    listener.close()


def test_restart_is_followed_over_a_restart_of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    answers_in_turn = [NoDaemon("away"), status_of(report(), passes=3)]

    class Away:
        def status(self) -> Document:
            found = answers_in_turn.pop(0)
            if isinstance(found, NoDaemon):
                raise found
            return found

    monkeypatch.setattr("reconciler.web.client.time.sleep", lambda _: None)
    asked = {"service": "demo/tiny", "targets": ["a"], "pass": 3}
    (found,) = follow_restart(Away(), asked, 60, lambda _: None)  # type: ignore[arg-type]
    assert found["name"] == "tiny"


@pytest.mark.slow
def test_sync_asks_a_daemon_that_was_restarted_once_more(config: Settings) -> None:
    moving = with_service(status_of(report(), passes=9), sync="OutOfSync")
    first, second = FakeLoop(moving), FakeLoop(status_of(report(), passes=2))
    second.document["daemon"]["startedAt"] = "2026-11-29T00:00:00.000Z"
    sides = [WebSide(config, one, Metrics()) for one in (first, second)]
    sides[0].start()

    def restart(status: Document) -> None:
        if status is not second.document and status["daemon"]["passes"] == 9 and sides[0].is_alive():
            sides[0].stop()
            threading.Timer(0.3, sides[1].start).start()

    try:
        assert follow_sync(DaemonClient(config.socket_path), 60, restart) == second.document
    finally:
        sides[1].stop()
    assert ("sync", "") in second.asked, "its passes are counted from the start"


@pytest.mark.slow
def test_followed_logs_go_on_after_a_restart_of_the_daemon(config: Settings) -> None:
    loop = FakeLoop(lines=["a", "b"])
    first, second = WebSide(config, loop, Metrics()), WebSide(config, loop, Metrics())
    first.start()
    lines = follow_logs(DaemonClient(config.socket_path), "tiny", 1)
    assert next(lines) == "b"
    first.stop()
    loop.lines = ["a", "b", "c"]
    threading.Timer(0.7, second.start).start()
    try:
        assert next(lines) == "c"
    finally:
        second.stop()


def test_followed_logs_show_every_line_once(client: DaemonClient, loop: FakeLoop) -> None:
    loop.lines = ["a", "b"]
    lines = follow_logs(client, "tiny", 1)
    assert next(lines) == "b"
    loop.lines = ["a", "b", "b", "c"]
    assert [next(lines), next(lines)] == ["b", "c"]


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ([], ["a"], ["a"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["b", "c"], ["c"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),
        (["a", "b"], [], []),
    ],
)
def test_two_windows_on_one_log_overlap(before: list[str], now: list[str], new: list[str]) -> None:
    assert new_lines(before, now) == new


def test_prometheus_is_told_where_the_replicas_are(web: WebSide, loop: FakeLoop):
    status, body = get(web, "/prometheus/sd")
    assert (status, json.loads(body)[0]["targets"]) == (200, [f"127.0.0.1:{web.address[1]}"])
    loop.document = status_of(report(desired=state(desired(metrics_path=None))))
    assert get(web, "/prometheus/sd") == (200, "[]")


class Engine:
    """Listens on a socket, and keeps what it was asked."""

    def __init__(self, path: Path, body: bytes) -> None:
        self.asked = b""
        self._body = body
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        self.asked = client.recv(1 << 16)
        with suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nSet-Cookie: a=b\r\n\r\n" + self._body)
        client.close()


@pytest.fixture
def engine_of(loop: FakeLoop) -> Iterator[Callable[[bytes], Engine]]:
    """A replica that serves on a socket, and says this of itself."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder:

        def make(body: bytes) -> Engine:
            path = Path(folder) / "http.sock"
            loop.document = status_of(report(observed=observed(replica(socket=str(path)))))
            return Engine(path, body)

        yield make


def metrics_path(web: WebSide) -> str:
    (group,) = json.loads(get(web, "/prometheus/sd")[1])
    return str(group["labels"]["__metrics_path__"])


def test_metrics_of_a_replica_are_passed_on_without_what_the_client_says(web: WebSide, engine_of: Any):
    engine = engine_of(b"vllm:num_requests_running 3\n")
    connection = http.client.HTTPConnection(*web.address, timeout=10)
    headers = {"Authorization": "Bearer stolen", "X-Evil": "1", "Cookie": "x"}
    connection.request("GET", f"{metrics_path(web)}?path=/v1/models", headers=headers)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"vllm:num_requests_running 3\n")
    assert answer.getheader("Content-Type", "").startswith("text/plain"), "a page would run in the origin of /metrics"
    assert answer.getheader("Set-Cookie") is None
    connection.close()
    assert engine.asked.startswith(b"GET /metrics HTTP/1.1\r\n")
    assert not any(word in engine.asked for word in (b"stolen", b"Evil", b"Cookie", b"models"))


def test_no_other_path_or_method_reaches_a_replica(web: WebSide, engine_of: Any):
    engine = engine_of(b"")
    path = metrics_path(web)
    assert get(web, f"{path}/v1/models")[0] == 404
    assert get(web, path.replace("tiny", "other"))[0] == 404
    assert get(web, path, "POST")[0] == 405
    assert engine.asked == b""


def test_metrics_without_an_end_are_not_passed_on(web: WebSide, engine_of: Any):
    engine_of(b"x" * (9 << 20))
    assert get(web, metrics_path(web))[0] == 502


def test_silent_replica_that_many_ask_for_keeps_no_other_replica_waiting(web: WebSide, loop: FakeLoop):
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as silent:
        paths = [Path(folder) / name for name in ("silent", "other")]
        silent.bind(str(paths[0]))
        silent.listen(64)
        replicas = [replica(number=number, socket=str(path)) for number, path in enumerate(paths, 1)]
        loop.document = status_of(report(observed=observed(*replicas)))
        Engine(paths[1], b"up 1\n")
        first, second = (
            str(group["labels"]["__metrics_path__"]) for group in json.loads(get(web, "/prometheus/sd")[1])
        )
        asking = [http.client.HTTPConnection(*web.address, timeout=10) for _ in range(20)]
        for connection in asking:
            connection.request("GET", first)
        # Had they all the threads that there are for it, it would wait 8 s for each.
        connection = http.client.HTTPConnection(*web.address, timeout=4)
        connection.request("GET", second)
        assert connection.getresponse().read() == b"up 1\n"
        for each in (*asking, connection):
            each.close()


def test_silent_replicas_keep_no_other_answer_waiting(web: WebSide, engine_of: Any):
    engine_of(b"")
    path = metrics_path(web)
    # It takes one connection and answers it; the others wait in its backlog.
    asking = [http.client.HTTPConnection(*web.address, timeout=10) for _ in range(30)]
    for connection in asking:
        connection.request("GET", path)
    assert get(web, "/healthz")[0] == 200
    for connection in asking:
        connection.close()
