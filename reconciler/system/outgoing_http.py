"""What all HTTP that we send goes through: one deadline for an answer, certificates, the proxy of the environment."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection

from reconciler import __version__
from reconciler.errors import Retryable


class AnswerTooLong(Exception):
    """The other side sends more than we take."""


class _Hurried(socket.socket):
    """Its timeout is for all that follows: a byte now and then, or headers without end, do not prolong it."""

    _ends: float | None = None

    def settimeout(self, value: float | None, /) -> None:
        super().settimeout(value)
        self._ends = None if value is None else time.monotonic() + value

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        self._shorten()
        return super().recv_into(*arguments, **named)

    def send(self, *arguments: Any, **named: Any) -> int:
        self._shorten()
        return super().send(*arguments, **named)

    def _shorten(self) -> None:
        if self._ends is None:
            return
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        super().settimeout(left)


class _HurriedTls(_Hurried, ssl.SSLSocket):
    pass


class _HurriedConnection(HTTPConnection):
    """HTTP without TLS."""

    def _new_conn(self) -> socket.socket:
        plain = super()._new_conn()
        timeout = plain.gettimeout()
        hurried = _Hurried(plain.family, plain.type, plain.proto, plain.detach())
        hurried.settimeout(timeout)
        return hurried


class _HurriedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HurriedConnection


def tls_context(ca_file: Path | None, key: str) -> ssl.SSLContext:
    """`key` is what errors call the setting. Takes milliseconds. Raises Retryable."""
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise Retryable(f"{key}: {ca_file} cannot be used: {error}; it must hold PEM certificates") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _HurriedTls
    return context


def connections(base: str, context: ssl.SSLContext, called: str) -> urllib3.PoolManager:
    """For requests to one base address, through the proxy of HTTPS_PROXY (HTTP_PROXY) and NO_PROXY as git goes.

    Plain http to this host goes past it: what is sent so may be for this host alone. Nothing is tried again. Raises
    Retryable, in which the other side is `called` so.
    """
    place = urlsplit(base)
    address = getproxies().get(place.scheme)
    options: dict[str, Any] = {"num_pools": 4, "maxsize": 4, "ssl_context": context, "retries": False}
    if not address or proxy_bypass(place.netloc) or (place.scheme == "http" and _is_this_host(place.hostname or "")):
        found = urllib3.PoolManager(**options)
    else:
        found = _through_proxy(address, options, f"{called}: {place.scheme.upper()}_PROXY")
    found.pool_classes_by_scheme = {"http": _HurriedPool, "https": urllib3.HTTPSConnectionPool}
    return found


def _is_this_host(name: str) -> bool:
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _through_proxy(address: str, options: dict[str, Any], key: str) -> urllib3.ProxyManager:
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}" if proxy.username else None
    try:
        return urllib3.ProxyManager(
            urlunsplit((proxy.scheme, proxy.netloc.rpartition("@")[2], "", "", "")),
            proxy_headers=urllib3.make_headers(proxy_basic_auth=login),
            **options,
        )
    except (urllib3.exceptions.HTTPError, ValueError):
        raise Retryable(f"{key} is no address of a proxy; write http://HOST:PORT") from None


@contextmanager
def answer_to(
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    headers: Mapping[str, str],
    timeout: urllib3.Timeout,
    body: bytes | None = None,
) -> Iterator[urllib3.BaseHTTPResponse]:
    """What is answered; its body is still to be read. Raises what urllib3 raises.

    No redirect is followed: secrets would go along.
    """
    response = pool.request(
        method,
        url,
        body=body,
        headers={"User-Agent": f"vllm-reconciler/{__version__}", "Accept": "application/json", **headers},
        timeout=timeout,
        redirect=False,
        preload_content=False,
        decode_content=False,
    )
    try:
        yield response
    finally:
        response.close()


def read_answer(response: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """So many bytes at most. Raises AnswerTooLong, and what urllib3 raises."""
    data = bytearray()
    while piece := response.read(1 << 16):
        data += piece
        if len(data) > most:
            raise AnswerTooLong(f"its answer has more than {most} bytes")
    return bytes(data)


def decoded_json(raw: bytes) -> Any:
    """None for what is no JSON."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
