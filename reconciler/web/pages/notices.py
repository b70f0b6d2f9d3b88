"""What an action came to, said on the page that the browser goes to next."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request

from reconciler.web.visitors import Visitor

_MOST = 1000
_SECONDS = 600.0
_FIELD = "notice"


@dataclass(frozen=True, slots=True)
class _Notice:
    name: str
    text: str
    until: float


@dataclass
class Notices:
    """For one thread at a time. An address names one by a random id: nobody can make up what it says."""

    _known: OrderedDict[str, _Notice] = field(default_factory=OrderedDict)

    def leave(self, visitor: Visitor, text: str, path: str) -> str:
        """The same path, where this visitor finds the text for some minutes."""
        id_ = secrets.token_urlsafe(9)
        self._known[id_] = _Notice(visitor.name, text, time.monotonic() + _SECONDS)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        place, _, query = path.partition("?")
        kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != _FIELD]
        return f"{place}?{urlencode([*kept, (_FIELD, id_)])}"

    def find(self, request: Request, visitor: Visitor) -> str:
        found = self._known.get(request.query_params.get(_FIELD, ""))
        if found is None or found.name != visitor.name or time.monotonic() > found.until:
            return ""
        return found.text


def notice_for(request: Request, visitor: Visitor) -> str:
    """Empty where there is none."""
    app = request.scope.get("app")
    found = getattr(app.state, "notices", None) if app else None
    return found.find(request, visitor) if isinstance(found, Notices) else ""
