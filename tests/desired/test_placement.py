"""Which services a host takes by its labels and taints, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.config.settings import EngineSettings, HostSettings
from reconciler.desired.serving_options import node_of
from reconciler.manifests import Manifests, read_manifests
from reconciler.model import Origin
from reconciler.preview import on_cluster
from reconciler.preview.on_host import render_on, validate_on
from tests.desired.test_desired import HOST, RUNTIME, SERVICE, TARGET, build, codes, one, snapshot, with_predictor

GPU_TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}


def host(**settings: Any) -> HostSettings:
    given = TARGET.model_dump(exclude_unset=True) | settings
    return HostSettings.model_validate(given)


def selecting(**labels: str) -> str:
    return with_predictor("nodeSelector:", *(f"  {key}: {value}" for key, value in labels.items()))


def test_service_whose_labels_the_host_has_runs_as_ever() -> None:
    service = one(selecting(disk="ssd"), target=host(labels={"disk": "ssd"}))
    assert (service.not_here, service.replicas, service.warnings) == ((), 1, ())


def test_service_for_other_hosts_wants_nothing_here_and_names_the_line() -> None:
    service = one(selecting(disk="ssd"))
    (why,) = service.not_here
    assert str(why) == "hosts/box/chat.yaml:15: nodeSelector requires disk=ssd; this host has no label disk"
    assert (why.code, service.replicas, service.spec is None) == ("NotForThisHost", 0, False)


def test_rule_of_the_runtime_is_blamed_on_the_line_of_the_runtime() -> None:
    runtime = RUNTIME + "  nodeSelector:\n    disk: ssd\n    zone: a\n"
    service = one(selecting(zone="b"), {"runtimes/vllm.yaml": runtime}, host(labels={"zone": "a"}))
    assert {why.message.split(";")[0]: why.origin for why in service.not_here} == {
        "nodeSelector requires disk=ssd": Origin("runtimes/vllm.yaml", 18),
        "nodeSelector requires zone=b": Origin("hosts/box/chat.yaml", 15),
    }


def test_runtimes_tolerations_apply_unless_the_service_has_its_own() -> None:
    runtime = RUNTIME + "  tolerations:\n  - {key: nvidia.com/gpu, operator: Exists}\n"
    tainted = host(taints=[GPU_TAINT])
    assert codes(one(SERVICE, target=tainted).not_here) == ["NotForThisHost"]
    assert one(SERVICE, {"runtimes/vllm.yaml": runtime}, tainted).not_here == ()
    own = with_predictor("tolerations:", "- {key: other, operator: Exists}")
    assert codes(one(own, {"runtimes/vllm.yaml": runtime}, tainted).not_here) == ["NotForThisHost"]


def test_documented_pair_runs_on_a_host_with_the_usual_taint_of_gpu_nodes() -> None:
    pair = (Path(__file__).parents[1] / "data" / "example_pair.yaml").read_text()
    engine = EngineSettings(image="quay.io/modh/vllm*", python=Path("/p"))
    files = {"hosts/box/pair.yaml": pair}
    (tolerant,) = build(files, host(taints=[GPU_TAINT | {"value": "present"}], engines=(engine,))).services
    assert tolerant.not_here == ()
    (repelled,) = build(files, host(taints=[{"key": "dedicated", "effect": "NoExecute"}], engines=(engine,))).services
    assert [why.message for why in repelled.not_here] == ["no toleration names this host's taint dedicated:NoExecute"]


def test_what_this_host_lacks_is_no_fault_of_a_service_for_others() -> None:
    image = one(selecting(disk="ssd").replace("file:///models", "pvc://nowhere"), target=host(engines=[]))
    assert (image.blocked, image.problems) == ((), ())


def test_impossible_affinity_makes_a_service_unusable_and_moves_nothing() -> None:
    rule = "{matchExpressions: [{key: disk, operator: Like, values: [ssd]}]}"
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    service = one(with_predictor(f"affinity: {{nodeAffinity: {{{required}: {{nodeSelectorTerms: [{rule}]}}}}}}"))
    assert (service.spec, service.not_here) == (None, ())
    assert codes(service.problems) == ["InvalidPlacement"]
    assert "unknown operator Like" in service.problems[0].message


def test_what_chooses_among_hosts_is_said_with_its_line_and_moves_nothing() -> None:
    lines = (
        "topologySpreadConstraints:",
        "- {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}",
        "affinity:",
        "  podAntiAffinity:",
        "    requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone}]",
        "tolerations:",
        "- {key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 9}",
    )
    service = one(with_predictor(*lines))
    assert service.not_here == ()
    assert sorted((why.code, why.origin.line if why.origin else 0) for why in service.warnings) == [
        ("NoEffect", 14),
        ("NoEffect", 17),
        ("NoEffect", 20),
    ]


# ---------------------------------------------------------------- labels of a host


def test_every_host_has_the_labels_of_every_node() -> None:
    labels = node_of(host()).labels
    assert (labels["kubernetes.io/hostname"], labels["kubernetes.io/os"]) == ("box", "linux")
    assert labels["kubernetes.io/arch"] in ("amd64", "arm64")


@pytest.mark.parametrize(("gpus", "present"), [("auto", True), (["GPU-1"], True), ([], False)])
def test_host_is_labelled_with_gpus_unless_its_config_has_none(gpus: Any, present: bool) -> None:
    assert ("nvidia.com/gpu.present" in node_of(host(gpus=gpus)).labels) is present


def test_config_s_own_label_wins() -> None:
    node = node_of(host(labels={"kubernetes.io/hostname": "rack-7", "nvidia.com/gpu.present": "false"}))
    assert (node.labels["kubernetes.io/hostname"], node.labels["nvidia.com/gpu.present"]) == ("rack-7", "false")
    assert node.name == "box"


@pytest.mark.parametrize(
    "settings",
    [
        {"labels": {"a b": "c"}},
        {"labels": {"a": "b c"}},
        {"labels": {"gpu": True}},
        {"labels": {"Upper.example/a": "b"}},
        {"taints": [{"key": "a", "effect": "Never"}]},
        {"taints": [{"effect": "NoSchedule"}]},
        {"taints": [{"key": "a", "effect": "NoSchedule", "operator": "Exists"}]},
    ],
)
def test_labels_and_taints_that_kubernetes_would_refuse_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        host(**settings)


# ---------------------------------------------------------------- validate and render


def read(text: str, file: str = "hosts/box/chat.yaml") -> Manifests:
    return read_manifests(snapshot({file: text}))


def test_validate_says_what_is_for_other_hosts_and_calls_it_valid() -> None:
    document = validate_on(read(selecting(disk="ssd")), TARGET)
    assert document["valid"]
    assert [found["message"] for found in document["warnings"] if found["line"] == 15] == [
        "not for this host: nodeSelector requires disk=ssd; this host has no label disk"
    ]


def test_render_says_what_is_for_other_hosts(tmp_path: Path) -> None:
    (service,) = render_on(read(selecting(disk="ssd")), TARGET, tmp_path)["services"]
    assert [found["reason"] for found in service["host"]["notForThisHost"]] == ["NotForThisHost"]
    assert service["host"]["replicas"] == 0


# ---------------------------------------------------------------- host.yaml


def closed(text: str = "spec: {drain: true}") -> str:
    return HOST.replace("spec: {}", text)


def drains(text: str, **more: Any) -> tuple[str | None, bool]:
    """Where the drain is written, and whether git can tell at all."""
    state = build({"hosts/box/host.yaml": text}, **more)
    return (str(state.drain.origin) if state.drain else None), state.host_known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOST, None),
        (closed(), "hosts/box/host.yaml:4"),
        (closed("spec:\n  # until the fan is there\n  unschedulable: true\n  drain: true"), "hosts/box/host.yaml:7"),
        (closed("spec: {drain: false}"), None),
        (closed("spec: {drain: }"), None),
        (closed("spec: {unschedulable: true}"), None),
        (closed("spec:"), None),
        (HOST.replace("spec: {}\n", ""), None),
        (HOST.replace("{name: box}", "{name: box, labels: {a: b}, annotations: {c: d}}"), None),
    ],
)
def test_host_is_closed_by_one_word_and_by_no_other(text: str, expected: str | None) -> None:
    assert drains(text) == (expected, True)


BROKEN = [
    ("spec: {unschedulabel: true}", 4, "unknown field spec.unschedulabel; did you mean unschedulable?"),
    ("spec: {}\nunschedulable: true", 5, "unknown field unschedulable; write it under spec"),
    ("spec: {drian: true}", 4, "unknown field spec.drian; did you mean drain?"),
    ("spec: {}\ndrain: true", 5, "unknown field drain; write it under spec"),
    ("spec: {paused: true}", 4, "unknown field spec.paused; there are drain, unschedulable"),
    ('spec: {drain: "yes"}', 4, "spec.drain must be true or false, without quotes"),
    ('spec: {unschedulable: "true"}', 4, "spec.unschedulable must be true or false, without quotes"),
    ("spec: {unschedulable: 1}", 4, "spec.unschedulable must be true or false, without quotes"),
    ("spec: [unschedulable]", 4, "spec must be a mapping"),
]


@pytest.mark.parametrize(("text", "line", "message"), BROKEN)
def test_host_yaml_that_cannot_be_followed_is_named_with_its_line(text: str, line: int, message: str) -> None:
    state = build({"hosts/box/host.yaml": closed(text)})
    assert (state.drain, state.host_known, state.prunable) == (None, False, False)
    assert [(str(why.origin), why.message) for why in state.unreadable] == [(f"hosts/box/host.yaml:{line}", message)]


@pytest.mark.parametrize(
    "text", ["apiVersion: [broken\n", f"{closed()}---\nkind: [\n", f"{closed()}---\n{HOST}", "# nothing\n"]
)
def test_doubtful_host_yaml_leaves_it_unknown_whether_the_host_is_closed(text: str) -> None:
    assert drains(text) == (None, False)


def test_missing_folder_leaves_it_unknown_whether_the_host_is_closed() -> None:
    assert drains(closed(), missing=("hosts/box",)) == (None, False)


def test_unschedulable_host_starts_nothing_new_and_warns_once() -> None:
    state = build({"hosts/box/host.yaml": closed("spec:\n  unschedulable: true")})
    assert state.drain is None
    assert state.unschedulable
    assert (state.unschedulable.code, str(state.unschedulable.origin)) == ("Cordoned", "hosts/box/host.yaml:5")
    (note,) = state.notes
    assert (note.code, str(note.origin)) == ("NoLongerDrains", "hosts/box/host.yaml:5")
    assert "add `drain: true` to drain it" in note.message
    (warning,) = on_cluster.validate(read(closed("spec: {unschedulable: true}"), "hosts/box/host.yaml"))["warnings"]
    assert (warning["line"], warning["message"]) == (4, note.message)


@pytest.mark.parametrize("drain", ["true", "false"])
def test_unschedulable_host_that_says_whether_it_drains_warns_of_nothing(drain: str) -> None:
    state = build({"hosts/box/host.yaml": closed(f"spec: {{unschedulable: true, drain: {drain}}}")})
    assert state.unschedulable
    assert bool(state.drain) is (drain == "true")
    assert not state.notes


def test_host_document_elsewhere_closes_nothing_and_is_told() -> None:
    state = build({"runtimes/host.yaml": closed()})
    assert (state.drain, state.host_known) == (None, True)
    assert [why.origin for why in state.notes if why.code == "HostDocumentIgnored"] == [Origin("runtimes/host.yaml", 4)]


def test_validate_refuses_host_yaml_with_unknown_word_also_without_target() -> None:
    assert on_cluster.validate(read(SERVICE))["valid"]
    broken = read(closed("spec: {unschedulabel: true}"), "hosts/box/host.yaml")
    (error,) = on_cluster.validate(broken)["errors"]
    assert (error["file"], error["line"]) == ("hosts/box/host.yaml", 4)
    assert not broken.illegible


def test_broken_host_yaml_leaves_services_as_git_says() -> None:
    files = {"hosts/box/host.yaml": closed("spec: {x: 1}"), "hosts/box/chat.yaml": SERVICE}
    (service,) = build(files).services
    assert (service.problems, service.replicas) == ((), 1)
