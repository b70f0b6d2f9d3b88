"""What git wants of a cluster: every object, and what is known of each service."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.settings import ClusterSettings
from reconciler.desired import limits
from reconciler.desired.on_cluster import ClusterCache, build_cluster_desired, hash_of
from reconciler.errors import NotUnderstood
from reconciler.manifests import ManifestCache, read_manifests
from reconciler.model import DesiredState, File, Origin, ReasonCode, Snapshot

TARGET = ClusterSettings.model_validate({"name": "prod", "kind": "kubernetes", "paths": ["prod"]})
CLUSTER = "apiVersion: reconciler/v1alpha1\nkind: Cluster\nmetadata: {name: prod}\n"
RUNTIME: dict[str, Any] = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "ServingRuntime",
    "metadata": {"name": "vllm", "annotations": {"openshift.io/display-name": "vLLM for all"}},
    "spec": {
        "supportedModelFormats": [{"name": "vLLM"}],
        "containers": [{"name": "kserve-container", "image": "vllm/vllm-openai:v0.32.0", "args": ["--port=8080"]}],
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "chat"},
    "spec": {"predictor": {"model": {"modelFormat": {"name": "vLLM"}, "runtime": "vllm", "args": ["--seed=1"]}}},
}


def desired_of(
    files: dict[str, str], cache: ClusterCache | None = None, read: ManifestCache | None = None
) -> DesiredState:
    every = {"prod/cluster.yaml": CLUSTER} | files
    snapshot = Snapshot("r", tuple(File(path, str(hash(text)), text.encode()) for path, text in every.items()))
    manifests = read_manifests(snapshot, read or ManifestCache(every_kind=True), TARGET.paths)
    return build_cluster_desired(manifests, TARGET, snapshot, cache)


def text(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False)


def test_objects_of_every_kind_are_wanted_with_their_lines():
    route = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": {}}
    found = desired_of({"prod/a.yaml": f"{text(route)}---\n{text(SERVICE)}", "prod/r.yaml": text(RUNTIME)})

    assert sorted(str(one.id) for one in found.objects) == [
        "HTTPRoute.gateway.networking.k8s.io r",
        "InferenceService.serving.kserve.io default/chat",
        "ServingRuntime.serving.kserve.io default/vllm",
    ]
    (service,) = [one for one in found.objects if one.service]
    assert service.origin == Origin("prod/a.yaml", 7)
    assert service.origin_of("spec.predictor.model.args.0") == Origin("prod/a.yaml", 18)
    assert service.origin_of("metadata.annotations.reconciler/x.y") == Origin("prod/a.yaml", 9)
    assert not any(note.code is ReasonCode.UNKNOWN_KIND for note in found.notes)
    assert found.prunable


def test_digest_follows_the_runtime_and_the_service_and_nothing_else():
    def digest(runtime: dict[str, Any] = RUNTIME, service: dict[str, Any] = SERVICE, **more: str) -> str:
        files = {"prod/r.yaml": text(runtime), "prod/s.yaml": text(service)} | more
        (one,) = desired_of(files).services
        return one.digest

    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    assert digest() == digest(**{"prod/c.yaml": other})
    changed = yaml.safe_load(text(RUNTIME))
    changed["spec"]["containers"][0]["args"].append("--max-num-seqs=4")
    assert digest(changed) != digest()
    edited = yaml.safe_load(text(SERVICE))
    edited["spec"]["predictor"]["model"]["args"] = ["--seed=2"]
    assert digest(service=edited) != digest()


def test_runtime_named_by_its_display_name_is_applied_by_its_name():
    named = yaml.safe_load(text(SERVICE))
    named["spec"]["predictor"]["model"]["runtime"] = "vLLM for all"
    found = desired_of({"prod/r.yaml": text(RUNTIME), "prod/s.yaml": text(named)})

    (service,) = [one for one in found.objects if one.service]
    assert service.body["spec"]["predictor"]["model"]["runtime"] == "vllm"
    assert found.services[0].warnings[0].code is ReasonCode.AMBIGUOUS_DISPLAY_NAME


def test_service_whose_runtime_is_on_the_cluster_alone_is_applied_without_a_spec():
    found = desired_of({"prod/s.yaml": text(SERVICE)})

    (service,) = found.services
    assert service.spec is None
    assert not service.problems
    assert service.digest
    assert [one.service for one in found.objects] == [service.id]


def test_service_that_kserve_would_refuse_is_not_applied():
    bad = yaml.safe_load(text(SERVICE))
    bad["spec"]["predictor"]["minReplicas"] = "many"
    found = desired_of({"prod/r.yaml": text(RUNTIME), "prod/s.yaml": text(bad)})

    assert found.services[0].problems
    assert not any(one.service for one in found.objects)


def test_object_that_stands_in_two_files_is_kept_as_it_is():
    twice = text({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}})
    found = desired_of({"prod/a.yaml": twice, "prod/b.yaml": twice})

    assert not found.objects
    assert {str(one.origin) for one in found.unreadable} == {"prod/a.yaml:1", "prod/b.yaml:1"}


def test_kinds_of_two_groups_with_one_name_are_no_duplicates():
    services = [
        {"apiVersion": each, "kind": "Service", "metadata": {"name": "a"}, "spec": {}}
        for each in ("v1", "serving.knative.dev/v1")
    ]
    found = desired_of({"prod/a.yaml": "---\n".join(map(text, services))})

    assert [str(one.id) for one in found.objects] == ["Service a", "Service.serving.knative.dev a"]
    assert not found.unreadable


def test_missing_cluster_file_makes_nothing_prunable():
    snapshot = Snapshot("r", (File("prod/a.yaml", "1", text(RUNTIME).encode()),))
    manifests = read_manifests(snapshot, ManifestCache(every_kind=True), TARGET.paths)

    assert not build_cluster_desired(manifests, TARGET, snapshot).prunable


def test_unchanged_documents_give_the_very_same_objects():
    cache, read = ClusterCache(), ManifestCache(every_kind=True)
    files = {"prod/r.yaml": text(RUNTIME), "prod/s.yaml": text(SERVICE)}
    first = desired_of(files, cache, read)
    second = desired_of(files | {"prod/c.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"}, cache, read)

    assert {id(one) for one in first.objects} <= {id(one) for one in second.objects}


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(TREES)
def test_hash_does_not_depend_on_the_order_of_keys(value: Any):
    def turned(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: turned(tree[key]) for key in reversed(tree)}
        return [turned(each) for each in tree] if isinstance(tree, list) else tree

    assert hash_of(value) == hash_of(turned(value))


def test_more_kinds_than_can_be_watched_refuse_the_revision(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MAX_KINDS", 3)

    def kinds(count: int) -> dict[str, str]:
        text = "apiVersion: example.com/v1\nkind: Made{0}\nmetadata: {{name: x}}\n"
        return {f"prod/{number}.yaml": text.format(number) for number in range(count)}

    assert len(desired_of(kinds(3)).objects) == 3
    with pytest.raises(NotUnderstood, match="objects of 4 kinds for prod, more than 3"):
        desired_of(kinds(4))
