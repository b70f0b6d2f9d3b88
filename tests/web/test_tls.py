"""The daemon's port with TLS of its own, on real sockets."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.config.web import TlsSettings
from reconciler.errors import SettingsError
from reconciler.web import tls as module
from reconciler.web.connections import MOST
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.controlplane.certificates import Authority
from tests.support.world import eventually
from tests.web.asking import ADA, COOKIE, TOKENS, Asker, config, serving
from tests.web.fake_loop import FakeLoop


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority(tmp_path_factory.mktemp("authority"))
    found.server("first"), found.server("second")
    return found


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> tuple[Path, Path]:
    found = tmp_path / "tls.crt", tmp_path / "tls.key"
    put(authority, "first", found)
    return found


@pytest.fixture
def web(tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[WebSide]:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    certificate, key = files
    settings = config(tmp_path, tls={"certificate_file": certificate, "key_file": str(key)}, auth={"tokens": TOKENS})
    with serving(settings) as side:
        yield side


def put(authority: Authority, name: str, files: tuple[Path, Path]) -> None:
    """As certificate managers do: written beside, then renamed."""
    for end, path in zip(("crt", "key"), files, strict=True):
        shutil.copy(authority.folder / f"{name}.{end}", path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


def shaken(web: WebSide, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(web.address, timeout=10), server_hostname="localhost")


def shown(web: WebSide, authority: Authority) -> str:
    """The name on the certificate."""
    with shaken(web, trusting(authority)) as connection:
        (((_, name),),) = (connection.getpeercert() or {})["subject"]
        return name


def ask(connection: ssl.SSLSocket) -> int:
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    client.request("GET", "/healthz")
    with client.getresponse() as response:
        response.read()
        return response.status


def test_page_is_served_over_tls(web: WebSide, authority: Authority):
    browser = Asker(web, tls=trusting(authority))
    line = browser.log_in(ADA).headers["set-cookie"]
    assert line.startswith(f"__Host-{COOKIE}=")
    assert "secure" in line.lower()
    answer = browser.get("/", {"Cookie": f"__Host-{COOKIE}={browser.cookie}", "Host": "models.example.com"})
    assert (answer.status, "max-age" in answer.headers["strict-transport-security"]) == (200, True)
    assert browser.get("/healthz").status == 200


@pytest.mark.parametrize("host", ["models.example.com:9464", "[::1]:9464"])
def test_services_on_other_ports_are_not_bound_to_tls(web: WebSide, authority: Authority, host: str):
    answer = Asker(web, tls=trusting(authority)).get("/login", {"Host": host})
    assert (answer.status, answer.headers["strict-transport-security"]) == (200, None)


def test_origin_over_tls_is_https(web: WebSide, authority: Authority):
    browser = Asker(web, tls=trusting(authority))
    host, port = web.address
    for scheme, status in (("https", 303), ("http", 403)):
        assert browser.post("/logout", {}, {"Origin": f"{scheme}://{host}:{port}"}).status == status


def test_plain_http_gets_nothing(web: WebSide):
    with socket.create_connection(web.address, timeout=10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not plain.recv(1 << 16).startswith(b"HTTP")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(web: WebSide, authority: Authority, version: ssl.TLSVersion):
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError):
        shaken(web, context)


def test_version_1_2_has_forward_secrecy(web: WebSide, authority: Authority):
    context = trusting(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with shaken(web, context) as connection:
        assert (connection.cipher() or ("",))[0].startswith("ECDHE-")
    context.set_ciphers("AES128-SHA256:ECDHE-ECDSA-AES128-SHA256")
    with pytest.raises(ssl.SSLError):
        shaken(web, context)


def test_new_certificate_is_shown_and_open_connections_stay(
    web: WebSide, authority: Authority, files: tuple[Path, Path]
):
    with shaken(web, trusting(authority)) as before:
        assert ask(before) == 200
        put(authority, "second", files)
        assert shown(web, authority) == "second"
        assert ask(before) == 200


@pytest.mark.parametrize("fault", ["garbage", "empty", "gone", "of another", "unreadable folder"])
def test_certificate_that_cannot_be_used_leaves_the_old_one(
    web: WebSide, authority: Authority, files: tuple[Path, Path], fault: str
):
    certificate, key = files
    {
        "garbage": lambda: key.write_text("-----BEGIN PRIVATE KEY-----\nno\n"),
        "empty": lambda: certificate.write_text(""),
        "gone": lambda: certificate.unlink(),
        "of another": lambda: shutil.copy(authority.folder / "second.key", key),
        "unreadable folder": lambda: (key.unlink(), key.mkdir()),
    }[fault]()
    assert shown(web, authority) == "first"
    if fault == "unreadable folder":
        key.rmdir()
    put(authority, "second", files)
    assert shown(web, authority) == "second"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("gone", "certificate_file: .*tls.crt cannot be read: No such file"),
        ("garbage", "tls.key with .*tls.crt cannot be used"),
        ("of another", "is not the one of this certificate"),
        ("encrypted", "the key is encrypted"),
        ("credential", "key_file: systemd gave this process no credentials"),
    ],
)
def test_daemon_does_not_start_with_unusable_files(
    tmp_path: Path, authority: Authority, files: tuple[Path, Path], fault: str, says: str
):
    certificate, key = files
    place = str(key)
    if fault == "gone":
        certificate.unlink()
    elif fault == "garbage":
        key.write_text("no key")
    elif fault == "of another":
        shutil.copy(authority.folder / "second.key", key)
    elif fault == "credential":
        place = "credential:key"
    else:
        os.system(f"openssl ec -in {authority.folder}/first.key -aes256 -passout pass:x -out {key} 2>/dev/null")
    with pytest.raises(SettingsError, match=says):
        WebSide(config(tmp_path, tls={"certificate_file": certificate, "key_file": place}), FakeLoop(), None)  # type: ignore[arg-type]


def test_client_that_never_finishes_its_handshake_is_closed(
    web: WebSide, authority: Authority, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("reconciler.web.connections._ASK_SECONDS", 0.3)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    for sent in (b"", hello):
        with socket.create_connection(web.address, timeout=10) as slow:
            slow.sendall(sent)
            assert closed(slow)
    assert shown(web, authority) == "first"


def closed(connection: socket.socket) -> bool:
    """Within the socket's timeout."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_crowd_without_handshakes_keeps_nobody_out(web: WebSide, authority: Authority):
    crowd = [socket.create_connection(web.address, timeout=10) for _ in range(MOST + 40)]
    try:
        asker = Asker(web, tls=trusting(authority), source="127.0.0.5")
        assert asker.get("/healthz").status == 200
        gone = [each for each in crowd if select.select([each], [], [], 0)[0]]
        assert len(gone) >= 40, "they made room"
    finally:
        for each in crowd:
            each.close()


def test_failed_handshakes_are_forgotten(web: WebSide, authority: Authority):
    connections = web._public.server_state.connections
    for data in (b"no TLS at all\r\n\r\n", b""):
        with socket.create_connection(web.address, timeout=10) as one:
            one.sendall(data)
    with pytest.raises(ssl.SSLError):
        # It does not trust us, and says so.
        shaken(web, ssl.create_default_context())
    eventually(lambda: not connections)


def test_slow_client_gets_the_whole_answer(web: WebSide, authority: Authority, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Metrics, "text", lambda *_: b"x" * (8 << 20))
    with shaken(web, trusting(authority)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        time.sleep(2.5)
        connection.settimeout(10)
        assert sum(map(len, iter(lambda: connection.recv(1 << 20), b""))) > 8 << 20


@pytest.mark.parametrize("path", [b"", b"/healthz", b"/events"])
def test_end_waits_for_no_client(
    tmp_path: Path, files: tuple[Path, Path], authority: Authority, path: bytes, caplog: pytest.LogCaptureFixture
):
    certificate, key = files
    tls = {"certificate_file": certificate, "key_file": str(key)}
    with serving(config(tmp_path, tls=tls, auth={"tokens": TOKENS})) as side:
        connection = shaken(side, trusting(authority))
        if path:
            connection.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n" % path)
            connection.sendall(b"Authorization: Bearer %b\r\n\r\n" % ADA.encode())
            assert b" 200 " in connection.recv(1 << 16)
    connection.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_prometheus_is_told_to_ask_by_tls(tmp_path: Path, files: tuple[Path, Path], authority: Authority):
    certificate, key = files
    with serving(config(tmp_path, tls={"certificate_file": certificate, "key_file": str(key)})) as side:
        groups = json.loads(Asker(side, tls=trusting(authority)).get("/prometheus/sd").text)
    assert {group["labels"]["__scheme__"] for group in groups} == {"https"}


def test_end_of_a_certificate_is_known(authority: Authority, files: tuple[Path, Path]):
    certificate, key = files
    context = module.load(TlsSettings(certificate_file=certificate, key_file=str(key)))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert 29 < (module.end_of(context, certificate) - time.time()) / 86_400 <= 30
