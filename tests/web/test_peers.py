"""Other daemons, asked over real sockets: what is known of them, and what a bad one can do."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.web import PeerSettings, Web
from reconciler.page.summary import SCHEMA
from reconciler.report.status import Document
from reconciler.web import peers as module
from reconciler.web.peers import Peers
from reconciler.web.server import WebSide
from tests.forge.local_forge import SLOWLY, Asked, LocalForge, Reply, local_forge
from tests.support.ports import free_port
from tests.support.report_world import report, status_of
from tests.support.world import eventually
from tests.web.asking import BOB, TOKENS, config, serving
from tests.web.fake_loop import FakeLoop
from tests.web.test_pages import get

FINE = {"schema": SCHEMA, "attention": 3}


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalForge]:
    with local_forge(tmp_path_factory.mktemp("pki"), lambda asked: Reply(200, FINE)) as server:
        yield server


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.02)


@contextmanager
def asking(*settings: PeerSettings) -> Iterator[Callable[[], list[Document]]]:
    """What is known of them."""
    peers = Peers(settings, lambda: None)
    peers.start()
    try:
        yield lambda: peers.document()["peers"]
    finally:
        peers.stop()


def once(known: Callable[[], list[Document]], is_so: Callable[[Document], object]) -> Document:
    """The first of them, when it is so."""
    eventually(lambda: is_so(known()[0]))
    return known()[0]


def known_of(url: str, **fields: Any) -> Document:
    """What is known of a peer once it was asked."""
    with asking(PeerSettings(name="b", url=url, **fields)) as known:
        return once(known, lambda one: one["observedAt"] or one["since"])


def of(peer: LocalForge, **fields: Any) -> Document:
    return known_of(peer.url, **({"ca_file": peer.ca_file} | fields))


def test_daemon_is_known_by_its_summary(web: WebSide) -> None:
    found = known_of("http://{}:{}/".format(*web.address))
    assert found["reachable"]
    assert found["reason"] == ""
    assert found["summary"]["services"] == {"Healthy": 1}
    assert found["summary"]["targets"]["names"] == ["a"]


def test_answer_that_is_known_is_not_sent_again(web: WebSide, loop: FakeLoop) -> None:
    tag = get(web, "/summary", "application/json")[0].headers["etag"]
    response, text = get(web, "/summary", "application/json", {"If-None-Match": f'"x", W/{tag}'})
    assert (response.status, text) == (304, "")
    assert response.headers["etag"] == tag
    loop.document = status_of(report(), report())
    response, text = get(web, "/summary", "application/json", {"If-None-Match": tag})
    assert response.status == 200
    assert json.loads(text)["targets"]["total"] == 2


@pytest.mark.usefixtures("often")
def test_peer_is_asked_again_and_only_for_what_is_new(peer: LocalForge) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(304) if asked.headers.get("if-none-match") == '"one"' else Reply(200, FINE, {"ETag": '"one"'})

    peer.answer = answer
    with asking(PeerSettings(name="b", url=peer.url, ca_file=peer.ca_file)) as known:
        first = once(known, lambda one: one["observedAt"])["observedAt"]
        assert once(known, lambda one: one["observedAt"] != first)["summary"]["attention"] == 3
    assert peer.asked[-1].headers["if-none-match"] == '"one"'


@pytest.mark.usefixtures("often")
def test_peer_that_went_away_keeps_what_it_said_last(peer: LocalForge) -> None:
    peer.answer = lambda asked: Reply(200, FINE)
    with asking(PeerSettings(name="b", url=peer.url, ca_file=peer.ca_file)) as known:
        eventually(lambda: known()[0]["reachable"])
        peer.answer = lambda asked: Reply(503, b"<html>maintenance</html>")
        away = once(known, lambda one: not one["reachable"])
        assert away["summary"]["attention"] == 3
        assert away["observedAt"]
        assert away["reason"].startswith("503: ")
        time.sleep(0.1)
        assert known()[0]["since"] == away["since"]
        peer.answer = lambda asked: Reply(200, FINE | {"attention": 4})
        back = once(known, lambda one: one["reachable"])
        assert back["since"] is None
        assert back["summary"]["attention"] == 4


def test_https_to_a_daemon_without_tls_is_told(web: WebSide) -> None:
    assert known_of("https://{}:{}".format(*web.address))["reason"].endswith("without TLS: is it http?")


def test_reason_says_what_is_wrong(peer: LocalForge) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert known_of(nowhere)["reason"] == "no connection: Connection refused"
    assert known_of("http://no-such-host.invalid")["reason"].startswith("DNS: ")
    assert known_of(peer.url)["reason"].startswith("TLS: ")
    assert "must hold PEM" in known_of(peer.url, ca_file=Path(__file__))["reason"]
    missing = Path(__file__).parent / "no-such-token"
    assert "web.peers[0].token_file" in of(peer, token_file=str(missing))["reason"]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(401, {}), "401: "),
        (Reply(403, {}), "403: "),
        (Reply(404, {}), "404: "),
        (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), "302: it leads elsewhere, which is not followed"),
        (Reply(421, {}), "421: it does not answer to the name"),
        (Reply(418, {}), "418: "),
        (Reply(304), "304: "),
        (Reply(200, b"<html>hello</html>"), "not a reconciler"),
        (Reply(200, b"[" * 50_000), "not a reconciler"),
        (Reply(200, {"schema": SCHEMA, "x": "y" * 70_000}), "more than 65536 bytes"),
        (Reply(200, b"\x1f\x8b" + bytes(100), {"Content-Encoding": "gzip"}), "not a reconciler"),
        (Reply(200, b"", {"Content-Length": "10"}), "no answer: "),
    ],
)
def test_answer_that_is_no_summary_is_not_taken(peer: LocalForge, reply: Reply, says: str) -> None:
    closing = {"Connection": "close"}
    peer.answer = lambda asked: Reply(reply.status, reply.body, {**reply.headers, **closing})
    found = of(peer)
    assert not found["reachable"]
    assert says in found["reason"]
    assert found["summary"] is None


@pytest.mark.parametrize("part", ["head", "body"])
def test_peer_that_drips_ends_with_the_deadline(peer: LocalForge, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 20 * SLOWLY)
    peer.answer = lambda asked: Reply(200, [0] * 60, slow=part)
    assert of(peer)["reason"].startswith("timeout: ")


def test_peer_that_drips_without_tls_ends_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 20 * SLOWLY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with asking(PeerSettings(name="b", url=url)) as known, listener.accept()[0] as connection:
            with suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\nX-Much: " + 60 * b"x":
                    connection.sendall(bytes([byte]))
                    time.sleep(SLOWLY)
            assert once(known, lambda one: one["since"])["reason"].startswith("timeout: ")


def test_plain_http_to_this_host_goes_past_a_proxy(web: WebSide, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its token is for this host alone."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert known_of("http://{}:{}".format(*web.address))["reachable"]
    assert known_of(f"http://192.0.2.1:{free_port()}")["reason"].startswith("proxy: Connection refused")


def test_token_is_read_for_each_question(peer: LocalForge, tmp_path: Path) -> None:
    token = tmp_path / "token"
    peer.answer = lambda asked: Reply(200, FINE)
    for text in ("one", "two"):
        token.write_text(text)
        of(peer, token_file=str(token))
        assert peer.asked[-1].headers["authorization"] == f"Bearer {text}"
    assert peer.asked[-1].path == "/summary"


@pytest.mark.parametrize(("sent", "says"), [(BOB, ""), ("wrong", "401: "), (None, "401: ")])
def test_daemon_with_a_login_shows_itself_to_its_token(tmp_path: Path, sent: str | None, says: str) -> None:
    token = tmp_path / "token"
    token.write_text(sent or "")
    with serving(config(tmp_path / "peer", auth={"tokens": TOKENS})) as side:
        url = "http://{}:{}".format(*side.address)
        found = known_of(url, token_file=str(token)) if sent else known_of(url)
    assert found["reachable"] is (sent == BOB)
    assert found["reason"].startswith(says)


@pytest.mark.usefixtures("often")
def test_one_that_hangs_keeps_no_other_waiting(peer: LocalForge) -> None:
    peer.answer = lambda asked: Reply(200, FINE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = PeerSettings(name="a", url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with asking(hanging, PeerSettings(name="b", url=peer.url, ca_file=peer.ca_file)) as known:
            eventually(lambda: known()[1]["reachable"])
            assert known()[0]["reason"] == "it was not asked yet"
            silent.close()


@pytest.mark.usefixtures("often")
def test_many_that_are_away_delay_none_that_answers(peer: LocalForge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.3)
    peer.answer = lambda asked: Reply(200, FINE)
    fine = PeerSettings(name="fine", url=peer.url, ca_file=peer.ca_file)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with asking(fine, *(PeerSettings(name=f"silent-{number}", url=url) for number in range(20))) as known:
            eventually(lambda: all(one["since"] for one in known()[1:]))
            monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 300)
            time.sleep(0.5)
            count = len(peer.asked)
            eventually(lambda: len(peer.asked) > count + 5)
            assert known()[0]["reachable"]
            silent.close()


def test_daemons_that_show_each_other_ask_no_further(web: WebSide, loop: FakeLoop) -> None:
    address = "http://{}:{}".format(*web.address)
    loop.document = status_of(report()) | {"peers": [{"name": "a", "url": address, "reachable": True}]}
    assert "peers" not in known_of(address)["summary"]


@pytest.mark.parametrize(
    ("peers", "says"),
    [
        ([{"name": "b", "url": "http://b.example.com", "token_file": "/t"}], "token_file needs an https url"),
        ([{"name": "b", "url": "https://user@b.example.com"}], "a URL without a path"),
    ],
)
def test_peers_that_cannot_be_are_refused(peers: list[Document], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Web.model_validate({"peers": peers})


@pytest.mark.parametrize(
    "url", ["https://b.example.com", "http://127.0.0.1:9465", "http://localhost:1", "http://[::1]:1"]
)
def test_token_goes_where_nobody_else_reads_it(url: str) -> None:
    assert Web.model_validate({"peers": [{"name": "b", "url": url, "token_file": "/t"}]}).peers[0].url == url


def test_overview_shows_what_is_known_of_peers(web: WebSide, loop: FakeLoop) -> None:
    with asking(PeerSettings(name="paris", url="http://{}:{}".format(*web.address))) as known:
        once(known, lambda one: one["reachable"])
        loop.document = status_of(report()) | {"peers": known()}
    text = get(web, "/")[1]
    assert "<h2>Other daemons</h2>" in text
    assert ">paris</a>" in text
    assert json.loads(get(web, "/", "application/json")[1])["peers"]["rows"][0]["name"] == "paris"
    assert ">paris</a>" not in get(web, "/?peer=rome")[1]
    loop.document = status_of(report())
    assert "Other daemons" not in get(web, "/")[1]


def test_page_is_told_when_a_peer_says_something_new(peer: LocalForge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.02)
    peer.answer, count = lambda asked: Reply(200, FINE), len(peer.asked)
    told = list[float]()
    peers = Peers([PeerSettings(name="b", url=peer.url, ca_file=peer.ca_file)], lambda: told.append(0.0))
    peers.start()
    eventually(lambda: len(peer.asked) > count + 3)
    peers.stop()
    assert len(told) == 1
