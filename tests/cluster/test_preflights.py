"""Preflights by Jobs: what the image's engine refuses is never applied, and what nobody can ask is waited for."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.cluster.preflight_job import PREFLIGHT
from tests.cluster.rig import ClusterRig
from tests.cluster.test_rollouts import RUNTIME, live, service, shown
from tests.controlplane.api import ApiError
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster
MakeRig = Callable[..., ClusterRig]
ACCEPTED = {"parsed": "x", "gpus": 1, "errors": [], "warnings": []}


@pytest.fixture
def rig(tmp_path: Path, control_plane: ControlPlane, namespace: str, kserve: KServe, add_node: AddNode) -> ClusterRig:
    add_node(gpus=4)
    made = ClusterRig(tmp_path / "rig", control_plane, namespace, {"preflight": True})
    made.push({"prod/runtime.yaml": yaml.safe_dump(RUNTIME)})
    return made


def answer(rig: ClusterRig, verdict: dict[str, Any]) -> None:
    """What the log of every Job is from now on."""
    jobs = rig.api.list("batch/v1", "Job", rig.namespace)
    keys = [job["metadata"]["labels"][PREFLIGHT] for job in jobs]
    packed = base64.b64encode(zlib.compress(json.dumps(verdict).encode())).decode()
    rig.plane.set_logs("".join(f"reconciler-preflight-answer:{key}:{packed}\n" for key in keys))


def test_service_is_applied_once_its_engine_has_accepted_the_arguments(rig: ClusterRig):
    rig.push({"prod/a.yaml": service("a", "--seed=1")})
    found = shown(rig.sync(15), "a")
    assert "cannot be asked" in found["step"], found
    with pytest.raises(ApiError):
        live(rig, "a")

    answer(rig, ACCEPTED)
    assert shown(rig.sync(60), "a")["sync"] == "Synced"


def test_arguments_that_the_engine_refuses_are_never_applied(rig: ClusterRig):
    rig.push({"prod/a.yaml": service("a", "--seed=1")})
    rig.sync(15)
    answer(rig, ACCEPTED)
    rig.sync(60)

    rig.push({"prod/a.yaml": service("a", "--sede=2")})
    rig.sync(15)
    answer(rig, ACCEPTED | {"errors": [{"message": "unrecognized arguments: --sede=2", "index": None}]})
    found = shown(rig.sync(30), "a")

    assert found["rejected"], (found["step"], found["health"], found["blocked"], found["sync"])
    assert "--sede" in found["rejected"]["reason"]
    assert "--seed=1" in live(rig, "a")["spec"]["predictor"]["model"]["args"]
    assert (found["health"]["status"], found["ready"]) == ("Healthy", "1/1")
