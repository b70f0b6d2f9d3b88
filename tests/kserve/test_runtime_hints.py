"""Hints for a service without a runtime: which one is near, and what keeps it from being used."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.kserve.resolve import ClusterObjects, resolve

FORMAT = {"name": "vLLM", "autoSelect": True}
CONTAINER = {"name": "kserve-container", "image": "example.com/vllm:v1"}


def runtime(
    name: str = "vllm", namespace: str = "", formats: tuple[Any, ...] = (FORMAT,), **spec: Any
) -> dict[str, Any]:
    kind = "ServingRuntime" if namespace else "ClusterServingRuntime"
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    spec = {"containers": [CONTAINER], "supportedModelFormats": list(formats), **spec}
    return {"apiVersion": "serving.kserve.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def said(*runtimes: dict[str, Any], templated: tuple[dict[str, Any], ...] = (), **model: Any) -> str:
    """What is said of a service of namespace `team`, without KServe's own event."""
    places = [f"r.yaml:{number}" for number, _ in enumerate(runtimes, 1)]
    held = [(each, "t.yaml:5", "Template rhoai") for each in templated]
    world = ClusterObjects.build(runtimes, default_namespace="team", places=places, templated=held)
    model = {"modelFormat": {"name": "vLLM"}, "storageUri": "pvc://models/tiny", **model}
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "tiny", "namespace": "team"},
        "spec": {"predictor": {"model": model}},
    }
    (issue,) = resolve(service, world).errors
    assert issue.reason in ("RuntimeNotRecognized", "NoSupportingRuntime", "RuntimeDisabled")
    return issue.message.partition("; ")[2] or issue.message


@pytest.mark.parametrize(
    ("runtimes", "told"),
    [
        ([runtime("vllm-cuda")], "did you mean ClusterServingRuntime vllm-cuda (r.yaml:1)?"),
        ([runtime("VLLM", "team")], "did you mean ServingRuntime VLLM (r.yaml:1)?"),
        (
            [runtime("vllm", "other")],
            "ServingRuntime vllm (r.yaml:1) is in namespace other, and a service of team does not see it: "
            "put it into namespace team, or make it a ClusterServingRuntime",
        ),
        ([runtime("triton"), runtime("mlserver")], "it may use mlserver, triton"),
        ([], "the manifests hold no ServingRuntime for its namespace, and no ClusterServingRuntime: add one"),
    ],
)
def test_unknown_runtime_names_what_is_near(runtimes: list[dict[str, Any]], told: str) -> None:
    assert said(*runtimes, runtime="vllm") == told


def test_unknown_runtime_names_the_template_that_holds_it() -> None:
    told = (
        "Template rhoai holds ServingRuntime vllm (t.yaml:5), and is not rendered here: commit what `oc process` prints"
    )
    held = runtime("vllm", "any")
    assert said(templated=(held,), runtime="vllm") == told
    assert said(templated=(held,)) == told
    named = said(templated=(runtime("${NAME}", "any"),), runtime="vllm")
    assert named.endswith("add one; " + told.replace("ServingRuntime vllm", "ServingRuntime ${NAME}"))


def test_display_name_of_several_runtimes_names_them() -> None:
    twins = [runtime("a"), runtime("b")]
    for each in twins:
        each["metadata"]["annotations"] = {"openshift.io/display-name": "vLLM"}
    assert said(*twins, runtime="vLLM") == "2 runtimes have that display name: a, b; use its metadata.name"


@pytest.mark.parametrize(
    ("found", "model", "told"),
    [
        (runtime(formats=({"name": "vllm", "autoSelect": True},)), {}, "letters count, write modelFormat.name: vllm"),
        (runtime(formats=({"name": "vLLM"},)), {}, "`autoSelect: true` at vLLM: add it there, or write runtime: vllm"),
        (runtime(disabled=True), {}, "is disabled: remove `disabled: true`"),
        (runtime(multiModel=True), {}, "has `multiModel: true` and is never selected"),
        (runtime(protocolVersions=["v1"]), {"protocolVersion": "v2"}, "lists protocol v1, not v2"),
        (
            runtime(formats=({**FORMAT, "version": "1"},)),
            {"modelFormat": {"name": "vLLM", "version": "2"}},
            "offers vLLM with 1, not version 2",
        ),
        (runtime("vllm", "other"), {}, "is in namespace other, and a service of team does not see it"),
        (runtime(workerSpec={"pipelineParallelSize": 2}), {}, "is for several nodes (workerSpec)"),
        (runtime(formats=({"name": "onnx", "autoSelect": True},)), {}, "runtimes that it may use are for onnx"),
        (runtime(formats=({"name": "vLLMs", "autoSelect": True},)), {}, "did you mean vLLMs?"),
    ],
)
def test_runtime_that_is_not_selected_says_why(found: dict[str, Any], model: dict[str, Any], told: str) -> None:
    assert told in said(found, **model)


def test_named_runtime_says_which_formats_it_supports() -> None:
    found = runtime(formats=({"name": "vllm"}, {"name": "onnx", "version": "1"}))
    told = said(found, runtime="vllm")
    assert told.endswith("supports vllm, onnx 1, not vLLM: letters count, write modelFormat.name: vllm")
    assert said(runtime(disabled=True), runtime="vllm") == "remove `disabled: true`, or name another"


def test_all_that_stands_in_the_way_of_several_runtimes_is_said() -> None:
    told = said(runtime("a", disabled=True), runtime("b", formats=({"name": "vLLM"},)))
    assert "a (r.yaml:1) is disabled" in told
    assert "b (r.yaml:2) does not have `autoSelect: true`" in told
