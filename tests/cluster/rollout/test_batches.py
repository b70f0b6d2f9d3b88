"""A runtime's change, batch by batch: who moves when, and that a copy of a runtime moves nobody."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.rollout.additions import Additions, laid_on
from reconciler.cluster.rollout.batches import (
    COPY_OF,
    NO_BATCH,
    Batch,
    BatchSettings,
    Dependant,
    Progress,
    blast_radius,
    copy_name,
    copy_of,
    is_settled,
    lines_of,
    next_batch,
    unused_copies,
    uses,
    why_at_once,
)
from reconciler.kserve.cluster_objects import ClusterObjects
from reconciler.kserve.resolve import Resolved, resolve
from reconciler.model import ObjectId, ServiceId
from tests.cluster.rollout.test_drain import runtime, service

GPU = "nvidia.com/gpu"
DONE, RUNNING, FAILED = Progress.DONE, Progress.RUNNING, Progress.FAILED


def one(name: str, copy: str = "", progress: Progress = RUNNING, gpus: int = 1, **parts: Any) -> Dependant:
    return Dependant(ServiceId("ns", name), copy, progress=progress, devices=((GPU, gpus * 1000),), **parts)


def step(*dependants: Dependant, changed: bool = False, first: int = 1, then: int = 2) -> Batch:
    return next_batch(changed, dependants, BatchSettings(first, then))


def names(services: tuple[ServiceId, ...]) -> str:
    return " ".join(each.name for each in services)


# ---------------------------------------------------------------- KServe in small


@dataclass
class Cluster:
    """One runtime and its services: each moves as soon as its runtime differs from what it runs."""

    services: dict[ServiceId, Dependant]
    breaks: frozenset[ServiceId]
    changed: bool = True
    moves: list[set[ServiceId]] = field(default_factory=list)

    def do(self, batch: Batch) -> None:
        for each in batch.keep:
            self.services[each] = replace(self.services[each], copy="rt-1")
        if batch.change:
            self.changed = False
            free = {one for one, it in self.services.items() if not it.copy}
            self.moves.append(free)
            for each in free:
                self.services[each] = replace(self.services[each], progress=RUNNING)
        if batch.release:
            self.moves.append(set(batch.release))
        for each in batch.release:
            self.services[each] = replace(self.services[each], copy="", progress=RUNNING)

    def settle(self) -> None:
        """What moves gets where it goes. Only a service of ours falls back."""
        for one, it in self.services.items():
            if not self.changed and not it.copy and it.progress is RUNNING:
                failed = replace(it, progress=FAILED, copy="rt-1" if it.can_be_kept else "")
                self.services[one] = failed if one in self.breaks else replace(it, progress=DONE)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    flags = st.tuples(st.booleans(), st.sampled_from([False, False, False, True]), st.integers(1, 8))
    made = [
        one(str(i), gpus=gpus, is_ours=ours or i % 3 > 0, at_once="over several nodes" if wide else "", progress=DONE)
        for i, (ours, wide, gpus) in enumerate(draw(st.lists(flags, max_size=9)))
    ]
    services = {each.service: each for each in made}
    breaking = draw(st.lists(st.booleans(), min_size=len(made), max_size=len(made)))
    return Cluster(services, frozenset(each for each, breaks in zip(services, breaking, strict=True) if breaks))


def play(cluster: Cluster, settings: BatchSettings) -> Batch:
    """Passes until nothing happens any more. One looks while services move, one when they have moved."""
    for _ in range(60):
        batch = next_batch(cluster.changed, list(cluster.services.values()), settings)
        if not (batch.keep or batch.change or batch.release):
            before = dict(cluster.services)
            cluster.settle()
            if before == cluster.services:
                return batch
        cluster.do(batch)
    raise AssertionError("it never comes to rest")


sizes = st.builds(BatchSettings, st.integers(1, 3), st.integers(1, 4))


@given(clusters(), sizes)
def test_all_move_or_those_that_fail_keep_the_others_where_they_are(cluster: Cluster, settings: BatchSettings) -> None:
    last = play(cluster, settings)
    assert not cluster.changed
    failed = {each for each, it in cluster.services.items() if it.progress is FAILED and it.is_ours}
    on_copy = {each for each, it in cluster.services.items() if it.copy and it.progress is not FAILED}
    assert set(last.waiting) == on_copy
    assert set(last.stopped_by) == (failed if on_copy else set())
    assert bool(on_copy) <= bool(failed)


@given(clusters(), sizes)
def test_no_batch_is_larger_than_allowed_and_the_first_is_a_test(cluster: Cluster, settings: BatchSettings) -> None:
    movable = {each for each, it in cluster.services.items() if it.can_be_kept}
    play(cluster, settings)
    at_change, *batches = cluster.moves
    if len(cluster.services) > 1:
        assert not at_change & movable
    tested = any(it.is_ours for one, it in cluster.services.items() if one in at_change)
    for index, batch in enumerate(batches):
        assert len(batch) <= (settings.first if not index and not tested else settings.then)
        assert not any(earlier & cluster.breaks & {*movable} for earlier in batches[:index])


@given(clusters(), sizes)
def test_each_service_moves_once(cluster: Cluster, settings: BatchSettings) -> None:
    play(cluster, settings)
    moved = [each for batch in cluster.moves for each in batch]
    assert len(moved) == len(set(moved))


# ---------------------------------------------------------------- a copy moves nobody

_CASES = Path(__file__).parents[2] / "kserve" / "cases"


def _with_runtime() -> list[Any]:
    found = []
    for path in sorted(_CASES.glob("*.yaml")):
        case = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
        service: Any = next((each for each in case["input"] if each["kind"] == "InferenceService"), {})
        if "pod" in case and "model" in service.get("spec", {}).get("predictor", {}) and not why_at_once(service):
            found.append(pytest.param(case["input"], id=path.stem))
    return found


def seen_by(documents: list[Any], name: str) -> Resolved:
    body = next(each for each in documents if each["kind"] == "InferenceService" and each["metadata"]["name"] == name)
    return resolve(body, ClusterObjects.build(documents, default_mode="Standard"))


@pytest.mark.parametrize("documents", _with_runtime())
def test_a_recorded_service_gets_the_same_pod_from_a_copy(documents: list[Any]) -> None:
    (name, *_) = [each["metadata"]["name"] for each in documents if each["kind"] == "InferenceService"]
    before = seen_by(documents, name)
    assert before.runtime is not None
    original = next(
        each
        for each in documents
        if each["kind"] == before.runtime.kind and each["metadata"]["name"] == before.runtime.name
    )
    copy = copy_of(original)
    moved = [
        laid_on(each, Additions(runtime=copy["metadata"]["name"])) if each["metadata"]["name"] == name else each
        for each in documents
    ]
    beside, after = seen_by([*documents, copy], name), seen_by([*moved, copy], name)
    assert after.runtime
    assert after.runtime.name == copy["metadata"]["name"]
    assert after.pod == before.pod
    # And nobody else comes to it.
    assert beside.runtime == before.runtime
    assert not ClusterObjects.build([*documents, copy]).issues


def test_a_copy_says_what_kserve_knows_by_the_name() -> None:
    original = runtime(args=["--x"])
    original["metadata"] |= {"name": "kserve-vllmserver", "labels": {"opendatahub.io/dashboard": "true"}}
    original["metadata"]["annotations"] = {"openshift.io/display-name": "vLLM"}
    copy = copy_of(original)
    assert copy["metadata"]["annotations"] == {"serving.kserve.io/server-type": "vllmserver"}
    assert copy["metadata"]["labels"] == {COPY_OF: "kserve-vllmserver"}
    assert copy["spec"]["supportedModelFormats"] == [{"name": "vLLM", "autoSelect": False}]
    assert copy["spec"]["containers"] == original["spec"]["containers"]


@given(st.text("abc-.", min_size=1, max_size=253).filter(lambda text: text[0].isalpha()))
def test_the_name_of_a_copy_can_be_a_label(name: str) -> None:
    found = copy_name(name, {"a": 1})
    assert len(found) <= 63
    assert found == copy_name(name, {"a": 1}) != copy_name(name, {"a": 2})


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize(
    ("rule", "batch", "expected"),
    [
        ("alone, it just changes", step(one("a"), changed=True), ("", True, "", "")),
        ("two are kept before it changes", step(one("a"), one("b"), changed=True), ("a b", False, "", "")),
        ("not before KServe sees it", step(one("a", "c", is_settled=False), one("b", "c"), changed=True), "- F - ab"),
        ("then it changes", step(one("a", "c"), one("b", "c"), changed=True), ("", True, "", "a b")),
        ("the smallest goes first", step(one("a", "c", gpus=8), one("b", "c")), ("", False, "b", "a")),
        ("what serves goes before what does not", step(one("a", "c", serves=False), one("b", "c")), "- F b a"),
        ("nobody follows before it is proven", step(one("a"), one("b", "c")), ("", False, "", "b")),
        ("then two at once", step(one("a", "", DONE), *(one(n, "c") for n in "bcd")), ("", False, "b c", "d")),
        (
            "over several nodes none is kept",
            step(one("a", at_once="over several nodes"), one("b", "c"), changed=True),
            "- T - b",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_comes_next(rule: str, batch: Batch, expected: tuple[str, bool, str, str] | str) -> None:
    if isinstance(expected, str):
        _, change, release, waiting = expected.split()
        expected = ("", change == "T", release.strip("-"), " ".join(waiting))
    assert (names(batch.keep), batch.change, names(batch.release), names(batch.waiting)) == expected, rule


def test_a_failure_stops_the_others_and_is_named() -> None:
    batch = step(one("a", "c", FAILED), one("b", "c"), one("c", "c"))
    assert names(batch.stopped_by) == "a"
    assert batch.text == "stopped: ns/a failed with the new runtime; 2 services stay on the old one"


def test_a_new_service_that_fails_says_nothing_of_the_runtime() -> None:
    batch = step(one("a", "", FAILED, is_proven=False), one("b", "c"))
    assert names(batch.release) == "b"


def test_who_falls_back_alone_is_no_batch() -> None:
    assert step(one("a", "c", FAILED), one("b", "", DONE)) == NO_BATCH


def test_the_blast_radius_counts_services_and_devices() -> None:
    wide, foreign = one("a", at_once="over several nodes", gpus=16), one("b", is_ours=False)
    text = blast_radius([wide, foreign, one("c", "copy", gpus=8)])
    assert text == "3 services, 25 nvidia.com/gpu; at once: ns/a (over several nodes), ns/b (not in git)"
    assert blast_radius([]) == "no service uses it"
    assert lines_of([replace(foreign, way="Recreate")]) == ["ns/b: 1 nvidia.com/gpu; Recreate; not in git"]


def test_who_cannot_name_a_copy_rolls_at_once() -> None:
    assert why_at_once(service()) == ""
    assert why_at_once(service(workerSpec={})) == "over several nodes"
    assert why_at_once({"spec": {"predictor": {"huggingface": {}}}}).startswith("it has no predictor.model")


def live(named: str = "vllm", status: dict[str, Any] | None = None, namespace: str = "default") -> dict[str, Any]:
    body = service({"runtime": named} if named else {})
    if not named:
        del body["spec"]["predictor"]["model"]["runtime"]
    body["metadata"]["namespace"] = namespace
    return {**body, **({"status": status} if status else {})}


def test_a_service_uses_the_runtime_that_kserve_says() -> None:
    own = ObjectId("serving.kserve.io", "ServingRuntime", "default", "vllm")
    shared = replace(own, kind="ClusterServingRuntime", namespace="")
    assert uses(live("", {"servingRuntimeName": "vllm"}), own, ())
    assert uses(live(), own, ())
    assert uses(live("vllm-1", {"servingRuntimeName": "vllm-1"}), own, ["vllm-1"])
    assert not uses(live(namespace="other"), own, ())
    assert not uses(live("", {"servingRuntimeName": "vllm"}), shared, ())
    assert uses(live("", {"clusterServingRuntimeName": "vllm"}), shared, ())


def test_a_service_is_settled_once_kserve_runs_what_it_names() -> None:
    assert not is_settled(live("vllm-1", {"servingRuntimeName": "vllm"}))
    assert is_settled(live("vllm-1", {"servingRuntimeName": "vllm-1"}))
    assert is_settled(live("", {"servingRuntimeName": "vllm"}))


def test_copies_that_nobody_needs_are_unused() -> None:
    copies = [copy_of(runtime(args=[each])) for each in "abcd"]
    first, second, third, fourth = (each["metadata"]["name"] for each in copies)
    services = [live(first), live("vllm", {"servingRuntimeName": second})]
    assert [each.name for each in unused_copies(copies, services, [third])] == [fourth]
