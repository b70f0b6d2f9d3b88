"""A small client for tests: objects are plain JSON, and nothing is retried or cached but discovery."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import urllib3

Object = dict[str, Any]
T = TypeVar("T")
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server's answer, when it is not 2xx. `reason` is such as NotFound, Conflict, Forbidden, Invalid."""

    def __init__(self, code: int, body: bytes) -> None:
        try:
            status = json.loads(body)
        except ValueError:
            status = {"message": body.decode(errors="replace")}
        self.code = code
        self.reason: str = status.get("reason") or ""
        self.message: str = status.get("message") or ""
        self.details: Object = status.get("details") or {}
        super().__init__(f"{code} {self.reason}: {self.message}")


class Api:
    """One user's connection, by the current context of a kubeconfig.

    Where a method takes an `obj`, only its apiVersion, kind and metadata.name and .namespace are needed to find it.
    """

    def __init__(self, kubeconfig: Path, user_agent: str = "tests") -> None:
        # It takes a second to import, which every run of any test would pay.
        import kubernetes

        found = kubernetes.client.Configuration()
        load: Any = kubernetes.config.load_kube_config
        load(str(kubeconfig), client_configuration=found)
        files = {"ca_certs": found.ssl_ca_cert, "cert_file": found.cert_file, "key_file": found.key_file}
        given: dict[str, Any] = {name: file for name, file in files.items() if file}
        self.server = found.host
        self._pool = urllib3.PoolManager(**given, maxsize=16, retries=False)
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        token = found.get_api_key_with_prefix("BearerToken")
        if token:
            self._headers["Authorization"] = token
        self._discovered: dict[str, dict[str, Object]] = {}

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str | int
    ) -> Any:
        """Any request: `path` with its leading slash; what comes back as JSON, or as text. Raises ApiError."""
        response = self._pool.request(
            method,
            f"{self.server}{path}" + (f"?{urlencode(query)}" if query else ""),
            body=None if body is None else json.dumps(body).encode(),
            headers={**self._headers, "Content-Type": content_type},
            timeout=60,
        )
        if response.status >= 300:
            raise ApiError(response.status, response.data)
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return json.loads(response.data) if is_json else response.data.decode()

    def path(self, obj: Mapping[str, Any]) -> str:
        """Where this object is."""
        metadata = obj["metadata"]
        return f"{self.collection(obj['apiVersion'], obj['kind'], metadata.get('namespace'))}/{quote(metadata['name'])}"

    def collection(self, api_version: str, kind: str, namespace: str | None = None) -> str:
        """Where the objects of a kind are; without a namespace, those of all namespaces."""
        resource = self._resource(api_version, kind)
        place = f"/namespaces/{namespace}" if namespace and resource["namespaced"] else ""
        return f"{_group_path(api_version)}{place}/{resource['name']}"

    def _resource(self, api_version: str, kind: str) -> Object:
        if kind not in self._discovered.get(api_version, {}):
            found = self.request("GET", _group_path(api_version))["resources"]
            self._discovered[api_version] = {each["kind"]: each for each in found if "/" not in each["name"]}
        return self._discovered[api_version][kind]

    def create(self, obj: Object) -> Object:
        """What was made; unknown fields are refused, as kubectl has them refused."""
        metadata = obj["metadata"]
        path = self.collection(obj["apiVersion"], obj["kind"], metadata.get("namespace"))
        made: Object = self.request("POST", path, obj, fieldValidation="Strict")
        return made

    def apply(self, obj: Object, manager: str = "tests", force: bool = False) -> Object:
        """Server-side apply."""
        query = {"fieldManager": manager, "force": str(force).lower()}
        applied: Object = self.request("PATCH", self.path(obj), obj, APPLY_PATCH, **query)
        return applied

    def patch(self, obj: Mapping[str, Any], change: Object, subresource: str = "", manager: str = "tests") -> Object:
        """A JSON merge patch, of the status with `subresource="status"`."""
        path = self.path(obj) + (f"/{subresource}" if subresource else "")
        patched: Object = self.request("PATCH", path, change, MERGE_PATCH, fieldManager=manager)
        return patched

    def get(self, obj: Mapping[str, Any]) -> Object:
        """As it is now. Raises ApiError 404."""
        found: Object = self.request("GET", self.path(obj))
        return found

    def find(self, obj: Mapping[str, Any]) -> Object | None:
        """As it is now, or None where there is none."""
        try:
            return self.get(obj)
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def list(self, api_version: str, kind: str, namespace: str | None = None, labels: str = "") -> list[Object]:
        """Objects of a kind, with apiVersion and kind filled in; `labels` is a selector."""
        query = {"labelSelector": labels} if labels else {}
        found = self.request("GET", self.collection(api_version, kind, namespace), **query)["items"]
        return [{"apiVersion": api_version, "kind": kind, **each} for each in found]

    def delete(self, obj: Mapping[str, Any], missing_ok: bool = True, **options: Any) -> None:
        """Ask for its deletion; `options` are DeleteOptions, such as gracePeriodSeconds=0."""
        try:
            self.request("DELETE", self.path(obj), options or None)
        except ApiError as error:
            if error.code != 404 or not missing_ok:
                raise

    def watch(
        self, api_version: str, kind: str, namespace: str | None = None, *, labels: str = "", seconds: int = 60
    ) -> Iterator[Object]:
        """Events `{"type": …, "object": …}`: first ADDED for each that exists. Ends after so many seconds."""
        path = self.collection(api_version, kind, namespace)
        query = urlencode({"watch": "1", "timeoutSeconds": seconds, "labelSelector": labels})
        response = self._pool.request(
            "GET", f"{self.server}{path}?{query}", headers=self._headers, timeout=seconds + 10, preload_content=False
        )
        if response.status >= 300:
            raise ApiError(response.status, response.data)
        rest = b""
        for chunk in response.stream(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(json.loads, lines)


def _group_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def wait_for(ask: Callable[[], T | None], seconds: float = 120, what: str = "") -> T:
    """What `ask` answers once it is true; an AssertionError of its own counts as not yet. Raises AssertionError."""
    deadline = time.monotonic() + seconds
    while True:
        failed: AssertionError | None = None
        try:
            answer = ask()
        except AssertionError as error:
            answer, failed = None, error
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or ask}; last: {failed or answer}") from failed
        time.sleep(0.05)
