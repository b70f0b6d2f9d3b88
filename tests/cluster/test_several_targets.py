"""One daemon with several targets: two clusters by the contexts of a kubeconfig, and a host beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.cluster.daemon_rig import DaemonRig, running
from tests.cluster.rig import CLUSTER, Document, config_map
from tests.controlplane.control_plane import ControlPlane
from tests.support.ports import free_port

pytestmark = pytest.mark.cluster
HOST = "apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {name: gpu-1}\n"


class ThreeTargets(DaemonRig):
    """`prod` and `stage`, each in a namespace of its own, and the host `gpu-1`."""

    def write_config(self, **target: object) -> None:
        super().write_config(**target)
        settings = yaml.safe_load(self.config.read_text())
        (prod,) = settings["targets"]
        stage = {**prod, "name": "stage", "paths": ["stage"], "context": "stage", "default_namespace": "default"}
        settings["targets"] = [prod, stage, self._host()]
        self.config.write_text(yaml.safe_dump(settings))

    def _host(self) -> Document:
        return {
            "name": "gpu-1",
            "paths": ["gpu-1"],
            "gpus": [],
            "ports": "29000-29010",
            "routing": {"listen": f"127.0.0.1:{free_port()}"},
        }


def test_daemon_drives_two_clusters_and_a_host_at_once(
    tmp_path: Path, control_plane: ControlPlane, namespace: str
) -> None:
    kubeconfig = tmp_path / "two.kubeconfig"
    shutil.copy(control_plane.kubeconfig, kubeconfig)
    document = yaml.safe_load(kubeconfig.read_text())
    document["contexts"].append({**document["contexts"][0], "name": "stage"})
    kubeconfig.write_text(yaml.safe_dump(document))
    rig = ThreeTargets(tmp_path / "rig", control_plane, namespace, {"kubeconfig": str(kubeconfig)})
    files = {"prod/a.yaml": config_map("a", x="prod"), "stage/b.yaml": config_map(f"b-{namespace}", x="stage")}
    rig.push({**files, "stage/cluster.yaml": CLUSTER.replace("prod", "stage"), "gpu-1/host.yaml": HOST})
    b = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"b-{namespace}", "namespace": "default"}}
    with running(rig):
        rig.converge()
        assert rig.data("a") == {"x": "prod"}
        assert rig.api.get(b)["data"] == {"x": "stage"}
        assert set(rig.members()) == {"ConfigMap/a"}
        kinds = sorted(each["kind"] for each in (rig.status() or {})["targets"])
        assert kinds == ["cluster", "cluster", "host"]

        rig.push({"stage/b.yaml": None})
        rig.converge()
        assert rig.api.find(b) is None
        assert rig.data("a") == {"x": "prod"}
