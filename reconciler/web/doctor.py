"""What a doctor finds of the page: who may log in, the certificate, and the files that the config names for both."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

from reconciler.config.secret_files import path_of, read_secret
from reconciler.config.settings import Settings
from reconciler.config.values import is_loopback
from reconciler.config.web import TlsSettings
from reconciler.report.findings import CheckResult, exposed, ok, problem, warning
from reconciler.web.tls import end_of, load

_DAY = 86_400.0
_DAYS_LEFT = 14


def check_tls(settings: Settings) -> Iterator[CheckResult]:
    """The certificate fits its key, is for a server, and does not end soon."""
    tls = settings.web.tls
    if tls is None:
        return
    yield from exposed("tls", "web.tls.key_file", path_of(tls.key_file, "web.tls.key_file"))
    yield _certificate(tls, tls.certificate_file)


def _certificate(tls: TlsSettings, path: Path) -> CheckResult:
    fix = "renew it; the daemon reads the new one by itself"
    try:
        left = end_of(load(tls), path) - time.time()
    except ssl.SSLCertVerificationError as error:
        return problem("tls", f"clients refuse {path}: {error.verify_message}", fix)
    message = f"{path} is valid for {left / _DAY:.0f} days"
    return ok("tls", message) if left >= _DAYS_LEFT * _DAY else warning("tls", message, fix)


def check_login(settings: Settings) -> Iterator[CheckResult]:
    """Secrets of logins are there and closed to others, and somebody may act."""
    auth = settings.web.auth
    if not auth.is_used:
        where = "on this host" if is_loopback(settings.web.listen) else "on this host, and nobody elsewhere"
        yield ok("login", f"web.auth is not set: whoever is {where} sees the pages, and nobody acts on them")
        return
    if auth.oidc:
        key = "web.auth.oidc.client_secret_file"
        for path in auth.oidc.files:
            yield from exposed("login", key, path)
        read_secret(auth.oidc.client_secret_file, key)
    if auth.proxy and any(ip_network(each).is_loopback for each in auth.proxy.addresses):
        header = auth.proxy.user_header
        message = f"web.auth.proxy.addresses: every user of this host may send {header} from a loopback address"
        yield warning(
            "login", message, "let nobody else use this host, or the proxy connect from an address of its own"
        )
    operators = [bool(one.operators) for one in (auth.oidc, auth.proxy) if one]
    if not any(operators) and all(token.role != "operator" for token in auth.tokens):
        yield warning("login", "nobody may act on the pages", "give somebody the role operator, or leave it so")
    ways = [(f"{len(auth.tokens)} tokens", auth.tokens), ("OpenID Connect", auth.oidc), ("a proxy", auth.proxy)]
    yield ok("login", f"by {', '.join(name for name, way in ways if way)}")


def check_peers(settings: Settings) -> Iterator[CheckResult]:
    """Their tokens and certificates can be read."""
    for index, peer in enumerate(settings.web.peers):
        key = f"web.peers[{index}]"
        for path in peer.files:
            yield from exposed("peers", f"{key}.token_file", path)
        if peer.token_file:
            read_secret(peer.token_file, f"{key}.token_file")
        if peer.ca_file:
            peer.ca_file.read_bytes()
    if settings.web.peers:
        yield ok("peers", f"{len(settings.web.peers)} other daemons are configured, with readable files")
