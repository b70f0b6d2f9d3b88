"""A host and a cluster follow one repository, and each gives its verdict on the same commit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.rig import CLUSTER, config_map
from tests.controlplane.api import Api
from tests.controlplane.control_plane import ControlPlane
from tests.e2e.forge_rig import SEQS, ForgeRig, MakeForgeRig
from tests.support.daemon_process import DaemonProcess
from tests.support.ports import free_port

pytestmark = [pytest.mark.forge, pytest.mark.cluster]
CONTEXT = "reconciler/cluster-1"


class ClusterDaemon(DaemonProcess):
    """A daemon of its own for `cluster-1`, which follows the repository of a host beside it."""

    def __init__(self, folder: Path, host: ForgeRig, plane: ControlPlane, namespace: str) -> None:
        self.folder, self.config = folder, folder / "config.yaml"
        folder.mkdir()
        target = {
            "name": "cluster-1",
            "kind": "kubernetes",
            "paths": ["cluster-1"],
            "kubeconfig": str(plane.kubeconfig),
            "namespace": namespace,
            "default_namespace": namespace,
        }
        settings = yaml.safe_load(host.config.read_text())
        settings |= {"targets": [target], "state_dir": str(folder / "state")}
        settings["web"] |= {"listen": f"127.0.0.1:{free_port()}"}
        self.config.write_text(yaml.safe_dump(settings))


@pytest.fixture
def host(
    make_forge_rig: MakeForgeRig, tmp_path: Path, control_plane: ControlPlane, namespace: str
) -> Iterator[ForgeRig]:
    """`gpu-1`, beside which `cluster-1` runs; a ConfigMap is on the cluster."""
    host = make_forge_rig(told=False)
    host.write(
        {"cluster-1/cluster.yaml": CLUSTER.replace("prod", "cluster-1"), "cluster-1/a.yaml": config_map("a", x="1")}
    )
    cluster = ClusterDaemon(tmp_path / "cluster", host, control_plane, namespace)
    host.start()
    cluster.start()
    try:
        yield host
    finally:
        cluster.kill()


def test_host_and_cluster_answer_on_the_same_commit(host: ForgeRig, api: Api, namespace: str) -> None:
    both = host.repository.head()
    host.answer(both, "success")
    host.answer(both, "success", context=CONTEXT)
    found = api.get({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": namespace}})
    assert found["data"] == {"x": "1"}

    # Good for the host, and nothing that the API server takes.
    bad = config_map("a", x="1").replace("x: '1'", "x: [1, 2]")
    host.edit(host.manifest, SEQS, "--max-num-seqs=7")
    half_bad = host.write({"cluster-1/a.yaml": bad})
    host.answer(half_bad, "success")
    # It is said with its reason once that is known.
    place = f"cluster-1/a.yaml:{bad.splitlines().index('  x: [1, 2]') + 1}"
    host.wait("the reason", lambda: place in host.forge.status(half_bad, CONTEXT).get("description", ""), 30)
    host.answer(half_bad, "failure", context=CONTEXT)
    assert host.turns(half_bad)[-1] == "success"
