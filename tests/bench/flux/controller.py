"""Flux's kustomize-controller on a control plane of the tests: built from its Go module, fed tarballs from loopback.

Its module asks for a version of `fluxcd/pkg/kustomize` that is not served: go.mod replaces it by a later one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.api.bodies import crd
from tests.controlplane.api import ApiError, wait_for
from tests.controlplane.control_plane import ControlPlane, NoControlPlane

HERE = Path(__file__).parent
CONTROLLER = "github.com/fluxcd/kustomize-controller"
SOURCES = {"GitRepository": "gitrepositories", "OCIRepository": "ocirepositories", "Bucket": "buckets"}
SECONDS = 300
Files = dict[str, str]


def version() -> str:
    words = (HERE / "go.mod").read_text().split()
    return f"kustomize-controller {words[words.index(CONTROLLER, words.index('require')) + 1]}, one dependency replaced"


def go(*arguments: str) -> str:
    env = {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath -mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        ["go", *arguments], cwd=HERE, env={**os.environ, **env, "GOWORK": "off"}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise NoControlPlane(f"go {arguments[0]} failed: Flux's controller cannot be built")
    return done.stdout.strip()


def find_controller() -> Path:
    """Built at most once for what flux/ says. Raises NoControlPlane."""
    cache = Path(os.environ.get("RECONCILER_CACHE") or Path.home() / ".cache" / "reconciler")
    key = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()[:12]
    program = cache / f"flux-{key}" / "kustomize-controller"
    if not shutil.which("go"):
        raise NoControlPlane("no Go on the PATH: it builds Flux's controller, and says where its CRD is")
    if not program.exists():
        print("    building Flux's kustomize-controller (10 minutes the first time)", file=sys.stderr)
        program.parent.mkdir(parents=True, exist_ok=True)
        part = program.with_suffix(".part")
        go("build", "-ldflags", "-s -w", "-o", str(part), CONTROLLER)
        part.rename(program)
    return program


def install_crds(plane: ControlPlane) -> None:
    """Its own from its module; of the sources it reads no more than an artifact in the status."""
    module = Path(go("list", "-m", "-f", "{{.Dir}}", CONTROLLER))
    file = module / "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml"
    plane.api.apply(yaml.safe_load(file.read_text()))
    for kind, plural in SOURCES.items():
        plane.api.apply(source_crd(kind, plural))
    kinds = [("kustomize", "Kustomization"), *(("source", kind) for kind in SOURCES)]
    for group, kind in kinds:
        wait_for(partial(is_served, plane, f"{group}.toolkit.fluxcd.io/v1", kind), what=f"{kind} is served")


def source_crd(kind: str, plural: str) -> dict[str, Any]:
    found = crd(plural, kind, "source.toolkit.fluxcd.io")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    found["spec"]["versions"][0] |= {"schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}
    return found


def is_served(plane: ControlPlane, api_version: str, kind: str) -> bool:
    try:
        plane.api.list(api_version, kind)
    except (ApiError, KeyError):
        return False
    return True


class Flux:
    """Its controller with one Kustomization, whose source is a folder on loopback."""

    agent = "kustomize-controller"

    def __init__(self, plane: ControlPlane, namespace: str, served: Path, port: int) -> None:
        self.plane, self.served, self.port = plane, served, port
        metadata = {"name": "bench", "namespace": namespace}
        self.source = {"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": metadata}
        self.kustomization = {
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "kind": "Kustomization",
            "metadata": metadata,
            "spec": {
                "interval": "1h",
                "path": "./prod",
                "prune": True,
                "sourceRef": {"kind": "GitRepository", "name": "bench"},
            },
        }
        self.revision = ""
        plane.api.create(self.source)
        plane.api.create(self.kustomization)

    @property
    def pid(self) -> int:
        return self.plane.processes.pid("flux")

    def prepare(self, files: Files) -> Callable[[], object]:
        """What makes it a revision."""
        content = tarball(files)
        digest = hashlib.sha256(content).hexdigest()
        self.revision = f"main@sha1:{hashlib.sha1(content + os.urandom(8)).hexdigest()}"
        name = f"{self.revision[-40:]}.tar.gz"
        (self.served / name).write_bytes(content)
        artifact = {
            "digest": f"sha256:{digest}",
            "lastUpdateTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "path": name,
            "revision": self.revision,
            "size": len(content),
            "url": f"http://127.0.0.1:{self.port}/{name}",
        }
        return lambda: self.plane.api.patch(self.source, {"status": {"artifact": artifact}}, "status")

    def settle(self) -> None:
        def applied() -> bool:
            found = self.plane.api.get(self.kustomization).get("status", {})
            return bool(found.get("lastAppliedRevision") == self.revision)

        wait_for(applied, SECONDS, "Flux has applied the revision")


def tarball(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            found = tarfile.TarInfo(name)
            found.size = len(text.encode())
            tar.addfile(found, io.BytesIO(text.encode()))
    return buffer.getvalue()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def flux(controller: Path, plane: ControlPlane, namespace: str, qps: int, burst: int) -> Iterator[Flux]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        served = folder / "served"
        served.mkdir()
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        settings = {"KUBECONFIG": plane.kubeconfig, "TMPDIR": folder, "RUNTIME_NAMESPACE": namespace}
        environment = [f"{name}={value}" for name, value in settings.items()]
        # Else it would go on with what earlier ones left.
        flags = ["--watch-all-namespaces=false", "--metrics-addr=0", "--health-addr=0", "--log-level=error"]
        limits = [f"--kube-api-qps={qps or 10_000}", f"--kube-api-burst={burst or 10_000}"]
        plane.processes.start("flux", "env", *environment, controller, *flags, *limits)
        stack.callback(plane.processes.stop, "flux")
        yield Flux(plane, namespace, served, server.server_port)
