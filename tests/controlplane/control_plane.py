"""A real Kubernetes control plane on loopback: etcd, API server, controllers, scheduler, and nodes played by kwok.

There are no containers. Nodes are objects, and kwok reports that their pods run; `kubelet.py` says which pods fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml

from tests.controlplane import kubelet, nodes
from tests.controlplane.api import Api, ApiError, wait_for
from tests.controlplane.audit import AuditLog, Request
from tests.controlplane.certificates import Authority
from tests.controlplane.processes import Processes
from tests.support.ports import free_port

HERE = Path(__file__).parent
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "kwok")
START_SECONDS = 120


class NoControlPlane(Exception):
    """There are no programs to start; the message says how to get them."""


@dataclass(frozen=True)
class Programs:
    """Where the programs of a control plane are."""

    built: Path
    assets: Path | None = None
    """Such as KUBEBUILDER_ASSETS: what it has is used instead."""

    def __getitem__(self, name: str) -> Path:
        found = [folder / name for folder in (self.assets, self.built) if folder and (folder / name).exists()]
        if not found:
            raise NoControlPlane(f"no {name}; run tests/run.sh cluster once, or set RECONCILER_TEST_CONTROLPLANE")
        return found[0]

    @property
    def own_etcd(self) -> bool:
        return self["etcd"].is_symlink()


def find_programs() -> Programs:
    """Those of `RECONCILER_TEST_CONTROLPLANE`, else what tests/run.sh built last. Raises NoControlPlane."""
    cache = Path(os.environ.get("RECONCILER_CACHE") or Path.home() / ".cache" / "reconciler")
    made = sorted(cache.glob("controlplane-*/complete"), key=lambda file: file.stat().st_mtime)
    named = os.environ.get("RECONCILER_TEST_CONTROLPLANE")
    if not named and not made:
        raise NoControlPlane("no control plane is built; run tests/run.sh cluster once")
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    programs = Programs(Path(named) if named else made[-1].parent, Path(assets) if assets else None)
    for name in COMPONENTS:
        _ = programs[name]
    return programs


class ControlPlane:
    """One control plane, from its creation to `close`. It ends with this process, however that ends."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self.folder = folder
        self.programs = programs
        self.authority = Authority(folder / "pki")
        self.server = f"https://127.0.0.1:{free_port()}"
        self.kwok_port = free_port()
        self._etcd_ports = free_port(), free_port()
        self._audit = AuditLog(folder / "logs" / "audit.jsonl")
        self._server_certificate = self.authority.server("kube-apiserver")
        self._token_keys = self.authority.signing_key("service-accounts")
        self.kubeconfig = self.user_kubeconfig("admin", "system:masters")
        self.api = Api(self.kubeconfig)
        self.processes = Processes(folder / "logs")
        try:
            self._start()
        except BaseException:
            self.processes.close()
            raise

    # ---------------------------------------------------------------------------------------------- its parts

    def _start(self) -> None:
        """All at once: those that need the API server wait for it themselves."""
        self.start_etcd()
        self.start_api_server()
        controllers = self.user_kubeconfig("system:kube-controller-manager")
        self.processes.start(
            "kube-controller-manager",
            self.programs["kube-controller-manager"],
            f"--kubeconfig={controllers}",
            f"--service-account-private-key-file={self._token_keys[1]}",
            f"--root-ca-file={self.authority.certificate}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )
        scheduler = self.user_kubeconfig("system:kube-scheduler")
        self.processes.start(
            "kube-scheduler",
            self.programs["kube-scheduler"],
            f"--kubeconfig={scheduler}",
            "--leader-elect=false",
            "--secure-port=0",
        )
        self.wait_until_ready()
        # It gives up where no API server answers.
        self._start_kwok()
        default = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": "default"},
        }
        wait_for(lambda: self.api.find(default), START_SECONDS, "the controllers make service accounts")

    def start_etcd(self) -> None:
        clients, peers = self._etcd_ports
        flags = [f"--client-port={clients}", f"--peer-port={peers}"]
        if not self.programs.own_etcd:
            ours, others = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
            flags = [f"--listen-client-urls={ours}", f"--advertise-client-urls={ours}", "--unsafe-no-fsync"]
            flags += [f"--listen-peer-urls={others}", f"--initial-advertise-peer-urls={others}"]
            flags += [f"--initial-cluster=default={others}"]
        self.processes.start("etcd", self.programs["etcd"], f"--data-dir={self.folder / 'etcd'}", *flags)

    def start_api_server(self, *flags: str) -> None:
        """With more flags; what it has stored is in etcd and is there again. `wait_until_ready` follows."""
        certificate, key = self._server_certificate
        public, private = self._token_keys
        self.processes.start(
            "kube-apiserver",
            self.programs["kube-apiserver"],
            f"--etcd-servers=http://127.0.0.1:{self._etcd_ports[0]}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.server.rsplit(':')[-1]}",
            # The service `kubernetes` cannot have an endpoint on loopback.
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/16",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            "--authorization-mode=RBAC",
            f"--audit-policy-file={HERE / 'audit-policy.yaml'}",
            f"--audit-log-path={self.folder / 'logs' / 'audit.jsonl'}",
            "--audit-log-maxsize=4096",
            *flags,
        )

    def stop_api_server(self) -> None:
        """Killed: connections break, and are refused from now on. A graceful end would wait for watches to end."""
        self.processes.stop("kube-apiserver", signal.SIGKILL)

    def restart_api_server(self, *flags: str) -> None:
        """Running watches break; returns when it is ready again. Flags of before are forgotten."""
        self.stop_api_server()
        self.start_api_server(*flags)
        self.wait_until_ready()

    @contextlib.contextmanager
    def api_server_with(self, *flags: str) -> Iterator[None]:
        """Restarted with more flags, and without them again afterwards.

        `--enable-priority-and-fairness=false --max-mutating-requests-inflight=1` makes it answer 429, for example.
        """
        self.restart_api_server(*flags)
        try:
            yield
        finally:
            self.restart_api_server()

    def forget_history(self) -> None:
        """Whoever watches from an earlier resource version gets 410 Gone: etcd is compacted, the API server restarted.

        All data is still there, and running watches break.
        """
        etcd = f"http://127.0.0.1:{self._etcd_ports[0]}/v3/kv"
        found = urllib3.request("POST", f"{etcd}/range", json={"key": "AA=="}).json()
        revision = found["header"]["revision"]
        answer = urllib3.request("POST", f"{etcd}/compaction", json={"revision": revision, "physical": True})
        assert answer.status == 200, answer.data
        self.restart_api_server()

    def _start_kwok(self) -> None:
        stages = self.folder / "stages.yaml"
        logs = kubelet.make_logs(*(str(self.folder / name) for name in ("container.log", "previous.log")))
        stages.write_text(yaml.safe_dump_all([*kubelet.make_stages(), logs]))
        self.set_logs("")
        self.processes.start(
            "kwok",
            self.programs["kwok"],
            f"--kubeconfig={self.user_kubeconfig('kwok', 'system:masters')}",
            f"--config={self.programs['kwok'].parent / 'stages.yaml'}",
            f"--config={stages}",
            f"--manage-nodes-with-annotation-selector={nodes.PLAYED}",
            "--node-lease-duration-seconds=40",
            "--cidr=10.64.0.0/12",
            "--node-ip=127.0.0.1",
            f"--node-port={self.kwok_port}",
            f"--server-address=127.0.0.1:{self.kwok_port}",
        )

    def set_logs(self, current: str, previous: str = "") -> None:
        """What every container of every pod has printed from now on; `previous` before it was restarted."""
        for name, text in {"container.log": current, "previous.log": previous}.items():
            (self.folder / name).write_text(kubelet.format_log(text))

    def wait_until_ready(self) -> None:
        wait_for(self._is_ready, START_SECONDS, "the API server is ready")

    def _is_ready(self) -> bool:
        dead = self.processes.dead()
        if dead:
            raise RuntimeError(dead)
        try:
            return bool(self.api.request("GET", "/readyz") == "ok")
        except (ApiError, urllib3.exceptions.HTTPError):
            return False

    def close(self) -> None:
        """End everything; logs and kubeconfigs stay in the folder."""
        self.processes.close()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    # ---------------------------------------------------------------------------------------------- who asks it

    def user_kubeconfig(self, user: str, *groups: str) -> Path:
        """A kubeconfig for a user with a client certificate. RBAC knows it by these names."""
        certificate, key = self.authority.client(user, *groups)
        return self.write_kubeconfig(user, {"client-certificate": str(certificate), "client-key": str(key)})

    def service_account_kubeconfig(self, namespace: str, name: str, seconds: int = 3600) -> Path:
        """A kubeconfig with a token for this service account, which exists. The API allows no token under 600 s."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        token = self.api.request("POST", path, asked)["status"]["token"]
        return self.write_kubeconfig(f"{namespace}-{name}", {"token": token})

    def write_kubeconfig(self, name: str, user: dict[str, Any]) -> Path:
        """A kubeconfig with these credentials, as its `users[].user` has them; the context is `tests`."""
        cluster = {"server": self.server, "certificate-authority": str(self.authority.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name}}],
        }
        file = self.folder / f"{name.replace(':', '-')}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(content))
        return file

    def requests(self) -> list[Request]:
        """What was asked since the last call, by all but the control plane itself and this call."""
        mark = uuid.uuid4().hex
        self.api.request("GET", "/version", mark=mark)
        found: list[Request] = []

        def is_complete() -> bool:
            found.extend(self._audit.read())
            return any(mark in request.uri for request in found)

        wait_for(is_complete, what="the audit log has our own request")
        return [request for request in found if mark not in request.uri]
