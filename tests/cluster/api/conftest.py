"""A client of the tests' control plane."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from tests.cluster.api.bodies import namespace_of
from tests.controlplane.api import Api
from tests.controlplane.control_plane import ControlPlane

_NUMBERS = itertools.count(1)


@pytest.fixture
def connection(control_plane: ControlPlane) -> ClusterConnection:
    return ClusterConnection(control_plane.kubeconfig)


@pytest.fixture
def client(connection: ClusterConnection) -> Iterator[Client]:
    made = Client(connection)
    yield made
    made.close()


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A namespace with its account `default`, made by us: controllers take long to come back after a restart."""
    name = f"api-{next(_NUMBERS)}"
    made = api.create(namespace_of(name))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    api.apply(account, force=True)
    yield name
    api.delete(made)
