"""What tests on a Kubernetes cluster use; mark them `cluster`.

From `tests.controlplane.fixtures`: `control_plane`, `api`, `namespace`, `add_node`. There:

- `control_plane.kubeconfig` is an administrator's; `user_kubeconfig("alice")` and `service_account_kubeconfig(…)` give
  others; `write_kubeconfig(…)` any credentials, wrong ones too.
- `control_plane.requests()` is the audit log since the last call: who asked what, with `writes` and `dry_run`.
- `control_plane.restart_api_server()`, `stop_api_server()`, `api_server_with(FLAGS)`, `forget_history()` (410 Gone).
- `control_plane.set_logs(…)`: what containers have printed. How pods fail: `tests.controlplane.kubelet`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controlplane.api import Api
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.existing import ExistingCluster
from tests.controlplane.kserve.crds import install_crds
from tests.controlplane.kserve.installation import KServe


@pytest.fixture
def kserve_crds(api: Api) -> None:
    """KServe's kinds, without its webhooks and its controller: an InferenceService is stored as it is, and stays so."""
    install_crds(api)


@pytest.fixture
def kserve(control_plane: ControlPlane, namespace: str) -> Iterator[KServe | None]:
    """A KServe 0.20 that works as it was seen to: kinds, webhooks, and a controller with Deployments and statuses.

    Pods fail as annotations of the predictor say (`tests.controlplane.kubelet`); pods need a node. With other options:
    `with KServe(control_plane, progress_deadline=3): …`.
    """
    if isinstance(control_plane, ExistingCluster):
        # There KServe's own controller is to do the same.
        yield None
        return
    with KServe(control_plane) as running:
        yield running
