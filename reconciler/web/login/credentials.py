"""By what we know who asks: a token, a proxy that we trust, a session, or that only this machine can ask."""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from reconciler.config.settings import Settings
from reconciler.config.web import AuthSettings, TokenSettings, TrustedProxySettings
from reconciler.errors import Retryable
from reconciler.report.redact import one_line
from reconciler.web.bounded_log import BoundedLog
from reconciler.web.login.attempts import Attempts
from reconciler.web.login.cookies import SessionCookie
from reconciler.web.login.sessions import Grant, Sessions, hash_of
from reconciler.web.visitors import NOBODY_IN_PARTICULAR, LoginMethod, Role, Visitor, address_of, role_of

log = structlog.get_logger()

LONGEST_NAME = 256
# nginx speaks HTTP/1.0 to us unless told otherwise.
_PASSED_ON = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
_SET_LOGIN = "set web.auth.tokens, web.auth.oidc or web.auth.proxy in the daemon's config (deploy/CONFIGURATION.md)"


class AccessRefused(Exception):
    """Somebody may not see the pages; `text` says what to do."""

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(text)
        self.status, self.title, self.text = status, title, text


class NotLoggedIn(AccessRefused):
    """We do not know who it is."""

    def __init__(self, text: str = "this page needs a login") -> None:
        super().__init__(401, "Log in", text)


class TooManyAttempts(AccessRefused):
    """Too many wrong tokens came from there."""

    def __init__(self, seconds: float) -> None:
        self.seconds = int(seconds) + 1
        text = f"too many wrong tokens came from your address; try again in {self.seconds} s"
        super().__init__(429, "Too many attempts", text)


class StaticTokens:
    """The tokens of `web.auth.tokens`. For one thread."""

    def __init__(self, known: tuple[TokenSettings, ...]) -> None:
        self._known = known
        self._attempts = Attempts()
        self._log = BoundedLog("login_lines_left_out")

    def find_for(self, address: str, token: str) -> TokenSettings | None:
        """Whose it is that was sent from there. Raises TooManyAttempts."""
        if seconds := self._attempts.wait_seconds(address):
            self._refused(address, "too many wrong tokens")
            raise TooManyAttempts(seconds)
        found = self.find(token)
        if found is None:
            self._attempts.note_wrong(address)
            self._refused(address, "wrong token")
        return found

    def find(self, token: str) -> TokenSettings | None:
        """Whose it is. It is compared with all, whichever it is."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        matches = [each for each in self._known if hmac.compare_digest(digest, each.sha256)]
        return matches[0] if matches else None

    def _refused(self, address: str, why: str) -> None:
        if self._log.may_write(reason=why):
            log.warning("login", client=address, result="refused", reason=why)


def grant_of(token: TokenSettings) -> Grant:
    """What its session may. Another token of the same name, or another role, ends the sessions of this one."""
    return Grant(token.name, Role(token.role), f"token {token.name} {token.role} {token.sha256}")


def grant_sources(auth: AuthSettings) -> list[str]:
    """Sources of all grants that the config makes."""
    oidc = [oidc_source(auth)] if auth.oidc else []
    return [*(grant_of(token).source for token in auth.tokens), *oidc]


def oidc_source(auth: AuthSettings) -> str:
    """Source of the grants of an identity provider: other groups, or another provider, end its sessions."""
    text = auth.oidc.model_dump_json() if auth.oidc else ""
    return f"oidc {hashlib.sha256(text.encode()).hexdigest()}"


class Credentials:
    """Finds out who asks."""

    def __init__(self, settings: Settings, sessions: Sessions, tokens: StaticTokens) -> None:
        self._auth = settings.web.auth
        self._sessions, self._tokens = sessions, tokens
        self._cookie = SessionCookie(settings.web)
        self._log = BoundedLog("sessions_failed_lines_left_out")

    async def identify(self, request: Request) -> Visitor:
        """Raises AccessRefused."""
        if not self._auth.is_used:
            return _of_loopback(request)
        proxy = self._trusted_proxy(request)
        name = _name_by(proxy, request) if proxy else ""
        found = self._by_token(request, is_named=bool(name))
        if found is None and proxy and name:
            found = _by_proxy(proxy, name, request)
        found = found or await self._by_session(request)
        if found is None:
            raise NotLoggedIn
        return found

    def _by_token(self, request: Request, is_named: bool) -> Visitor | None:
        """`is_named`: a proxy that we trust says who it is; what else it passes on may be a token of its own login."""
        token = _bearer(request)
        if token is None:
            return None
        known = self._tokens.find(token) if is_named else self._tokens.find_for(address_of(request), token)
        if known is None and not is_named:
            raise NotLoggedIn("this token is not one of web.auth.tokens")
        return Visitor(known.name, Role(known.role), LoginMethod.BEARER) if known else None

    def _trusted_proxy(self, request: Request) -> TrustedProxySettings | None:
        """By who really is at the other end of the connection."""
        proxy, peer = self._auth.proxy, _ip(address_of(request))
        if proxy is None or peer is None or not any(peer in ip_network(each) for each in proxy.addresses):
            return None
        return proxy

    async def _by_session(self, request: Request) -> Visitor | None:
        id_ = self._cookie.read(request)
        if id_ is None:
            return None
        try:
            found = await run_in_threadpool(self._sessions.find, id_)
        except Retryable as error:
            if self._log.may_write():
                log.error("sessions_failed", error=str(error), instead="a token as `Authorization: Bearer` still works")
            text = "the daemon cannot read its sessions; its log says why"
            raise AccessRefused(503, "Sessions cannot be read", text) from None
        return Visitor(found.name, found.role, LoginMethod.SESSION, found.ends, hash_of(id_)) if found else None


def _name_by(proxy: TrustedProxySettings, request: Request) -> str:
    """A proxy that names nobody, or two people, has logged nobody in."""
    name = _only(request, proxy.user_header)
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ""


def _by_proxy(proxy: TrustedProxySettings, name: str, request: Request) -> Visitor:
    """Raises AccessRefused."""
    groups = [group.strip() for group in _only(request, proxy.groups_header).split(",")]
    role = role_of([group for group in groups if group], proxy.viewers, proxy.operators)
    if role is None:
        raise no_role(name, "web.auth.proxy")
    return Visitor(name, role, LoginMethod.PROXY)


def no_role(name: str, key: str) -> AccessRefused:
    """We know who it is, and they may not see this."""
    text = f"you are {one_line(name)}, and in none of the groups of {key}.viewers and {key}.operators; ask who runs it"
    return AccessRefused(403, "Not allowed", text)


def _of_loopback(request: Request) -> Visitor:
    """Without a login only this machine may ask, and nobody for others."""
    here = request.scope.get("server") or ("", 0)
    if not (_is_loopback(address_of(request)) and _is_loopback(str(here[0]))):
        text = f"without a login the pages are shown on a loopback address alone; {_SET_LOGIN}, or use an SSH tunnel"
        raise AccessRefused(403, "No login is configured", text)
    if request.scope.get("http_version") == "1.0" or any(name in request.headers for name in _PASSED_ON):
        text = f"a proxy passed this request on, so that others may see it, and no login is configured; {_SET_LOGIN}"
        raise AccessRefused(403, "No login is configured", text)
    return NOBODY_IN_PARTICULAR


def _bearer(request: Request) -> str | None:
    """The token of the only Authorization header that has one; two are none that we know."""
    lines = request.headers.getlist("authorization")
    found = [rest.strip() for scheme, _, rest in (line.partition(" ") for line in lines) if scheme.lower() == "bearer"]
    if not found:
        return None
    return found[0] if len(lines) == 1 else ""


def _only(request: Request, name: str) -> str:
    """A header that is there once, as text."""
    found = request.headers.getlist(name)
    return found[0].encode("latin-1").decode("utf-8", "replace").strip(" ") if len(found) == 1 else ""


def _is_loopback(text: str) -> bool:
    address = _ip(text)
    return address is not None and address.is_loopback


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    """One of IPv4 also where a socket for both shows it as one of IPv6."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
