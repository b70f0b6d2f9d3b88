"""A control plane for tests: one for all tests of a worker, started at the first use."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.controlplane.api import Api, wait_for
from tests.controlplane.control_plane import ControlPlane, NoControlPlane, find_programs
from tests.controlplane.existing import ExistingCluster
from tests.controlplane.node import Node
from tests.controlplane.nodes import make_node
from tests.machines.machine import NoMachine
from tests.support.engine.fixtures import NoEngine, find_place

_NUMBERS = itertools.count(1)


class AddNode(Protocol):
    """Adds a node as `make_node` makes it, waits until it is Ready, and returns its name."""

    def __call__(self, gpus: int = 8, name: str = "", **options: Any) -> str: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    text = (
        "a cluster to use instead of starting a control plane: one that may be damaged, with KServe and nodes of kwok"
    )
    parser.addoption("--kubeconfig", type=Path, metavar="FILE", help=text)


@pytest.fixture(scope="session")
def control_plane(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane | ExistingCluster]:
    """A running Kubernetes 1.36 without nodes. Who stops or restarts a part of it starts it again."""
    if kubeconfig := pytestconfig.getoption("--kubeconfig"):
        yield ExistingCluster(kubeconfig.absolute())
        return
    try:
        programs = find_programs()
    except NoControlPlane as error:
        pytest.skip(str(error))
    made = ControlPlane(tmp_path_factory.mktemp("control-plane"), programs)
    yield made
    made.close()


@pytest.fixture
def api(control_plane: ControlPlane) -> Api:
    """Its API, for an administrator whose user agent is `tests`."""
    return control_plane.api


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A namespace of the test's own. Its end is asked for after the test and not waited for."""
    name = f"test-{next(_NUMBERS)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    api.create(body)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    wait_for(lambda: api.find(account), what="pods can be made in the namespace")
    yield name
    api.delete(body)
    # Nothing makes new ones while the namespace ends, and their GPUs are free for the next test.
    api.request("DELETE", api.collection("v1", "Pod", name), {"gracePeriodSeconds": 0})


@pytest.fixture
def real_node(control_plane: ControlPlane) -> Iterator[Node]:
    """A node whose pods are containers, with a real kubelet; `tests.controlplane.node` says what they need.

    They can run `engine_python` with `tiny_model`.
    """
    name = f"real-{next(_NUMBERS)}"
    # Not below /tmp: a machine has one of its own.
    folder = Path("/run") / f"reconciler-tests-{os.getpid()}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        node = Node(control_plane, folder, name, _engine_folders())
    except NoMachine as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(str(error))
    object_of_node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    try:
        wait_for(lambda: _can_be_used(control_plane.api.find(object_of_node), 0), 120, "the kubelet is ready")
        yield node
    finally:
        control_plane.api.delete(object_of_node)
        node.close()
        shutil.rmtree(folder, ignore_errors=True)


def _engine_folders() -> list[Path]:
    """What a preloaded engine needs to be seen, so far as it is there."""
    try:
        place = find_place()
    except NoEngine:
        return []
    needed = [Path(__file__).parents[2], Path(sys.prefix), Path(sys.base_prefix), place.venv, place.folder]
    return [path for path in needed if path.exists()]


@pytest.fixture
def add_node(api: Api) -> Iterator[AddNode]:
    """Nodes with GPUs, until the end of the test. The cluster has no others."""
    names: list[str] = []

    def add(gpus: int = 8, name: str = "", **options: Any) -> str:
        names.append(name or f"node-{next(_NUMBERS)}")
        made = api.create(make_node(names[-1], gpus, **options))
        # A taint keeps pods away until a controller has seen that the node is ready.
        wait_for(lambda: _can_be_used(api.get(made), len(options.get("taints", ()))), what="the node is ready")
        return names[-1]

    yield add
    for name in names:
        api.delete({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})


def _can_be_used(node: dict[str, Any] | None, taints: int) -> bool:
    if node is None:
        return False
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", ()))
    return ready and len(node["spec"].get("taints", ())) == taints
