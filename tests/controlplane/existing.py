"""A cluster that the tests did not start: what only its owner can do is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.api import Api


class ExistingCluster:
    """Stands where a `ControlPlane` does."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.api = Api(kubeconfig)

    def __getattr__(self, name: str) -> Any:
        pytest.skip(f"{name} is not to be had of the cluster that --kubeconfig names")
