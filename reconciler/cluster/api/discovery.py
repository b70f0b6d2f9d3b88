"""Which kinds an API server serves, where, and in which version. Asked for by group, and remembered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from reconciler.cluster.api.errors import KindUnknown, RequestInfo, Unreached
from reconciler.cluster.api.transport import ApiRequest

# A kind that is not served is asked for again after so long: its CRD may come at any time.
_ABSENT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind in one version, as the server serves it. `plural` is its name in paths and in RBAC."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: frozenset[str]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "") -> str:
        """Where its objects are; without a namespace, those of all."""
        parts = [group_path(self.group, self.version)]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        return "/".join(parts)


def group_path(group: str, version: str = "") -> str:
    path = f"/apis/{quote(group, safe='')}" if group else "/api"
    return f"{path}/{quote(version, safe='')}" if version else path


class Discovery:
    """The kinds of one API server. For any number of threads."""

    def __init__(self, send: Callable[[ApiRequest], Any]) -> None:
        self._send = send
        self._lock = threading.Lock()
        # By group and version, the kinds; by group, its preferred version. With the time of an answer that was "none".
        self._kinds: dict[tuple[str, str], Mapping[str, Resource]] = {}
        self._preferred: dict[str, str] = {}
        self._absent: dict[tuple[str, str, str], float] = {}

    def find(self, group: str, kind: str, version: str = "") -> Resource | None:
        """The kind in a version, or in the preferred one; None: it is not served (yet). Raises ApiError."""
        key = (group, kind, version)
        if (resource := self._known(*key)) is not None:
            return resource
        with self._lock:
            if time.monotonic() < self._absent.get(key, 0.0):
                return None
        resource = self._ask(group, kind, version)
        if resource is None:
            with self._lock:
                self._absent[key] = time.monotonic() + _ABSENT_SECONDS
        return resource

    def forget(self) -> None:
        """Ask again for everything: a CRD has come, changed or gone."""
        with self._lock:
            self._kinds.clear()
            self._preferred.clear()
            self._absent.clear()

    def _known(self, group: str, kind: str, version: str) -> Resource | None:
        with self._lock:
            version = version or self._preferred.get(group, "")
            return self._kinds.get((group, version), {}).get(kind)

    def _ask(self, group: str, kind: str, version: str) -> Resource | None:
        for each in self._versions(group):
            if version not in ("", each):
                continue
            kinds = self._ask_version(group, each)
            with self._lock:
                self._kinds[group, each] = kinds
                if kind in kinds and not version:
                    self._preferred.setdefault(group, each)
            if kind in kinds:
                return kinds[kind]
        return None

    def _versions(self, group: str) -> tuple[str, ...]:
        """The versions of a group, the preferred one first; none, where the server says that it has no such group."""
        if not group:
            return ("v1",)
        found = self._get(group_path(group))
        if found.get("kind") != "APIGroup":
            self._check_absent(group)
            return ()
        preferred = (found.get("preferredVersion") or {}).get("version")
        versions = [each["version"] for each in found.get("versions") or ()]
        return tuple(sorted(versions, key=lambda version: version != preferred))

    def _check_absent(self, group: str) -> None:
        """Any web server says "404 page not found". An API server can also say which groups it has.

        While it starts and does not know them yet, it answers 503 (seen: 1.36).
        """
        found = self._get("/apis")
        if found.get("kind") != "APIGroupList":
            raise Unreached(
                f"{group_path(group)}: not found, but this is no API server; see the address, and any proxy"
            )
        if group in (each.get("name") for each in found.get("groups") or ()):
            raise KindUnknown(f"{group_path(group)}: not found, though listed: its CRD has just come or gone", code=404)

    def _ask_version(self, group: str, version: str) -> dict[str, Resource]:
        found = self._get(group_path(group, version))
        return {
            each["kind"]: Resource(
                group, version, each["kind"], each["name"], bool(each["namespaced"]), frozenset(each.get("verbs") or ())
            )
            for each in found.get("resources") or ()
            # A subresource: deployments/scale.
            if "/" not in each["name"]
        }

    def _get(self, path: str) -> Mapping[str, Any]:
        """{} where the server has no such group or version."""
        try:
            found = self._send(ApiRequest("GET", path, RequestInfo("get", path)))
        except KindUnknown:
            return {}
        return found if isinstance(found, Mapping) else {}
