"""What the API server was asked, by its own audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

READS = frozenset({"get", "list", "watch"})
_QUESTIONS = frozenset({"authentication.k8s.io", "authorization.k8s.io"})


@dataclass(frozen=True)
class Request:
    """One request. `verb` is the API's: get, list, watch, create, update, patch, delete, deletecollection."""

    verb: str
    user: str
    """Who it counts as; with impersonation, whom it acted for."""
    user_agent: str
    resource: str
    """Plural, with a subresource as in `pods/log`; empty for other URLs."""
    group: str
    namespace: str
    name: str
    code: int
    uri: str

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.uri).query, keep_blank_values=True).items()}

    @property
    def dry_run(self) -> bool:
        return "dryRun" in self.query

    @property
    def writes(self) -> bool:
        """Whether it may have changed something. A question about permissions is a create, but has not."""
        return bool(self.resource) and self.verb not in READS and not self.dry_run and self.group not in _QUESTIONS


class AuditLog:
    """One file, read from where it was read last."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0
        self._seen: set[str] = set()

    def read(self) -> Iterator[Request]:
        """Requests since the last call, in order of their completion; a watch counts once it has begun."""
        with open(self._file, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                event = json.loads(line)
                # A watch is written when it starts and when it ends.
                if event["auditID"] not in self._seen:
                    self._seen.add(event["auditID"])
                    yield _request(event)


def _request(event: dict[str, Any]) -> Request:
    resource = event.get("objectRef") or {}
    parts = [resource[each] for each in ("resource", "subresource") if resource.get(each)]
    return Request(
        verb=event["verb"],
        user=(event.get("impersonatedUser") or event["user"]).get("username", ""),
        user_agent=event.get("userAgent", ""),
        resource="/".join(parts),
        group=resource.get("apiGroup", ""),
        namespace=resource.get("namespace", ""),
        name=resource.get("name", ""),
        code=(event.get("responseStatus") or {}).get("code", 0),
        uri=event["requestURI"],
    )
