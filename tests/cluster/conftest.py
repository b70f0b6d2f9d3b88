"""What tests on a Kubernetes cluster use; mark them `cluster`.

From `tests.controlplane.fixtures`: `control_plane`, `api`, `namespace`, `add_node`. There:

- `control_plane.kubeconfig` is an administrator's; `user_kubeconfig("alice")` and `service_account_kubeconfig(…)` give
  others; `write_kubeconfig(…)` any credentials, wrong ones too.
- `control_plane.requests()` is the audit log since the last call: who asked what, with `writes` and `dry_run`.
- `control_plane.restart_api_server()`, `stop_api_server()`, `api_server_with(FLAGS)`, `forget_history()` (410 Gone).
- `control_plane.set_logs(…)`: what containers have printed. How pods fail: `tests.controlplane.kubelet`.
"""

from __future__ import annotations

import pytest

from tests.controlplane.api import Api
from tests.controlplane.kserve.crds import install_crds


@pytest.fixture
def kserve_crds(api: Api) -> None:
    """KServe's kinds, without its webhooks and its controller: an InferenceService is stored as it is, and stays so."""
    install_crds(api)
