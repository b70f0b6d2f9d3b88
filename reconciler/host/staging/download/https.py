"""A model behind one http(s) address: most often an archive. What may be fetched so is what kserve-storage takes."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import mimetypes
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3.exceptions

from reconciler.host.staging.download.archive import TAR, ZIP
from reconciler.host.staging.download.checksums import Checksum, Nothing, WholeFile
from reconciler.host.staging.download.failures import DownloadFailed, DownloadRefused, failure_of_status
from reconciler.host.staging.download.transfer import RemoteFile
from reconciler.model import ReasonCode
from reconciler.model.model_sources import shown

_CHUNK = 1 << 18
_TIMEOUT = (15.0, 60.0)
_EXPECTED = {
    ZIP: ("application/x-zip-compressed", "application/zip", "application/zip-compressed"),
    TAR: ("application/x-tar", "application/x-gtar", "application/x-gzip", "application/gzip"),
}
_OTHER = ("application/octet-stream",)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_DIGEST = re.compile(r"(?i)\bsha-(256|512)=:?([A-Za-z0-9+/=]+):?")


class _Session(requests.Session):
    """What a Secret gives for one host goes to that host alone, wherever it redirects to."""

    def __init__(self, private: frozenset[str]) -> None:
        super().__init__()
        self._private = private

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target:
            # It would be read whole, and unpacked, into memory; and it may have no end.
            resp.raw.close()
            resp._content = b""
            _check_redirect(resp.url, urljoin(resp.url, target))
        return target

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        super().rebuild_auth(prepared_request, response)
        if self.should_strip_auth(response.request.url or "", prepared_request.url or ""):
            for name in self._private:
                prepared_request.headers.pop(name, None)


class HttpSource:
    """One file. Whether the server can begin anywhere but at the beginning is asked by the first byte."""

    def __init__(self, uri: str) -> None:
        self._uri, self._shown = uri, shown(uri)
        private = _headers(urlsplit(uri).hostname or "")
        self._session = _Session(frozenset(private))
        self._session.headers.update(private)
        # A body that a proxy packs for the way has another length than the one it had.
        self._session.headers["Accept-Encoding"] = "identity"
        self._offered: Mapping[str, str] = {}

    def files(self) -> tuple[RemoteFile, ...]:
        # Addresses may be signed for GET alone, so nothing else is asked.
        with self._get("bytes=0-0") as answer:
            self._offered = answer.headers
            whole = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            has_ranges = answer.status_code == 206 and whole is not None
            length = whole[2] if whole else answer.headers.get("Content-Length")
            self._check_type(answer.headers.get("Content-Type", ""))
        size = int(length) if length and length.isdigit() else None
        return (RemoteFile(self._name(), self._shown, size, _tag(answer.headers), has_ranges),)

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        with self._get(f"bytes={start}-" if start else None) as answer:
            if _tag(answer.headers) != file.tag or (start and answer.status_code != 206):
                raise DownloadFailed(
                    ReasonCode.SOURCE_CHANGED, f"{file.name}: it was replaced meanwhile; it is downloaded again"
                )
            with _explained(self._shown):
                while data := answer.raw.read(_CHUNK):
                    yield data

    def checksum(self, file: RemoteFile) -> Checksum:
        found = _DIGEST.search(self._offered.get("Repr-Digest", "") or self._offered.get("Digest", ""))
        if found is None:
            return Nothing()
        try:
            return WholeFile(f"sha{found[1]}", base64.b64decode(found[2], validate=True))
        except binascii.Error:
            return Nothing()

    @contextmanager
    def _get(self, bytes_wanted: str | None) -> Iterator[requests.Response]:
        headers = {"Range": bytes_wanted} if bytes_wanted else {}
        with _explained(self._shown):
            answer = self._session.get(self._uri, headers=headers, stream=True, timeout=_TIMEOUT)
        with answer:
            if answer.status_code not in (200, 206):
                raise failure_of_status(answer.status_code, self._shown)
            yield answer

    def _name(self) -> str:
        name = unquote(urlsplit(self._uri).path).rsplit("/", 1)[-1]
        if not name:
            raise DownloadRefused(ReasonCode.MODEL_NOT_FOUND, f"{self._shown}: names no file")
        return name

    def _check_type(self, given: str) -> None:
        """An error page that arrives as a success must not pass for a model."""
        parts = urlsplit(self._uri)
        kind = mimetypes.guess_type(parts.path)[0] or (mimetypes.guess_type(parts.query)[0] if parts.query else None)
        expected = _EXPECTED.get(kind or "", _OTHER)
        if not given.startswith(expected):
            text = f"{self._shown}: responded with Content-Type {given or 'nothing'}, not with {' or '.join(expected)}"
            raise DownloadRefused(ReasonCode.UNEXPECTED_CONTENT_TYPE, text)


def _check_redirect(from_: str, to: str) -> None:
    """A server elsewhere must not have us ask what answers this host alone, such as a cloud's metadata.

    Raises Refused.
    """
    if reached := _inner(to) - _inner(from_):
        text = f"{shown(from_)}: redirects to {urlsplit(to).hostname}, which is {reached.pop()} of this host"
        raise DownloadRefused(ReasonCode.UNSAFE_REDIRECT, text)


def _inner(url: str) -> set[str]:
    """What of this host alone an address leads to, as far as its name tells now."""
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return set()
    plain = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    addresses = [getattr(each, "ipv4_mapped", None) or each for each in plain]
    loopback = {"the loopback address" for each in addresses if each.is_loopback or each.is_unspecified}
    return loopback | {"a link-local address" for each in addresses if each.is_link_local}


def _headers(host: str) -> dict[str, str]:
    """KServe gives the headers for a host as JSON in a variable with the host's name."""
    try:
        found = json.loads(os.environ.get(f"{host}-headers", "{}"))
    except ValueError:
        raise DownloadRefused(
            ReasonCode.INVALID_STORAGE_SETTINGS, f"{host}: the headers in its Secret are not JSON"
        ) from None
    return {str(name): str(value) for name, value in found.items()}


def _tag(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise DownloadFailed(ReasonCode.SOURCE_UNREACHABLE, f"{what}: {_cause(error)}") from None
    except (ConnectionError, TimeoutError) as error:
        raise DownloadFailed(ReasonCode.SOURCE_UNREACHABLE, f"{what}: {error}") from None


def _cause(error: BaseException) -> str:
    """Without the address: its query may be a signature."""
    text = str(getattr(error.args[0], "reason", error.args[0])) if error.args else type(error).__name__
    return text.rpartition(">: ")[2] or text
