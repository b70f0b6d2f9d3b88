"""KServe's admission webhooks: what they fill in, and what they refuse in the words that were recorded.

They are reached by URL on loopback, with a certificate of the tests' own CA, and mandatory as KServe's are.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reconciler.kserve.api_server import with_defaults
from reconciler.kserve.cluster_objects import ClusterObjects
from reconciler.kserve.config import from_config_map
from reconciler.kserve.predictor import implementations
from reconciler.kserve.resolve import resolve
from reconciler.kserve.validation import refusal
from reconciler.model import ReasonCode
from tests.controlplane.api import Api, ApiError, wait_for
from tests.controlplane.certificates import Authority
from tests.controlplane.kserve import children

Document = dict[str, Any]
_CONFIG = from_config_map(None, "Standard")
_SUFFIX = "kserve-webhook-server"
_SERVICE = "serving.kserve.io/inferenceservice"
ReadObjects = Callable[[str], ClusterObjects]


class Denied(Exception):
    """The webhook's verdict, with its HTTP status code."""

    def __init__(self, message: str, code: int = 403) -> None:
        super().__init__(message)
        self.code = code


class Webhooks:
    """A server from `start` to `stop`, which the API server asks meanwhile."""

    def __init__(self, api: Api, authority: Authority, read_objects: ReadObjects) -> None:
        self._api = api
        self._authority = authority
        self._read_objects = read_objects

    def start(self) -> None:
        certificate, key = self._authority.server("webhooks")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.answer))
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        for each in self._configurations():
            self._api.apply(each)
        wait_for(lambda: all(self._asked()), what="the API server asks KServe's webhooks")

    def stop(self) -> None:
        for each in self._configurations():
            self._api.delete(each)
        wait_for(lambda: not any(self._asked()), what="the API server asks no webhooks any more")
        self._server.shutdown()
        self._server.server_close()

    def _asked(self) -> list[bool]:
        """Whether both configurations are in use: what one webhook of each refuses is refused."""
        return [self._refuses("m", {}), self._refuses("3m", {"model": {"modelFormat": {"name": "vLLM"}}})]

    def _refuses(self, name: str, predictor: Document) -> bool:
        version, kind = "serving.kserve.io/v1beta1", "InferenceService"
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": {"predictor": predictor}}
        try:
            self._api.request("POST", self._api.collection(version, kind, "default"), body, dryRun="All")
        except ApiError as error:
            return _SUFFIX in error.message
        return False

    # ---------------------------------------------------------------------------------------------- verdicts

    def answer(self, path: str, request: Mapping[str, Any]) -> Document:
        """The `response` of an AdmissionReview."""
        obj = request["object"]
        obj["metadata"].setdefault("namespace", request.get("namespace", ""))
        try:
            patch = _VERDICTS[path](self, obj)
        except Denied as denied:
            reason = "Forbidden" if denied.code == 403 else "InternalError"
            status = {"code": denied.code, "message": str(denied), "reason": reason}
            return {"uid": request["uid"], "allowed": False, "status": status}
        answer: Document = {"uid": request["uid"], "allowed": True}
        if patch:
            encoded = base64.b64encode(json.dumps(patch).encode()).decode()
            answer |= {"patchType": "JSONPatch", "patch": encoded}
        return answer

    def _default_service(self, service: Document) -> list[Document]:
        if not implementations(service["spec"]["predictor"]):
            raise Denied("panic: runtime error: index out of range [0] with length 0 [recovered]", 500)
        made = _with_zero_values(with_defaults(service, _CONFIG))
        annotations = made["metadata"].get("annotations") or {}
        return [
            {"op": "add", "path": "/metadata/annotations", "value": annotations},
            {"op": "replace", "path": "/spec", "value": made["spec"]},
        ]

    def _check_service(self, service: Document) -> None:
        if refused := refusal(service, _CONFIG):
            raise Denied(str(refused))

    def _check_runtime(self, runtime: Document) -> None:
        namespace = runtime["metadata"]["namespace"]
        others = [
            each
            for each in self._api.list(runtime["apiVersion"], runtime["kind"], namespace or None)
            if each["metadata"]["name"] != runtime["metadata"]["name"]
        ]
        for issue in ClusterObjects.build([*others, runtime], default_mode="Standard").issues:
            if issue.index == len(others):
                raise Denied(issue.message)

    def _complete_pod(self, pod: Document) -> list[Document]:
        """With the model's storage, unless what that needs is missing."""
        name, namespace = pod["metadata"]["labels"][_SERVICE], pod["metadata"]["namespace"]
        place = {"name": name, "namespace": namespace}
        service = self._api.find(
            {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": place}
        )
        if service is None:
            return []
        found = resolve(service, self._read_objects(namespace), may_use_secrets=False)
        for issue in (*found.errors, *found.cluster_errors):
            if issue.reason is ReasonCode.FAILED_CREATE:
                raise Denied(issue.message.removeprefix("the pod is refused: "))
        return [{"op": "replace", "path": "/spec", "value": children.with_storage(pod["spec"], found.pod)}]

    # ---------------------------------------------------------------------------------------------- registration

    def _configurations(self) -> list[Document]:
        services = _rule("serving.kserve.io", "v1beta1", "inferenceservices")
        runtimes = [
            _rule("serving.kserve.io", "v1alpha1", kind) for kind in ("servingruntimes", "clusterservingruntimes")
        ]
        pods = _rule("", "v1", "pods", operations=["CREATE"])
        of_services = {"objectSelector": {"matchExpressions": [{"key": _SERVICE, "operator": "Exists"}]}}
        return [
            _configuration(
                "Mutating",
                self._webhook("/default-service", f"inferenceservice.{_SUFFIX}.defaulter", services),
                {**self._webhook("/complete-pod", f"inferenceservice.{_SUFFIX}.pod-mutator", pods), **of_services},
            ),
            _configuration(
                "Validating",
                self._webhook("/check-service", f"inferenceservice.{_SUFFIX}.validator", services),
                self._webhook("/check-runtime", f"servingruntime.{_SUFFIX}.validator", runtimes[0]),
                self._webhook("/check-runtime", f"clusterservingruntime.{_SUFFIX}.validator", runtimes[1]),
            ),
        ]

    def _webhook(self, path: str, name: str, rule: Document) -> Document:
        authority = base64.b64encode(self._authority.certificate.read_bytes()).decode()
        url = f"https://127.0.0.1:{self._server.server_address[1]}{path}"
        return {
            "name": name,
            "clientConfig": {"url": url, "caBundle": authority},
            "rules": [rule],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": 10,
        }


_VERDICTS: dict[str, Callable[[Webhooks, Document], list[Document] | None]] = {
    "/default-service": Webhooks._default_service,
    "/check-service": Webhooks._check_service,
    "/check-runtime": Webhooks._check_runtime,
    "/complete-pod": Webhooks._complete_pod,
}


def _rule(group: str, version: str, resources: str, operations: list[str] | None = None) -> Document:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "resources": [resources],
        "operations": operations or ["CREATE", "UPDATE"],
    }


def _configuration(kind: str, *webhooks: Document) -> Document:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": "inferenceservice.serving.kserve.io"},
        "webhooks": list(webhooks),
    }


def _with_zero_values(service: Document) -> Document:
    """KServe's types are Go's: some empty values are written out."""
    predictor = dict(service["spec"]["predictor"])
    if "model" in predictor:
        predictor["model"] = {"modelFormat": {"name": ""}, "name": "", "resources": {}, **predictor["model"]}
    for key in ("containers", "initContainers"):
        if predictor.get(key):
            predictor[key] = [{"resources": {}, **each} for each in predictor[key]]
    return {**service, "spec": {**service["spec"], "predictor": predictor}}


def _handler(answer: Callable[[str, Mapping[str, Any]], Document]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            review = {**review, "response": answer(self.path.split("?")[0], review["request"])}
            body = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return Handler
