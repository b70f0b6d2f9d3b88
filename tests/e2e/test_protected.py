"""Services that protect themselves: engines with TLS of their own, and engines that ask for a key."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e

FILE, NAME, KEY = "demo/tiny.yaml", "tiny-default.example.com", "open sesame"
ASKED = {"model": "tiny", "prompt": "a", "max_tokens": 2}


def change(rig: Rig, annotation: str, *args: str, **more: Any) -> dict[str, str | None]:
    """The service with an annotation, more arguments, and more fields of its container."""
    service = yaml.safe_load(rig.read(FILE))
    service["metadata"]["annotations"][annotation] = "true"
    model = service["spec"]["predictor"]["model"]
    model["args"] += args
    model.update(more)
    if "volumeMounts" in more:
        folder = {"name": "certs", "hostPath": {"path": str(rig.folder / "certs")}}
        service["spec"]["predictor"]["volumes"] = [folder]
    return {FILE: yaml.safe_dump(service)}


def make_certificate(folder: Path) -> None:
    folder.mkdir()
    name = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    files = ["-nodes", "-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    made = ["openssl", "req", "-x509", "-days", "2", "-newkey", "rsa:2048", *files, *name]
    subprocess.run(made, check=True, capture_output=True)


def complete_by_tls(rig: Rig) -> int:
    """Asked by a client that trusts only the engine's own certificate. Returns the number of tokens."""
    context = ssl.create_default_context(cafile=str(rig.folder / "certs" / "tls.crt"))
    raw = socket.create_connection(("127.0.0.1", rig.port), timeout=60)
    with contextlib.closing(http.client.HTTPSConnection(NAME, rig.port)) as connection:
        connection.sock = context.wrap_socket(raw, server_hostname=NAME)
        connection.request("POST", "/v1/completions", json.dumps(ASKED), {"content-type": "application/json"})
        return int(json.loads(connection.getresponse().read())["usage"]["completion_tokens"])


def test_rollout_to_tls_passthrough_loses_no_request(rig: Rig):
    make_certificate(rig.folder / "certs")
    mounted = [{"name": "certs", "mountPath": "/certs"}]
    files = ["--ssl-certfile=/certs/tls.crt", "--ssl-keyfile=/certs/tls.key"]
    with rig.load(streams=2, posts=2) as load:
        rig.write(
            change(rig, "serving.knative.openshift.io/enablePassthrough", *files, volumeMounts=mounted),
        )
        rig.converge()
        rig.wait("the old replica to be gone", lambda: len(rig.records()) == 1)
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert complete_by_tls(rig) == 2
    assert rig.serves(), "plain HTTP still reaches it by all three ways"
    (replica,) = rig.service()["replicas"]
    assert replica["tls"]


def status_of(rig: Rig, path: str, key: str = "") -> int:
    request = urllib.request.Request(rig.url + path, json.dumps(ASKED).encode(), {"content-type": "application/json"})
    if key:
        request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_auth_that_git_asks_for_is_enforced_on_every_way_or_refused(make_rig: MakeRig):
    rig = make_rig()
    keys = rig.folder / "keys"
    keys.mkdir(mode=0o700)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "default"}}
    (keys / "keys.yaml").write_text(yaml.safe_dump(secret | {"stringData": {"tiny": KEY}}))
    (keys / "keys.yaml").chmod(0o600)
    settings = yaml.safe_load(rig.config.read_text())
    settings["targets"][0]["secrets"] = {"directory": str(keys)}
    rig.config.write_text(yaml.safe_dump(settings))
    rig.start()
    rig.converge()

    asked = "security.opendatahub.io/enable-auth"
    before = rig.read(FILE)
    rig.write(change(rig, asked))
    rig.wait("the refusal", lambda: rig.service()["problems"])
    assert rig.service()["problems"][0]["code"] == "NoAuth"
    assert rig.serves(), "what ran goes on"

    rig.write({FILE: before})
    reference = {"secretKeyRef": {"name": "keys", "key": "tiny"}}
    rig.write(change(rig, asked, env=[{"name": "VLLM_API_KEY", "valueFrom": reference}]))
    rig.converge()
    for path in ("/v1/completions", "/default/tiny/v1/completions"):
        assert (status_of(rig, path), status_of(rig, path, "wrong"), status_of(rig, path, KEY)) == (401, 401, 200)
    assert status_of(rig, "/default/tiny/invocations") == 403, "vLLM itself would answer this one without a key"
    assert KEY not in rig.words(1000)
