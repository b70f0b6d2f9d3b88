"""What is decided about rollouts, carried out on a real API server with KServe as it was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Any

import pytest

from reconciler.cluster.objects.ignore import Rules, applied_body
from reconciler.cluster.objects.owners import taken_over
from reconciler.cluster.rollout.additions import Additions, laid_on
from reconciler.cluster.rollout.batches import (
    Batch,
    BatchSettings,
    Dependant,
    Progress,
    copy_of,
    is_settled,
    named_runtime,
    next_batch,
    unused_copies,
    uses,
)
from reconciler.cluster.rollout.deletion import Deleted, DeleteService, Leaving, SetStopAnnotation, next_step
from reconciler.cluster.rollout.drain import find_drain
from reconciler.cluster.rollout.gpus import need_of, read_room
from reconciler.cluster.rollout.strategy import ServiceChange, Way, choose
from reconciler.model import ObjectId, ServiceId
from tests.cluster.rollout.test_drain import IMAGE, desired, merged, runtime, server_of, service
from tests.cluster.rollout.test_drain import SETTINGS as DRAIN
from tests.controlplane.api import Api, wait_for
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kubelet import GONE_AFTER

pytestmark = pytest.mark.cluster

BETA, ALPHA = "serving.kserve.io/v1beta1", "serving.kserve.io/v1alpha1"
GPU = "nvidia.com/gpu"
NEWER = "vllm/vllm-openai:v0.21.0"


def made(body: dict[str, Any], namespace: str, name: str = "") -> dict[str, Any]:
    metadata = {**body["metadata"], "namespace": namespace, **({"name": name} if name else {})}
    return {**body, "metadata": metadata}


def with_gpus(gpus: int, **model: Any) -> dict[str, Any]:
    amounts = {"cpu": "1", "memory": "1Gi", GPU: str(gpus)}
    return dict(service({"resources": {"limits": amounts, "requests": amounts}, **model}))


def pods_of(api: Api, namespace: str, name: str) -> list[dict[str, Any]]:
    return api.list("v1", "Pod", namespace, f"serving.kserve.io/inferenceservice={name}")


def staying(pods: list[dict[str, Any]]) -> set[str]:
    return {each["metadata"]["uid"] for each in pods if not each["metadata"].get("deletionTimestamp")}


def images(api: Api, namespace: str, name: str) -> list[str]:
    left = [each for each in pods_of(api, namespace, name) if not each["metadata"].get("deletionTimestamp")]
    return [each["spec"]["containers"][0]["image"] for each in left if is_ready(each)]


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


# ---------------------------------------------------------------- a runtime's change


class Rollout:
    """Passes over one runtime and its services, each of which does what `next_batch` says."""

    def __init__(self, api: Api, namespace: str, names: tuple[str, ...]) -> None:
        self.api, self.namespace = api, namespace
        self.git = {name: made(service(), namespace, name) for name in names}
        self.before = made(runtime(), namespace)
        self.after = made(runtime(NEWER), namespace)
        self.done: list[Batch] = []

    def start(self) -> None:
        """All services run with the old runtime."""
        self.api.create(self.before)
        for body in self.git.values():
            self.api.create(body)
        wait_for(lambda: self.all_run(IMAGE), what="all run")
        self.old = self.pods()

    def all_run(self, image: str) -> bool:
        return all(images(self.api, self.namespace, name) == [image] for name in self.git)

    def pods(self) -> dict[str, set[str]]:
        return {name: staying(pods_of(self.api, self.namespace, name)) for name in self.git}

    def copies(self) -> list[dict[str, Any]]:
        return self.api.list(ALPHA, "ServingRuntime", self.namespace, "reconciler/copy-of=vllm")

    def dependants(self) -> list[Dependant]:
        known = [each["metadata"]["name"] for each in self.copies()]
        live = [self.api.get(body) for body in self.git.values()]
        return [self.dependant(each, known) for each in live if uses(each, ObjectId.of(self.before), known)]

    def dependant(self, live: dict[str, Any], copies: list[str]) -> Dependant:
        name = live["metadata"]["name"]
        now = images(self.api, self.namespace, name)
        named = named_runtime(live)
        return Dependant(
            ServiceId(self.namespace, name),
            copy=named if named in copies else "",
            is_settled=is_settled(live),
            serves=bool(now),
            progress=Progress.DONE if now == [NEWER] else Progress.RUNNING,
        )

    def once(self) -> Batch:
        live = self.api.get(self.before)
        batch = next_batch(live["spec"] != self.after["spec"], self.dependants(), BatchSettings(1, 2))
        if batch.keep:
            copy = dict(copy_of(live))
            self.api.apply(copy)
            for each in batch.keep:
                self.api.apply(
                    dict(laid_on(self.git[each.name], Additions(runtime=copy["metadata"]["name"]))), force=True
                )
        if batch.change:
            self.api.apply(self.after, force=True)
        for each in batch.release:
            self.api.apply(self.git[each.name], force=True)
        if batch.keep or batch.change or batch.release:
            self.done.append(batch)
        return batch


@pytest.mark.usefixtures("kserve")
def test_a_runtime_changes_under_services_that_move_in_batches(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node()
    rollout = Rollout(api, namespace, ("a", "b", "c", "d"))
    rollout.start()
    wait_for(lambda: rollout.once().change, what="all are kept, and the runtime changes")
    wait_for(lambda: rollout.once().release, what="the first moves")
    # Nobody has moved for the sake of the copy or of the runtime.
    moved = {name for name, pods in rollout.pods().items() if pods != rollout.old[name]}
    assert moved <= {"a"}
    wait_for(lambda: not (rollout.once().waiting or rollout.once().text), what="all have moved", seconds=60)
    assert [len(each.release) for each in rollout.done if each.release] == [1, 2, 1]
    wait_for(lambda: rollout.all_run(NEWER), what="the last has moved as well")
    live = [api.get(body) for body in rollout.git.values()]
    assert len(unused_copies(rollout.copies(), live, ())) == 1


# ---------------------------------------------------------------- strategy


def change_of(api: Api, namespace: str, body: dict[str, Any], of: dict[str, Any]) -> ServiceChange:
    return ServiceChange((need_of(merged(body, of)),), tuple(pods_of(api, namespace, "tiny")), replicas=1)


@pytest.mark.usefixtures("kserve")
@pytest.mark.parametrize("follows_advice", [True, False])
def test_a_full_node_is_rolled_out_only_with_the_strategy_that_is_chosen(
    api: Api, namespace: str, add_node: AddNode, follows_advice: bool
) -> None:
    add_node(8)
    of = made(runtime(), namespace)
    api.create(of)
    old, new = (made(with_gpus(8, args=args), namespace) for args in (["--x=1"], ["--x=2"]))
    api.create(old)
    wait_for(lambda: images(api, namespace, "tiny"), what="the old version runs")
    before = staying(pods_of(api, namespace, "tiny"))
    room = read_room(api.list("v1", "Node"), api.list("v1", "Pod"))
    transition = choose(change_of(api, namespace, new, of), room)
    assert transition.way is Way.RECREATE
    api.apply(dict(laid_on(new, Additions(strategy=transition.strategy))) if follows_advice else new, force=True)
    if follows_advice:
        wait_for(lambda: images(api, namespace, "tiny") and not staying(pods_of(api, namespace, "tiny")) & before)
    else:
        waiting = wait_for(lambda: [each for each in pods_of(api, namespace, "tiny") if _is_unschedulable(each)])
        assert staying(waiting).isdisjoint(before)
        assert before < staying(pods_of(api, namespace, "tiny"))


def _is_unschedulable(pod: Mapping[str, Any]) -> bool:
    return any(each.get("reason") == "Unschedulable" for each in pod.get("status", {}).get("conditions", ()))


# ---------------------------------------------------------------- drain and deletion


@pytest.mark.usefixtures("kserve")
def test_drain_settings_reach_the_pod(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node()
    of, body = made(runtime(), namespace), made(service(), namespace)
    api.create(of)
    found = find_drain(desired(body), server_of(body, of), DRAIN)
    api.apply(dict(laid_on(body, found.additions)))
    wait_for(lambda: images(api, namespace, "tiny"))
    (pod,) = pods_of(api, namespace, "tiny")
    assert pod["spec"]["terminationGracePeriodSeconds"] == 150
    assert pod["spec"]["containers"][0]["args"] == ["--shutdown-timeout=120"]
    assert pod["spec"]["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 15}}}


@pytest.mark.usefixtures("kserve")
def test_a_deleted_service_is_stopped_and_its_pods_drain_before_it_goes(
    api: Api, namespace: str, add_node: AddNode
) -> None:
    add_node()
    api.create(made(runtime(), namespace))
    body = made(service(), namespace)
    body["spec"]["predictor"]["annotations"] = {GONE_AFTER: "2s"}
    uid = api.create(body)["metadata"]["uid"]
    wait_for(lambda: images(api, namespace, "tiny"))
    steps: list[str] = []

    def once() -> bool:
        live, pods = api.find(body), pods_of(api, namespace, "tiny")
        step = next_step(Leaving(live, pods, uid, time()))
        if not steps or steps[-1] != type(step).__name__:
            steps.append(type(step).__name__)
        if isinstance(step, SetStopAnnotation):
            api.patch(body, dict(step.patch))
        if isinstance(step, DeleteService):
            assert not pods
            api.delete(body, preconditions={"uid": step.uid})
        return isinstance(step, Deleted)

    wait_for(once, what="it is gone")
    assert steps[:3] == ["SetStopAnnotation", "AwaitPods", "DeleteService"]
    assert steps[-1] == "Deleted"


# ---------------------------------------------------------------- metadata


@pytest.mark.usefixtures("kserve")
def test_a_label_of_a_service_restarts_its_pods(api: Api, namespace: str, add_node: AddNode) -> None:
    """Which is why nothing of ours may be written to the metadata of one that runs."""
    add_node()
    api.create(made(runtime(), namespace))
    body = made(service(), namespace)
    api.create(body)
    wait_for(lambda: images(api, namespace, "tiny"))
    before = staying(pods_of(api, namespace, "tiny"))
    api.patch(body, {"metadata": {"labels": {"applyset.kubernetes.io/part-of": "applyset-x-v1"}}})
    wait_for(lambda: not staying(pods_of(api, namespace, "tiny")) & before, what="its pods are other ones")


@pytest.mark.usefixtures("kserve")
def test_a_service_of_argo_cd_is_taken_over_with_its_pods(api: Api, namespace: str, add_node: AddNode) -> None:
    add_node()
    api.create(made(runtime(), namespace))
    body = made(service(), namespace)
    mark = {"argocd.argoproj.io/tracking-id": "models:serving.kserve.io/InferenceService:x/tiny"}
    metadata = body["metadata"] | {"annotations": body["metadata"]["annotations"] | mark}
    there = api.apply(body | {"metadata": metadata}, manager="argocd-controller")
    wait_for(lambda: images(api, namespace, "tiny"))
    before = staying(pods_of(api, namespace, "tiny"))
    there = api.patch(body, {"metadata": {"managedFields": taken_over(api.get(body))}})
    api.apply(dict(applied_body(desired(body), there, Rules(applyset="applyset-x-v1"))), manager="reconciler")
    generation = api.apply(made(service(minReplicas=2), namespace), manager="reconciler")["metadata"]["generation"]
    wait_for(lambda: len(images(api, namespace, "tiny")) == 2, what=f"generation {generation} has come to the pods")
    assert before < staying(pods_of(api, namespace, "tiny"))
