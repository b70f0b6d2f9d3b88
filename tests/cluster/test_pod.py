"""The daemon as deploy/kubernetes/ runs it: as a user without rights, on a read-only root, by a service account."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.cluster.rig import ClusterRig, config_map
from tests.cluster.test_kubernetes_folder import remove
from tests.controlplane.api import wait_for
from tests.controlplane.control_plane import ControlPlane
from tests.support.kubernetes_folder import build
from tests.support.ports import free_port

USER = 65532
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--bounding-set=-all")
_LEASE = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "reconciler-prod", "namespace": "reconciler"},
}
# What the kubelet and the runtime do for a container. The volumes are as open as emptyDir's are.
BEGIN = """
set -e
hostname "$POD"
mount --make-rprivate /
mount -t tmpfs -o mode=0777 none "$STATE"
case "$PYTHON_HOME" in /root/*)
  # Nobody else may look into /root: only what Python needs is left of it.
  mkdir "$STATE/python"
  mount --bind "$PYTHON_HOME" "$STATE/python"
  mount -t tmpfs -o mode=0755 none /root
  mkdir -p "$PYTHON_HOME"
  mount --bind "$STATE/python" "$PYTHON_HOME"
  umount "$STATE/python"
  rmdir "$STATE/python"
esac
mkdir -p /var/run/secrets
mount --bind "$GIVEN" /var/run/secrets
mount -o remount,bind,ro /
exec "$@"
"""


def _lacks() -> str:
    if os.geteuid() != 0:
        return "only root can mount"
    return "" if all(map(shutil.which, ("unshare", "setpriv"))) else "there is no unshare or setpriv"


pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.skipif(bool(_lacks()), reason=_lacks())]


class Pod:
    """One replica of the Deployment."""

    def __init__(self, name: str, folder: Path, server: str, config: dict[str, Any]) -> None:
        self.port = free_port()
        self.name = name
        own = folder / name
        (own / "state").mkdir(parents=True)
        config |= {"web": {"listen": f"127.0.0.1:{self.port}"}, "state_dir": str(own / "state" / "state")}
        (own / "config.yaml").write_text(yaml.safe_dump(config))
        host, port = urlsplit(server).hostname, urlsplit(server).port
        inside = {
            "PATH": os.environ["PATH"],
            "HOME": str(own / "state"),
            "TMPDIR": str(own / "state"),
            "KUBERNETES_SERVICE_HOST": str(host),
            "KUBERNETES_SERVICE_PORT": str(port),
            "RECONCILER_CONFIG": str(own / "config.yaml"),
        }
        command = [*AS_USER, "env", "-i", *(f"{key}={value}" for key, value in inside.items())]
        command += [sys.executable, "-m", "reconciler", "run"]
        env = {"POD": name, "STATE": str(own / "state"), "GIVEN": str(folder / "secrets")}
        env |= {**os.environ, "PYTHON_HOME": sys.base_prefix}
        self.log = own / "log"
        with open(self.log, "wb") as log:
            begin = ["unshare", "--mount", "--uts", "sh", "-c", BEGIN, "sh", *command]
            self.process = subprocess.Popen(begin, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def answers(self, path: str) -> int:
        try:
            return int(urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5).status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other users may look into."""
    made = Path(tempfile.mkdtemp(prefix="reconciler-pods-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_two_pods_become_ready_and_one_takes_over_when_the_other_is_gone(
    control_plane: ControlPlane, namespace: str, folder: Path, tmp_path: Path
) -> None:
    api = control_plane.api
    objects = build(control_plane.programs["kubectl"], tmp_path, ["configmaps"])
    objects = [one for one in objects if one["kind"] != "Deployment"]
    for one in objects:
        api.apply(one)
    rig = ClusterRig(folder / "rig", control_plane, namespace, {"namespace": "reconciler"})
    rig.push({"prod/a.yaml": config_map("a", x="1")})
    config = yaml.safe_load(rig.config.read_text())
    del config["targets"][0]["kubeconfig"]
    _give_account(control_plane, folder / "secrets")
    pods = [Pod(name, folder, control_plane.server, config) for name in ("pod-a", "pod-b")]
    try:
        wait_for(lambda: all(pod.answers("/readyz") == 200 for pod in pods), 120, "both pods are ready")
        wait_for(lambda: api.find(_map(namespace, "a")), 120, "the object is applied")
        leader = next(pod for pod in pods if _holder(control_plane).startswith(pod.name))
        other = next(pod for pod in pods if pod is not leader)
        leader.kill()
        rig.push({"prod/b.yaml": config_map("b", x="2")})
        wait_for(lambda: api.find(_map(namespace, "b")), 120, "the other one applies what comes now")
        assert _holder(control_plane).startswith(other.name)
        assert other.answers("/healthz") == 200
    finally:
        for pod in pods:
            pod.kill()
        remove(api, [*objects, _map("reconciler", "reconciler-prod"), _LEASE])


def _give_account(control_plane: ControlPlane, secrets: Path) -> None:
    """As the kubelet mounts it."""
    place = secrets / "kubernetes.io" / "serviceaccount"
    place.mkdir(parents=True)
    kubeconfig = yaml.safe_load(control_plane.service_account_kubeconfig("reconciler", "reconciler").read_text())
    (place / "token").write_text(kubeconfig["users"][0]["user"]["token"])
    (place / "namespace").write_text("reconciler")
    (place / "ca.crt").write_bytes(control_plane.authority.certificate.read_bytes())


def _map(namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}


def _holder(control_plane: ControlPlane) -> str:
    found = control_plane.api.find(_LEASE)
    return str(found["spec"]["holderIdentity"]) if found else ""
