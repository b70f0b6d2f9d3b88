"""`kill -9` at every boundary: the end is the same, nothing is orphaned, and nothing is deleted twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import yaml

from tests.cluster.daemon_rig import DaemonRig
from tests.cluster.rig import config_map
from tests.cluster.test_rollouts import RUNTIME, service
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster
# The same files of the daemon as on hosts, whose tests have it die there.
_AS_ON_HOSTS = [f"git/{name}" for name in ("askpass", "gitconfig", "repository", "accepted.json")]
_AS_ON_HOSTS += [f"state/{name}" for name in ("targets.json", "control.sock", ".writable")]
_WRITTEN = "what was applied is written down: after"
PART_OF = "applyset.kubernetes.io/part-of"


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane, namespace: str) -> Iterator[DaemonRig]:
    rig = DaemonRig(tmp_path_factory.mktemp("daemon") / "rig", control_plane, namespace)
    yield rig
    rig.kill()


def test_daemon_killed_at_every_boundary_ends_where_it_would_have(rig: DaemonRig):
    rig.push({"prod/a.yaml": config_map("a", x="1"), "prod/b.yaml": config_map("b", x="1")})
    made = _died_on_the_way(rig, _WRITTEN)
    assert {"ConfigMap/a", "ConfigMap/b"} == set(rig.members())
    assert any(line.startswith("WriteInventory 2 more") for line in made), made
    assert sum(line.startswith("ApplyObject") for line in made) == 4, made

    uid = rig.members()["ConfigMap/a"]
    rig.push({"prod/a.yaml": config_map("a", x="2"), "prod/b.yaml": None, "prod/c.yaml": config_map("c", x="1")})
    changed = _died_on_the_way(rig, _WRITTEN)
    assert sum(line.startswith("DeleteObject") for line in changed) == 2, changed
    assert {name: rig.data(name) for name in "abc"} == {"a": {"x": "2"}, "b": None, "c": {"x": "1"}}
    assert set(rig.members()) == {"ConfigMap/a", "ConfigMap/c"}
    assert rig.members()["ConfigMap/a"] == uid


def test_service_is_promoted_and_drained_by_a_daemon_that_dies_everywhere(
    rig: DaemonRig, kserve: KServe, add_node: AddNode
):
    add_node(gpus=1)
    rig.push({"prod/runtime.yaml": yaml.safe_dump(RUNTIME), "prod/web.yaml": service("web")})
    made = _died_on_the_way(rig, "KeepLastGood")
    assert any(line.startswith("ApplyObject InferenceService") for line in made), made
    assert len(rig.api.list("v1", "Pod", rig.namespace)) == 1

    rig.push({"prod/web.yaml": None})
    gone = _died_on_the_way(rig, "1 are gone")

    steps = [line.partition(" ")[0] for line in gone if not line.startswith("beside")]
    assert steps.count("StopService") == 2
    assert steps.index("StopService") < steps.index("DeleteObject")
    assert set(rig.members()) == {"ServingRuntime/vllm"}


def _died_on_the_way(rig: DaemonRig, last: str) -> list[str]:
    """Have git followed by a daemon that dies everywhere, in the `last` action as well; where it did."""
    died_at = rig.folder / "boundaries"
    died_at.write_text("".join(f"beside: os.rename {name}\n" for name in _AS_ON_HOSTS))
    rig.plane.requests()
    rig.kill()
    rig.start(crashing=True)

    def is_done() -> bool:
        _assert_nothing_is_orphaned(rig)
        return rig.is_applied() and last in died_at.read_text()

    rig.wait("the latest commit to be applied", is_done, 120)
    rig.kill()
    deleted = Counter(each.name for each in rig.plane.requests() if each.verb == "delete" and each.code < 300)
    assert all(count == 1 for count in deleted.values()), deleted
    return died_at.read_text().splitlines()[len(_AS_ON_HOSTS) :]


def _assert_nothing_is_orphaned(rig: DaemonRig) -> None:
    """What we applied is on record, whenever one looks: first it is looked at, then at the record."""
    ours = rig.api.list("v1", "ConfigMap", rig.namespace)
    applied = {each["metadata"]["name"] for each in ours if PART_OF in each["metadata"].get("labels", {})}
    known = set(rig.members())
    assert not [name for name in applied if f"ConfigMap/{name}" not in known and rig.data(name) is not None]
