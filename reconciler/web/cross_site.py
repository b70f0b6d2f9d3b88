"""What another site must not make a browser do here: change something, or be led away from here.

A browser adds a session's cookie, or what a login proxy goes by, to requests that another site's page caused as well.
So whoever is known by one of these must show that the request is their own. One of three suffices:

1. `Sec-Fetch-Site: same-origin`: browsers send it by themselves to https and to loopback, and no page can set it.
2. Without it (plain http, Safari before 16.4): an `Origin` that is ours; with a POST browsers send that always.
3. Without both, so not from a browser: a Bearer token, or `X-Reconciler: 1`. A page of another origin can add no such
   header unless we allow it in a preflight, and we answer none.

A Bearer token alone shows nothing: a proxy may add one to whatever browsers send. A token in the form adds nothing:
it only matters where a request has neither of the first two, and that is refused. `SameSite=Lax` of the cookie is no
part of this: it lets sibling domains through.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.requests import Request

from reconciler.config.web import Web

OUR_HEADER = "x-reconciler"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# No second slash and no backslash: browsers read both as the beginning of another host.
_PART = r"[A-Za-z0-9._~!$&'()*+,;=:@%-]+"
_LOCAL = re.compile(rf"/(?:{_PART}(?:/{_PART})*/?)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?", re.ASCII)
_LONGEST = 2000
_PORTS = {"http": 80, "https": 443}


def is_own(request: Request, web: Web, has_token: bool) -> bool:
    """Does a request that changes something come from our own pages, or from no browser? `has_token`: a Bearer token
    that we know."""
    sites, origins = request.headers.getlist("sec-fetch-site"), request.headers.getlist("origin")
    if sites:
        return sites == ["same-origin"]
    if origins:
        return len(origins) == 1 and _is_our_origin(origins[0], request, web)
    return has_token or request.headers.getlist(OUR_HEADER) == ["1"]


def is_led_here(request: Request) -> bool:
    """Does another site have the browser ask? It may have somebody click who does not see what yet: between the two
    clicks of a double one, a window can be made to show another page."""
    return any(each in ("cross-site", "same-site") for each in request.headers.getlist("sec-fetch-site"))


def local_path(text: str | None) -> str:
    """The path if it leads to this daemon and nowhere else, or that of the Overview."""
    if not text or len(text) > _LONGEST or not _LOCAL.fullmatch(text):
        return "/"
    return text


def _is_our_origin(origin: str, request: Request, web: Web) -> bool:
    scheme = "https" if web.is_https else "http"
    ours = [f"{scheme}://{host}" for host in request.headers.getlist("host")] + ([web.url] if web.url else [])
    found = _place(origin)
    return found is not None and found in map(_place, ours)


def _place(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme]
