"""The KServe of the tests writes the statuses that KServe 0.20 was recorded to write, and in that order."""

from __future__ import annotations

import pytest

from tests.controlplane.api import Api
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve import recorded
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("name", recorded.names())
def test_sequence_has_the_recorded_statuses_in_their_order(
    control_plane: ControlPlane, api: Api, namespace: str, add_node: AddNode, name: str
) -> None:
    add_node(gpus=8)
    sequence = recorded.load(name, namespace)
    deadline = 3 if name.startswith("deadline") else 600
    with KServe(control_plane, creates_ingress=sequence.ingress, progress_deadline=deadline) as kserve:
        watcher: recorded.Watcher | None = None
        for step in sequence.steps:
            if watcher and step.object["kind"] != "InferenceService":
                # What still happens to a service makes KServe look at its runtime.
                kserve.wait_until_idle()
            since = len(watcher.statuses) if watcher else 0
            recorded.perform(api, step)
            if step.object["kind"] == "InferenceService" and watcher is None:
                watcher = recorded.Watcher(api, namespace)
            if watcher and step.then:
                watcher.wait_for(step.then, since)
            elif watcher:
                kserve.wait_until_idle()
                assert watcher.statuses[since:] == []
        assert recorded.workload(api, namespace) == sequence.final
