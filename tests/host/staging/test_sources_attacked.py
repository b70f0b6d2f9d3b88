"""Servers of models that mean harm: answers and listings without end, and archives that unfold without one."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import socket
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from reconciler.model import Fetch
from tests.host.staging.models import Models
from tests.host.staging.test_https import packed
from tests.support.world import eventually

pytestmark = pytest.mark.slow

CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ZEROS = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
KIND = b"Content-Type: application/x-tar\r\n"
Answers = Callable[[bytes], Iterable[bytes]]


class Hostile:
    """Sends what it is configured to, to each request, as long as the connection is open."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._talk, args=self._listener.accept()[:1], daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            for part in self._answers(connection.recv(1 << 16)):
                connection.sendall(part)


@contextlib.contextmanager
def hostile(answers: Answers) -> Iterator[int]:
    server = Hostile(answers)
    try:
        yield server.port
    finally:
        server.close()


def whole(data: bytes) -> list[bytes]:
    return [b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + KIND + b"Content-Length: %d\r\n\r\n" % len(data), data]


def endless(head: bytes) -> Iterator[bytes]:
    return itertools.chain([head + CHUNKED], itertools.repeat(ZEROS))


def test_redirect_with_a_body_without_end_is_followed_unread(models: Models) -> None:
    def answers(asked: bytes) -> Iterable[bytes]:
        if b"GET /m.tar " in asked:
            return endless(b"HTTP/1.1 302 Found\r\nLocation: /there.tar\r\n")
        return whole(packed({"config.json": b"{}"}, "w"))

    with hostile(answers) as port:
        assert models.fetch(f"http://127.0.0.1:{port}/m.tar").fetch is Fetch.STAGED


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"])
def test_redirect_to_the_metadata_of_a_cloud_is_refused(models: Models, host: str) -> None:
    moved = b"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: http://%s/m.tar\r\n\r\n"
    with hostile(lambda _: [moved % host.encode()]) as port:
        found = models.fetch(f"http://127.0.0.1:{port}/m.tar")
    assert (found.fetch, found.reason and found.reason.code) == (Fetch.REFUSED, "UnsafeRedirect")


@pytest.mark.parametrize(
    "members",
    [
        [("a", tarfile.REGTYPE, {}), ("a/b", tarfile.REGTYPE, {})],
        [("a", tarfile.REGTYPE, {"mtime": 1e300})],
        [("", tarfile.REGTYPE, {})],
    ],
    ids=["file and folder", "time", "no name"],
)
def test_archive_that_cannot_be_is_refused_and_not_tried_again(
    models: Models, members: list[tuple[str, bytes, dict[str, object]]]
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, more in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            for key, value in more.items():
                setattr(member, key, value)
            archive.addfile(member)
    with hostile(lambda _: whole(out.getvalue())) as port:
        found = models.fetch(f"http://127.0.0.1:{port}/m.tar")
    assert (found.fetch, found.reason and found.reason.code) == (Fetch.REFUSED, "InvalidArchive")


def test_file_longer_than_it_was_announced_is_not_read_to_its_end(models: Models) -> None:
    def answers(asked: bytes) -> Iterable[bytes]:
        if b"bytes=0-0" in asked:
            return [
                b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/9000\r\n" + KIND + b"Content-Length: 1\r\n\r\n",
                b"x",
            ]
        return endless(b"HTTP/1.1 200 OK\r\n" + KIND)

    with hostile(answers) as port:
        found = models.fetch(f"http://127.0.0.1:{port}/m.tar")
    assert (found.fetch, found.reason and found.reason.code) == (Fetch.FAILED, "ChecksumMismatch")


def test_listing_without_end_is_refused(models: Models) -> None:
    pages = itertools.count()

    def answers(asked: bytes) -> Iterable[bytes]:
        if b"list-type=2" not in asked:
            return [b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"]
        page = next(pages)
        entry = '<Contents><Key>m/{}</Key><Size>1</Size><ETag>"a"</ETag></Contents>'
        entries = "".join(entry.format(page * 5000 + each) for each in range(5000))
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{page}</NextContinuationToken>"
        return whole(f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode())

    with hostile(answers) as port:
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "S3_USE_HTTPS": "0"}
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        found = models.fetch("s3://bucket/m", endpoint | keys)
    assert (found.fetch, found.reason and found.reason.code) == (Fetch.REFUSED, "TooManyFiles")


def test_archive_that_unfolds_without_end_is_given_up_at_its_first_file(models: Models) -> None:
    member = tarfile.TarInfo("weights.bin")
    member.size = 1 << 50
    with hostile(lambda _: whole(gzip.compress(member.tobuf() + bytes(1 << 20)))) as port:
        found = models.fetch(f"http://127.0.0.1:{port}/m.tar")
    # To find that the rest of it is missing, all of it would have to be unpacked.
    assert found.reason
    assert (found.fetch, found.reason.code) == (Fetch.FAILED, "DiskFull")


def test_archive_with_endless_paths_is_refused(models: Models) -> None:
    with hostile(lambda _: whole(packed({"a/" * 100_000: b""}, "w"))) as port:
        found = models.fetch(f"http://127.0.0.1:{port}/m.tar")
    assert (found.fetch, found.reason and found.reason.code) == (Fetch.REFUSED, "UnsafePath")


def test_fetch_has_a_limit_on_its_memory(models: Models) -> None:
    silent = threading.Event()
    with hostile(lambda _: [b"" for _ in range(1) if silent.wait(20)]) as port:
        mount = models.begin(f"http://127.0.0.1:{port}/m.tar")
        # Once it says how far it is, it has entered its walls.
        eventually(lambda: limit_of(models.pid(mount)) == 8 << 30)
        silent.set()
        models.wait(mount)


def limit_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/limits").read_text().partition("Max data size")[2].split()[0]
    return int(text) if text.isdigit() else 0
