"""What open pages are told over `/events`, and what that costs others."""

from __future__ import annotations

import copy
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.config.settings import Settings
from reconciler.loop.daemon import Daemon
from reconciler.web.connections import MOST_STREAMS
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.git_repository import Repository
from tests.support.report_world import with_service
from tests.support.world import eventually
from tests.web.asking import BOB, COOKIE, TOKENS, Asker, serving
from tests.web.asking import config as login_config
from tests.web.event_reader import EventReader
from tests.web.fake_loop import FakeLoop
from tests.web.test_web import get
from tests.web.webhook_senders import configured

TINY = "/services/a/demo/tiny"


@pytest.fixture
def web(config: Settings, loop: FakeLoop) -> Iterator[WebSide]:
    side = WebSide(config, loop, Metrics())
    side.start()
    side.live.start()
    yield side
    side.stop()
    side.live.stop()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def change(web: WebSide, loop: FakeLoop, **fields: object) -> None:
    """A pass after which the service says something else."""
    loop.document = with_service(loop.document, **fields)
    web.live.wake()


def listening(web: WebSide, page: str = "") -> EventReader:
    """A reader that knows all that happened so far."""
    with EventReader(web, page, since="0" * 8 + "-0") as first:
        eventually(lambda: web.live._digests)
        while first.id != web.live.position():
            first.message()
    reader = EventReader(web, page, last=first.id)
    reader.message()
    return reader


def test_stream_begins_with_where_it_is_and_is_kept_by_nobody(web: WebSide) -> None:
    with EventReader(web) as reader:
        assert reader.headers["content-type"].startswith("text/event-stream")
        assert reader.headers["cache-control"] == "no-store"
        assert reader.headers["x-content-type-options"] == "nosniff"
        assert reader.message() == {"retry": "2000", "id": web.live.position().partition("-")[0] + "-0"}


def test_event_names_the_pages_that_changed(web: WebSide, loop: FakeLoop) -> None:
    with listening(web) as reader:
        change(web, loop, ready="0/1")
        assert reader.topics() == ["/", TINY]
        loop.document |= {"revision": loop.document["revision"] | {"subject": "Serve more"}}
        web.live.wake()
        assert reader.topics() == ["/", "/changes", "/repository", TINY]


@pytest.mark.slow
def test_page_hears_only_of_itself(web: WebSide, loop: FakeLoop) -> None:
    with (
        listening(web, TINY) as service,
        listening(web, "/gpus") as gpus,
        listening(web, "/changes/4f1c2ab") as revision,
    ):
        change(web, loop, ready="0/1")
        assert service.topics() == [TINY]
        change(web, loop, sync="OutOfSync")
        assert revision.topics() == ["/changes"]
        assert gpus.is_quiet()


@pytest.mark.slow
def test_pass_that_changes_nothing_says_nothing(web: WebSide, loop: FakeLoop) -> None:
    with listening(web) as reader:
        loop.document = copy.deepcopy(loop.document)
        loop.document["daemon"]["passes"] += 1
        loop.document["revision"]["fetchedAt"] = loop.document["targets"][0]["observedAt"] = "2026-01-01T00:00:00.000Z"
        web.live.wake()
        assert reader.is_quiet()


@pytest.mark.slow
def test_many_passes_in_a_moment_are_told_as_few(web: WebSide, loop: FakeLoop) -> None:
    with listening(web, TINY) as reader:
        began = time.monotonic()
        for number in range(100):
            change(web, loop, ready=f"{number}/100")
            time.sleep(0.003)
        seconds = time.monotonic() - began
        told = 0
        while not reader.is_quiet(1):
            told += 1
        assert 1 <= told <= 4 * seconds + 3


@pytest.mark.slow
def test_browser_that_was_away_is_told_what_it_missed(web: WebSide, loop: FakeLoop) -> None:
    with listening(web, TINY) as reader:
        pass
    change(web, loop, ready="0/1")
    with EventReader(web, TINY, last=reader.id) as again:
        assert again.topics() == [TINY]
    with EventReader(web, "/gpus", last=again.id) as other:
        assert other.is_quiet()


def test_browser_of_an_earlier_daemon_is_told_to_look_again(web: WebSide) -> None:
    for known in ("0123abcd-7", "", "x\ndata: [1]", "9" * 5000, "-"):
        with EventReader(web, TINY, since=known or "0-0") as reader:
            assert reader.topics() == [TINY]


@pytest.mark.slow
def test_page_says_which_events_it_already_shows(web: WebSide, loop: FakeLoop) -> None:
    listening(web).close()
    _, text = get(web, "/")
    since = text.partition('data-since="')[2].partition('"')[0]
    assert since == web.live.position()
    with EventReader(web, "/", since=since) as reader:
        assert reader.is_quiet()
        change(web, loop, ready="0/1")
        assert reader.topics() == ["/"]


def test_page_of_a_service_that_is_gone_is_told(web: WebSide, loop: FakeLoop) -> None:
    with listening(web, TINY) as reader:
        target = loop.document["targets"][0]
        loop.document |= {"targets": [target | {"services": []}]}
        web.live.wake()
        assert reader.topics() == [TINY]


def test_status_is_read_only_while_somebody_listens(
    web: WebSide, loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(web.live, "_read", lambda: read.append(1) or loop.document)
    for _ in range(20):
        web.live.wake()
        time.sleep(0.01)
    assert not read
    with EventReader(web) as reader:
        reader.topics()
    assert read


@pytest.mark.slow
def test_bug_while_comparing_costs_only_that_event(web: WebSide, loop: FakeLoop) -> None:
    with listening(web, TINY) as reader:
        known, loop.document = loop.document, {}
        web.live.wake()
        assert reader.is_quiet()
        loop.document = with_service(known, ready="0/1")
        web.live.wake()
        assert reader.topics() == [TINY]


def test_open_streams_end_at_once_when_the_daemon_stops(web: WebSide, stack: ExitStack) -> None:
    readers = [stack.enter_context(EventReader(web, TINY)) for _ in range(20)]
    for reader in readers:
        reader.message()
    ended = threading.Thread(target=web.stop)
    ended.start()
    assert all(reader.is_closed(2) for reader in readers)
    ended.join(10)
    assert not web.is_alive()


def test_stream_that_nobody_needs_any_more_is_forgotten(web: WebSide) -> None:
    for _ in range(30):
        with EventReader(web) as reader:
            reader.message()
    eventually(lambda: not web.live._streams)


@pytest.mark.slow
def test_stream_lives_longer_than_any_other_answer(web: WebSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.web.connections._ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("reconciler.web.pages.live._HEARTBEAT_SECONDS", 0.1)
    with listening(web) as reader:
        assert [reader.message() for _ in range(6)] == [{"event": "alive", "data": "."}] * 6


def test_stream_ends_with_the_session_that_it_belongs_to(
    loop: FakeLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.web.pages.live._HEARTBEAT_SECONDS", 0.05)
    with serving(login_config(tmp_path, auth={"tokens": TOKENS}), loop) as web:
        person = Asker(web)
        person.log_in(BOB)
        monkeypatch.setattr(web._sessions, "_seconds", 1.0)
        with EventReader(web, cookie=f"{COOKIE}={person.cookie}") as reader:
            assert reader.is_closed()
            assert reader.is_over


def test_logout_ends_the_streams_of_its_session_alone(loop: FakeLoop, tmp_path: Path) -> None:
    with serving(login_config(tmp_path, auth={"tokens": TOKENS}), loop) as web:
        one, other = Asker(web), Asker(web)
        one.log_in(BOB)
        other.log_in(BOB)
        with (
            EventReader(web, cookie=f"{COOKIE}={one.cookie}") as ended,
            EventReader(web, cookie=f"{COOKIE}={other.cookie}") as kept,
        ):
            one.post("/logout", {})
            assert ended.is_closed()
            assert not kept.is_closed(0.1)


@pytest.mark.slow
def test_stream_ends_after_a_while_and_the_connection_asks_again(web: WebSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.web.pages.live._LONGEST_SECONDS", 0.3)
    monkeypatch.setattr("reconciler.web.pages.live._HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr("reconciler.web.connections._ASK_SECONDS", 0.5)
    with EventReader(web) as reader:
        while reader.message():
            pass
        reader.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # It is an ordinary connection again, with an ordinary connection's time.
        assert b'"status":"ok"' in b"".join(iter(lambda: reader.socket.recv(1 << 16), b""))
    eventually(lambda: not web._public.server_state.connections)


@pytest.mark.slow
def test_client_that_does_not_read_is_dropped(web: WebSide, loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.web.pages.live._UNREAD_SECONDS", 0.3)
    monkeypatch.setattr("reconciler.web.pages.live._SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr("reconciler.web.pages.live._SHARE", 1e9)
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    silent.connect(web.address)
    silent.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    eventually(lambda: web.live._streams)
    deadline = time.monotonic() + 60
    while web.live._streams and time.monotonic() < deadline:
        change(web, loop, ready=str(time.monotonic()))
        time.sleep(0.001)
    assert not web.live._streams
    silent.close()


def test_head_of_events_is_an_answer_that_ends(web: WebSide) -> None:
    assert get(web, "/events", "HEAD")[0] == 200
    assert not web.live._streams


# ---------------------------------------------------------------- crowds


@pytest.mark.slow
def test_streams_of_strangers_leave_room_for_all_other_answers(web: WebSide, stack: ExitStack) -> None:
    readers = [stack.enter_context(EventReader(web, TINY)) for _ in range(MOST_STREAMS)]
    assert {reader.status for reader in readers} == {200}
    with EventReader(web) as refused:
        assert refused.status == 503
        assert refused.headers["retry-after"] == "30"
    for path in ("/healthz", "/readyz", "/metrics", "/"):
        assert get(web, path)[0] == 200, path
    assert len(web.live._streams) == MOST_STREAMS


@pytest.mark.slow
def test_who_has_many_streams_makes_room_for_who_has_few(web: WebSide, stack: ExitStack) -> None:
    greedy = [stack.enter_context(EventReader(web, source="127.0.0.2")) for _ in range(MOST_STREAMS)]
    for _ in range(3):
        few = stack.enter_context(EventReader(web, source="127.0.0.3"))
        assert few.status == 200
    assert [reader.is_closed(0.2) for reader in greedy[:5]] == [True] * 3 + [False] * 2
    assert len(web.live._streams) == MOST_STREAMS


def test_one_page_is_made_for_a_crowd(web: WebSide, loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = [], threading.Event()
    known = loop.document

    def slow(_: FakeLoop) -> object:
        begun.append(1)
        assert go_on.wait(10)
        return known

    monkeypatch.setattr(FakeLoop, "status", slow)
    got: list[int] = []
    crowd = [threading.Thread(target=lambda: got.append(get(web, "/")[0])) for _ in range(40)]
    for each in crowd:
        each.start()
    assert get(web, "/healthz")[0] == 200
    go_on.set()
    for each in crowd:
        each.join()
    assert got == [200] * 40
    assert len(begun) < 10


# ---------------------------------------------------------------- a real daemon


@pytest.mark.slow
def test_page_of_a_real_daemon_hears_of_a_commit_and_of_the_end(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "origin")
    repository.write("hosts/a/x.yaml", "# nothing\n")
    repository.commit()
    daemon = Daemon(configured(tmp_path, url=str(repository.path), interval=100_000))
    daemon.start()
    try:
        eventually(lambda: daemon.status()["revision"]["applied"])
        with listening(daemon._web, "/changes") as reader:
            repository.write("hosts/a/x.yaml", "# nothing else\n")
            revision = repository.commit()
            daemon.request_sync()
            assert reader.topics() == ["/changes"]
            eventually(lambda: daemon.status()["revision"]["applied"] == revision)
            ending = threading.Thread(target=daemon.stop)
            ending.start()
            assert reader.is_closed(3)
            ending.join(30)
            assert not ending.is_alive()
    finally:
        daemon.stop()
