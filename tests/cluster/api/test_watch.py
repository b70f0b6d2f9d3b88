"""Watches of a real API server: what changes is seen, and what cannot be known is never taken for gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from reconciler.cluster.api import watch as watch_module
from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.watch import KindState, WatchedKind, Watches
from reconciler.model.objects import ObjectId
from tests.cluster.api.bodies import bind, config_map, crd
from tests.cluster.api.test_client import is_applied
from tests.controlplane.api import Api, wait_for
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

Watching = Callable[..., Watches]
CONFIG_MAPS = WatchedKind("", "ConfigMap")


@pytest.fixture
def watching(client: Client) -> Iterator[Watching]:
    """Starts watches, and waits until they know their kinds."""
    made: list[Watches] = []

    def start(
        *kinds: WatchedKind, by: Client = client, wake: Callable[[], None] = bool, stale: float = 30.0
    ) -> Watches:
        watches = Watches(by, wake, stale)
        made.append(watches)
        watches.watch(kinds)
        assert watches.wait_until_known(30)
        return watches

    yield start
    for watches in made:
        watches.close()


def found_in(watches: Watches, body: dict[str, Any]) -> Any:
    return watches.snapshot().get(ObjectId.of(body))


def test_changes_are_seen_and_wake_while_a_snapshot_stays(watching: Watching, api: Api, namespace: str) -> None:
    woken = threading.Event()
    body = config_map(namespace, key="1")
    watches = watching(CONFIG_MAPS, wake=woken.set)
    before = watches.snapshot()
    woken.clear()
    api.create(body)
    assert woken.wait(10)
    wait_for(lambda: found_in(watches, body))
    assert ObjectId.of(body) not in before
    api.apply({**body, "data": {"key": "2"}}, force=True)
    wait_for(lambda: found_in(watches, body)["data"] == {"key": "2"})
    api.delete(body)
    wait_for(lambda: found_in(watches, body) is None)
    assert watches.snapshot().status("", "ConfigMap").state is KindState.SYNCED


def test_only_the_namespace_and_labels_asked_for_are_kept(watching: Watching, api: Api, namespace: str) -> None:
    ours, others = config_map(namespace, "ours"), config_map(namespace, "others")
    ours["metadata"]["labels"] = {"part": "ours"}
    elsewhere = config_map("default", f"elsewhere-{namespace}")
    for body in (ours, others, elsewhere):
        api.create(body)
    watches = watching(
        WatchedKind("", "ConfigMap", namespace=namespace, labels="part=ours"),
        WatchedKind("", "Secret", "v1", "default"),
    )
    assert list(watches.snapshot()) == [ObjectId.of(ours)]
    api.patch(ours, {"metadata": {"labels": None}})
    wait_for(lambda: not watches.snapshot())
    api.delete(elsewhere)


def test_kind_without_a_crd_is_absent_and_then_watched(watching: Watching, client: Client, namespace: str) -> None:
    watches = watching(WatchedKind("watched.example.com", "Thing"))
    assert watches.snapshot().status("watched.example.com", "Thing").state is KindState.ABSENT
    made = client.apply(crd("things", "Thing", "watched.example.com"))
    body = {"apiVersion": "watched.example.com/v1", "kind": "Thing", "metadata": {"name": "x", "namespace": namespace}}
    applied = wait_for(lambda: is_applied(client, body))
    watches.put(applied)
    wait_for(lambda: found_in(watches, body))
    assert watches.snapshot().status("watched.example.com", "Thing").state is KindState.SYNCED
    client.delete(ObjectId.of(made), made["metadata"]["uid"])
    wait_for(lambda: watches.snapshot().status("watched.example.com", "Thing").state is KindState.ABSENT, 120)


def test_own_writes_are_seen_at_once_and_never_come_back(watching: Watching, client: Client, namespace: str) -> None:
    watches = watching(CONFIG_MAPS)
    for turn in range(20):
        made = client.apply(config_map(namespace, key=str(turn)))
        watches.put(made)
        assert found_in(watches, config_map(namespace))["data"] == {"key": str(turn)}
    id, uid = ObjectId.of(made), made["metadata"]["uid"]
    client.delete(id, uid)
    watches.drop(id, uid)
    marker = client.apply(config_map(namespace, "marker"))
    wait_for(lambda: found_in(watches, config_map(namespace, "marker")))
    # The watch has told of the deletion: the answer of an older write, which comes late, is history.
    watches.put(made)
    assert found_in(watches, config_map(namespace)) is None
    assert found_in(watches, config_map(namespace, "marker")) == marker


def test_forgotten_history_is_listed_again(
    control_plane: ControlPlane, watching: Watching, api: Api, namespace: str
) -> None:
    kept, deleted = config_map(namespace, "kept"), config_map(namespace, "deleted")
    for body in (kept, deleted):
        api.create(body)
    watches = watching(WatchedKind("", "ConfigMap", namespace=namespace))
    api.delete(deleted)
    wait_for(lambda: found_in(watches, deleted) is None)
    # What the watch does not tell of goes on.
    elsewhere = api.create(config_map("default", f"elsewhere-{namespace}"))
    api.delete(elsewhere)
    control_plane.requests()
    control_plane.forget_history()
    api.create(config_map(namespace, "new"))
    wait_for(lambda: found_in(watches, config_map(namespace, "new")))
    assert found_in(watches, kept)
    assert found_in(watches, deleted) is None
    asked = [
        each for each in control_plane.requests() if each.user_agent == "reconciler" and each.namespace == namespace
    ]
    assert "list" in {each.verb for each in asked}


def test_watch_that_ends_goes_on_without_another_list(
    control_plane: ControlPlane, watching: Watching, api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_WATCH_SECONDS", (1, 1))
    monkeypatch.setattr(watch_module, "_SETTLED_SECONDS", 0.1)
    control_plane.requests()
    watches = watching(WatchedKind("", "ConfigMap", namespace=namespace))
    asked: list[str] = []

    def has_resumed() -> bool:
        asked.extend(
            each.verb
            for each in control_plane.requests()
            if each.user_agent == "reconciler" and each.namespace == namespace
        )
        return asked.count("watch") >= 3

    wait_for(has_resumed)
    assert asked.count("list") == 1
    api.create(config_map(namespace))
    wait_for(lambda: found_in(watches, config_map(namespace)))


def test_right_lost_midway_makes_a_kind_unknown_and_keeps_it(
    control_plane: ControlPlane, watching: Watching, api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_WATCH_SECONDS", (2, 2))
    monkeypatch.setattr(watch_module, "_SETTLED_SECONDS", 0.1)
    body = config_map(namespace)
    api.create(body)
    binding = bind(api, namespace, "view")
    limited = Client(ClusterConnection(control_plane.service_account_kubeconfig(namespace, "default")))
    watches = watching(WatchedKind("", "ConfigMap", namespace=namespace), by=limited, stale=0.5)
    assert found_in(watches, body)
    api.delete(binding)
    wait_for(lambda: "cannot watch configmaps" in watches.snapshot().status("", "ConfigMap").why)
    assert watches.snapshot().status("", "ConfigMap").state is KindState.UNKNOWN
    assert found_in(watches, body)
    bind(api, namespace, "view")
    wait_for(lambda: watches.snapshot().status("", "ConfigMap").state is KindState.SYNCED)


def test_cluster_that_went_away_is_unknown_and_comes_back(
    control_plane: ControlPlane, watching: Watching, api: Api, namespace: str
) -> None:
    body = config_map(namespace)
    api.create(body)
    watches = watching(CONFIG_MAPS, WatchedKind("gone.example.com", "Gone"), stale=0.5)
    control_plane.stop_api_server()
    try:
        for kind in (("", "ConfigMap"), ("gone.example.com", "Gone")):
            wait_for(lambda kind=kind: watches.snapshot().status(*kind).state is KindState.UNKNOWN)
        assert found_in(watches, body)
    finally:
        control_plane.start_api_server()
        control_plane.wait_until_ready()
    wait_for(lambda: watches.snapshot().status("", "ConfigMap").state is KindState.SYNCED)
    wait_for(lambda: watches.snapshot().status("gone.example.com", "Gone").state is KindState.ABSENT)


def test_kinds_no_longer_wanted_are_unknown_and_their_threads_end(watching: Watching, connection: Any) -> None:
    watches = watching(CONFIG_MAPS, WatchedKind("", "Secret"), by=Client(replace(connection)))
    watches.watch([WatchedKind("", "Secret")])
    assert watches.snapshot().status("", "ConfigMap").state is KindState.UNKNOWN
    watches.close()
    wait_for(lambda: not [each for each in threading.enumerate() if each.name.startswith("watch ")])
