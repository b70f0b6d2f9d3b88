"""How many logs of crashed containers one look reads."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.errors import Unreached
from reconciler.cluster.crash_logs import CrashLogs
from tests.cluster.seen import kube_object


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pods whose logs are asked for; none is given."""
    asked: list[str] = []

    def logs(self: Client, namespace: str, pod: str, *_: Any, **__: Any) -> str:
        asked.append(pod)
        raise Unreached("the node does not answer")

    monkeypatch.setattr(Client, "logs", logs)
    monkeypatch.setattr(Client, "__init__", lambda self: None)
    return asked


def test_one_look_reads_few_logs_however_many_services_crash(read: list[str]) -> None:
    logs = CrashLogs(Client())  # type: ignore[call-arg]
    services = [[_crashed(f"{service}-{pod}") for pod in range(2)] for service in range(50)]
    logs.begin_look()
    for pods in services:
        logs.of(pods)
    assert len(read) == 20

    logs.begin_look()
    for pods in services:
        logs.of(pods)
    assert len(read) == len(set(read)) == 40


def _crashed(name: str) -> dict[str, Any]:
    ended = {"name": "kserve-container", "restartCount": 1, "state": {"terminated": {"exitCode": 1}}}
    return kube_object("Pod", name, status={"containerStatuses": [ended]})
