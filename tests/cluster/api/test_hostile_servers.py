"""What is no API server, or one at its worst, is one clear error; nothing hangs and nothing is done twice."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.cluster.api import errors, transport
from reconciler.cluster.api import watch as watch_module
from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.watch import KindState, WatchedKind, Watches
from reconciler.errors import ReconcileError
from reconciler.model.objects import ObjectId
from tests.cluster.api.bodies import config_map
from tests.cluster.api.hostile import Handler, serving, silent, write_kubeconfig
from tests.controlplane.api import wait_for
from tests.controlplane.certificates import Authority

pytestmark = pytest.mark.slow

KINDS = {
    "kind": "APIResourceList",
    "resources": [{"name": "configmaps", "kind": "ConfigMap", "namespaced": True, "verbs": ["get"]}],
}
ID = ObjectId("", "ConfigMap", "default", "c")
FOUND = {
    **config_map("default", key="value"),
    "metadata": {"name": "c", "namespace": "default", "resourceVersion": "5"},
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


def connected(tmp_path: Path, url: str, authority: Authority, timeout: float = 5.0, **user: Any) -> Client:
    return Client(ClusterConnection(write_kubeconfig(tmp_path, url, authority, **user), timeout=timeout))


def after_discovery(answer: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """A server that says which kinds it has, and then answers like that."""

    def answering(handler: Handler) -> None:
        if handler.path == "/api/v1":
            handler.reply(200, KINDS)
        else:
            answer(handler)

    return answering


def html(handler: Handler) -> None:
    handler.reply(200, b"<html><body>Please log in</body></html>", "text/html")


def redirect(handler: Handler) -> None:
    handler.reply(302, b"", "text/html", Location="https://127.0.0.1:1/elsewhere")


def teapot(handler: Handler) -> None:
    handler.reply(418, b"<h1>teapot secret-token</h1>", "text/html")


def truncated(handler: Handler) -> None:
    handler.reply(200, json.dumps(FOUND).encode()[:-20])


def broken_off(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"kind": "ConfigMap", ')
    handler.close_connection = True
    handler.connection.close()


def unauthorized(handler: Handler) -> None:
    handler.reply(401, {"kind": "Status", "message": "Unauthorized", "reason": "Unauthorized", "code": 401})


def dripping(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        time.sleep(0.05)


def silence(handler: Handler) -> None:
    time.sleep(3)


def not_json_status(handler: Handler) -> None:
    handler.reply(500, b'{"kind": "Status", "details": [1], "message": 7}')


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (html, errors.Unreached, "not JSON; see whether a proxy stands between"),
        (redirect, errors.Unreached, "redirect"),
        (teapot, errors.Unreached, "answers 418 with text/html, which is not from an API server"),
        (truncated, errors.Unreached, "not JSON"),
        (broken_off, errors.Unreached, "breaks off"),
        (unauthorized, errors.Unauthorized, "kubeconfig, context tests"),
        (dripping, errors.Unreached, "takes too long"),
        (silence, errors.Unreached, "no answer in time"),
        (not_json_status, errors.ServerFailed, "7"),
    ],
)
def test_each_wrong_answer_is_one_clear_error(
    tmp_path: Path, authority: Authority, answer: Callable[[Handler], None], error: type[Exception], message: str
) -> None:
    with serving(authority, after_discovery(answer)) as (url, _), pytest.raises(error) as caught:
        connected(tmp_path, url, authority, timeout=1.5).get(ID)
    assert message in str(caught.value)
    assert str(caught.value).startswith("ConfigMap default/c: ")
    assert "secret-token" not in str(caught.value)


def test_server_that_accepts_and_says_nothing_is_given_up(tmp_path: Path, authority: Authority) -> None:
    with silent() as url, pytest.raises(errors.Unreached, match=r"see the server in .*kubeconfig|no answer in time"):
        connected(tmp_path, url, authority, timeout=1.0).server_version()


def test_certificate_of_another_ca_names_the_kubeconfig(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path / "other")
    with serving(authority, html) as (url, asked), pytest.raises(errors.Unreached) as caught:
        connected(tmp_path, url, other).server_version()
    assert "certificate is not accepted" in str(caught.value)
    assert str(caught.value).count(url) == 1
    assert f"see the CA and the client certificate in {tmp_path / 'kubeconfig'}, context tests" in str(caught.value)
    assert not asked


def test_certificate_is_checked_against_the_name_that_is_set(tmp_path: Path, authority: Authority) -> None:
    def version(handler: Handler) -> None:
        handler.reply(200, {"gitVersion": "v1.36.3"})

    with serving(authority, version) as (url, _):
        named = write_kubeconfig(tmp_path, url, authority, **{"tls-server-name": "localhost"})
        assert Client(ClusterConnection(named)).server_version() == "v1.36.3"
        named = write_kubeconfig(tmp_path, url, authority, **{"tls-server-name": "elsewhere"})
        with pytest.raises(errors.Unreached, match="certificate is not accepted"):
            Client(ClusterConnection(named)).server_version()


def test_answer_that_is_too_large_is_not_read_to_its_end(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 1 << 20)

    def large(handler: Handler) -> None:
        handler.reply(200, b" " * (2 << 20))

    with serving(authority, after_discovery(large)) as (url, _), pytest.raises(errors.TooLarge, match="larger than"):
        connected(tmp_path, url, authority).get(ID)


def test_busy_server_is_asked_again_when_it_says(tmp_path: Path, authority: Authority) -> None:
    times: list[float] = []

    def busy_twice(handler: Handler) -> None:
        times.append(time.monotonic())
        if len(times) < 3:
            handler.reply(429, b"Too many requests, please try again later.\n", "text/plain", Retry_After="1")
        else:
            handler.reply(200, FOUND)

    with serving(authority, after_discovery(busy_twice)) as (url, _):
        assert connected(tmp_path, url, authority, timeout=20.0).apply(config_map("default"))["data"]
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(times))


def test_server_that_stays_busy_is_left_before_the_deadline(tmp_path: Path, authority: Authority) -> None:
    def busy(handler: Handler) -> None:
        handler.reply(503, b"<html>no healthy upstream</html>", "text/html", Retry_After="60")

    with serving(authority, after_discovery(busy)) as (url, asked), pytest.raises(errors.Busy):
        connected(tmp_path, url, authority).get(ID)
    assert asked.count("GET /api/v1/namespaces/default/configmaps/c") == 1


@pytest.mark.parametrize(
    ("doing", "times"),
    [(lambda client: client.apply(config_map("default")), 3), (lambda client: client.create(config_map("default")), 1)],
)
def test_only_what_may_be_done_twice_is_sent_again(
    tmp_path: Path, authority: Authority, doing: Callable[[Client], Any], times: int
) -> None:
    """The answer to the first two is lost."""
    sent: list[str] = []

    def lost_twice(handler: Handler) -> None:
        sent.append(handler.command)
        if len(sent) < 3:
            handler.close_connection = True
            handler.connection.close()
        else:
            handler.reply(200, FOUND)

    with serving(authority, after_discovery(lost_twice)) as (url, _):
        client = connected(tmp_path, url, authority, timeout=20.0)
        try:
            doing(client)
        except errors.Unreached:
            assert times == 1
    assert len(sent) == times


@pytest.mark.parametrize(("code", "times"), [(503, 1), (429, 2)])
def test_create_is_sent_again_only_when_it_was_turned_away(
    tmp_path: Path, authority: Authority, code: int, times: int
) -> None:
    """A 503 may come from a server that did it; a 429 never does."""
    sent: list[str] = []

    def busy_once(handler: Handler) -> None:
        sent.append(handler.command)
        if len(sent) == 1:
            handler.reply(code, {"kind": "Status", "code": code, "message": "later"})
        else:
            handler.reply(201, FOUND)

    with serving(authority, after_discovery(busy_once)) as (url, _):
        client = connected(tmp_path, url, authority)
        try:
            client.create(config_map("default"))
        except errors.Busy:
            assert code == 503
    assert len(sent) == times


def test_plain_not_found_of_a_proxy_is_no_absent_kind(tmp_path: Path, authority: Authority) -> None:
    def not_found(handler: Handler) -> None:
        handler.reply(404, b"404 page not found\n", "text/plain; charset=utf-8")

    with serving(authority, not_found) as (url, _), pytest.raises(errors.Unreached, match="no API server"):
        connected(tmp_path, url, authority).resource("serving.kserve.io", "InferenceService")


LISTED = {"kind": "ConfigMapList", "metadata": {"resourceVersion": "9"}, "items": [FOUND]}


@pytest.mark.parametrize(
    "events",
    [
        b"",
        b"<html>",
        b"[]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {}}\n',
        b'{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "oh"}}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": "c", "resourceVersion": "many"}}}\n',
    ],
)
def test_watch_that_gives_no_events_makes_its_kind_unknown(
    tmp_path: Path, authority: Authority, events: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_FIRST_PAUSE", 0.01)
    lists: list[str] = []

    def answer(handler: Handler) -> None:
        if "watch=1" in handler.path:
            handler.reply(200, events)
        elif lists:
            handler.reply(403, {"kind": "Status", "code": 403, "message": "no", "reason": "Forbidden"})
        else:
            lists.append(handler.path)
            handler.reply(200, LISTED)

    with serving(authority, after_discovery(answer)) as (url, _):
        watches = Watches(connected(tmp_path, url, authority), lambda: None, stale_seconds=0.3)
        watches.watch([WatchedKind("", "ConfigMap")])
        wait_for(lambda: ID in watches.snapshot())
        wait_for(lambda: watches.snapshot().status("", "ConfigMap").state is KindState.UNKNOWN)
        for _ in range(50):
            assert watches.snapshot().status("", "ConfigMap").state is KindState.UNKNOWN
            time.sleep(0.01)
        assert watches.snapshot()[ID]["data"] == {"key": "value"}
        watches.close()


def test_closed_port_names_the_server_and_the_kubeconfig(tmp_path: Path, authority: Authority) -> None:
    with silent() as url:
        pass
    with pytest.raises(ReconcileError) as caught:
        connected(tmp_path, url, authority, timeout=0.5).server_version()
    assert url in str(caught.value)
    assert f"see the server in {tmp_path / 'kubeconfig'}, context tests" in str(caught.value)
    assert "0x" not in str(caught.value)
