"""Objects of one cluster: read, applied, changed and deleted, as plain JSON.

What comes back is trimmed (`trimming.py`), alike from all calls and from watches, so that two readings can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.discovery import Discovery, Resource
from reconciler.cluster.api.errors import (
    Expired,
    FieldProblem,
    Invalid,
    KindUnknown,
    NotFound,
    RequestInfo,
    TooLarge,
)
from reconciler.cluster.api.transport import APPLY, JSON, MERGE, ApiRequest, Transport
from reconciler.cluster.api.trimming import OUR_MANAGER, trimmed
from reconciler.model.objects import KubeObject, ObjectId

PAGE = 500
# A page of few objects that is still too large holds one that no API server would have taken.
_LEAST_PAGE = 10
_LONGEST_LOG_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of one kind at one moment: a watch goes on from `resource_version`."""

    items: tuple[KubeObject, ...]
    resource_version: str


class Client:
    """One API server. For any number of threads. Every method raises ApiError (`errors.py`)."""

    def __init__(self, connection: ClusterConnection) -> None:
        """Reads the connection's files; sends nothing. Raises SettingsError."""
        self.transport = Transport(connection)
        self.discovery = Discovery(self.transport.send)

    def close(self) -> None:
        self.transport.close()

    def server_version(self) -> str:
        """`v1.36.3`."""
        found = self.transport.send(ApiRequest("GET", "/version", RequestInfo("get", "the server's version")))
        return str(found.get("gitVersion", ""))

    def resource(self, group: str, kind: str, version: str = "") -> Resource | None:
        """Where a kind is served; None: it is not, its CRD is not there (yet)."""
        return self.discovery.find(group, kind, version)

    def get(self, id: ObjectId, version: str = "") -> KubeObject | None:
        """The object, in this version of its kind or in the preferred one; None: it does not exist."""
        resource = self._resource(id.group, id.kind, version, str(id))
        try:
            return trimmed(self._send("get", "GET", resource, id))
        except NotFound:
            return None

    def list(self, resource: Resource, namespace: str = "", labels: str = "", fields: str = "") -> Listing:
        """All objects of a kind, of one namespace or of all, whose labels and fields match the selectors."""
        try:
            return self._list(resource, namespace, labels, fields)
        except Expired:
            # The first page was so long ago that the server forgot it.
            return self._list(resource, namespace, labels, fields)

    def apply(self, body: KubeObject, *, force: bool = False, dry_run: bool = False) -> KubeObject:
        """Server-side apply as the manager `reconciler`; what the object is (or would be) afterwards.

        Without `force`, raises Conflict where others own fields that would change.
        """
        id, resource = self._placed(body)
        query = dict(_OURS)
        if force:
            query["force"] = "true"
        if dry_run:
            query["dryRun"] = "All"
        found = self._send("apply", "PATCH", resource, id, body, query, APPLY)
        self._notice(id, dry_run)
        return trimmed(found)

    def create(self, body: KubeObject) -> KubeObject:
        """Create an object; also a review, which is answered at once and has no name. Raises AlreadyExists."""
        id, resource = self._placed(body, is_named=False)
        return trimmed(self._send("create", "POST", resource, id, body, _OURS, JSON, repeatable=False, in_path=False))

    def update(self, body: KubeObject) -> KubeObject:
        """Replace the object that we saw, by its resourceVersion. Raises WriteConflict where it has changed since."""
        id, resource = self._placed(body)
        # What was trimmed there must not be written back: the server keeps its own.
        metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
        whole = {**body, "metadata": metadata}
        return trimmed(self._send("update", "PUT", resource, id, whole, _OURS, JSON, repeatable=False))

    def patch(self, id: ObjectId, changes: Mapping[str, Any], version: str = "") -> KubeObject:
        """Merge `changes` into an object; null removes a field. Raises NotFound."""
        resource = self._resource(id.group, id.kind, version, str(id))
        return trimmed(self._send("patch", "PATCH", resource, id, changes, _OURS, MERGE))

    def delete(self, id: ObjectId, uid: str) -> KubeObject | None:
        """Delete the object that has this uid; None: it is gone. What finalizers or a grace period keep is returned.

        Raises WriteConflict where an object with another uid has its name.
        """
        resource = self._resource(id.group, id.kind, "", str(id))
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            found = self._send("delete", "DELETE", resource, id, body, {}, JSON)
        except NotFound:
            return None
        self._notice(id)
        return None if found.get("kind") == "Status" else trimmed(found)

    def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        lines: int,
        *,
        previous: bool = False,
        most: int = _LONGEST_LOG_BYTES,
    ) -> str:
        """The last lines of a container, `most` bytes; of the one before its last restart if `previous`."""
        id = ObjectId("", "Pod", namespace, pod)
        path = self._resource("", "Pod", "", str(id)).path(namespace, _segment(pod, str(id))) + "/log"
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(most)}
        if previous:
            query["previous"] = "true"
        text = self.transport.send_raw(ApiRequest("GET", path, RequestInfo("get", f"log of {id}"), query))
        return text.decode("utf-8", "replace")

    def _list(self, resource: Resource, namespace: str, labels: str, fields: str) -> Listing:
        query = {"labelSelector": labels, "fieldSelector": fields}
        query = {key: value for key, value in query.items() if value}
        items: list[KubeObject] = []
        page, token = PAGE, ""
        while True:
            try:
                found = self._page(resource, namespace, {**query, "limit": str(page), **_continue(token)})
            except TooLarge:
                if page <= _LEAST_PAGE:
                    raise
                page //= 4
                continue
            items.extend(_items(found, resource))
            metadata = found.get("metadata") or {}
            if not (token := metadata.get("continue") or ""):
                return Listing(tuple(items), str(metadata.get("resourceVersion", "")))

    def _page(self, resource: Resource, namespace: str, query: Mapping[str, str]) -> Mapping[str, Any]:
        what = f"list of {resource.plural}" + (f" in {namespace}" if namespace else "")
        try:
            found = self.transport.send(ApiRequest("GET", resource.path(namespace), RequestInfo("list", what), query))
        except KindUnknown:
            self.discovery.forget()
            raise
        return found if isinstance(found, Mapping) else {}

    def _resource(self, group: str, kind: str, version: str, what: str) -> Resource:
        if (resource := self.discovery.find(group, kind, version)) is None:
            api_version = "/".join(filter(None, (group, version))) or "v1"
            raise KindUnknown(
                f"{what}: the API server does not serve {kind} of {api_version}; install its CRD", code=404
            )
        return resource

    def _placed(self, body: KubeObject, is_named: bool = True) -> tuple[ObjectId, Resource]:
        metadata = body.get("metadata") or {}
        group, _, version = str(body["apiVersion"]).rpartition("/")
        id = ObjectId(group, str(body["kind"]), metadata.get("namespace") or "", metadata.get("name") or "")
        resource = self._resource(group, id.kind, version, str(id))
        if resource.namespaced and is_named and not id.namespace:
            raise _invalid(str(id), "metadata.namespace", "this kind needs a namespace")
        if is_named and not id.name:
            raise _invalid(str(id), "metadata.name", "this object needs a name")
        return id, resource

    def _send(
        self,
        verb: str,
        method: str,
        resource: Resource,
        id: ObjectId,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        *,
        repeatable: bool = True,
        in_path: bool = True,
    ) -> dict[str, Any]:
        asked = RequestInfo(verb, str(id), body)
        path = resource.path(id.namespace, _segment(id.name, str(id)) if in_path else "")
        request = ApiRequest(method, path, asked, query or {}, body, content_type, repeatable)
        try:
            found = self.transport.send(request)
        except KindUnknown:
            # It was served before.
            self.discovery.forget()
            raise
        return found if isinstance(found, dict) else {}

    def _notice(self, id: ObjectId, dry_run: bool = False) -> None:
        if id.kind == "CustomResourceDefinition" and not dry_run:
            self.discovery.forget()


_OURS = {"fieldManager": OUR_MANAGER, "fieldValidation": "Strict"}


def _segment(name: str, what: str) -> str:
    """A name that is one step of a path, as the API server asks of all names."""
    if name in (".", "..") or "/" in name or "%" in name:
        raise _invalid(what, "metadata.name", f'"{name[:100]}" is no name: it may not be . or .., nor have / or %')
    return name


def _invalid(what: str, path: str, message: str) -> Invalid:
    return Invalid(f"{what}: {path}: {message}", (FieldProblem(path, message),))


def _continue(token: str) -> dict[str, str]:
    return {"continue": token} if token else {}


def _items(found: Mapping[str, Any], resource: Resource) -> Iterator[KubeObject]:
    """The objects of a list, each with the kind and version that lists of built-in kinds leave out."""
    for item in found.get("items") or ():
        yield trimmed({"apiVersion": resource.api_version, "kind": resource.kind, **item})
