"""How a pod ends: what is added to a service, that KServe's merge honours it, and what is said of what does not fit."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.rollout.additions import NO_ADDITIONS, laid_on
from reconciler.cluster.rollout.drain import DrainPlan, DrainSettings, Server, find_drain, knows_flag, serves_vllm
from reconciler.kserve.cluster_objects import ClusterObjects
from reconciler.kserve.resolve import resolve
from reconciler.model import NO_ORIGIN, Argument, DesiredObject, ObjectId, Origin, ReasonCode, ServiceId
from reconciler.model.objects import LineTree

IMAGE = "vllm/vllm-openai:v0.20.0"
SERVE = ["vllm", "serve", "/mnt/models"]
LINE = Origin("tiny.yaml", 1)
SETTINGS = DrainSettings()


def runtime(image: str = IMAGE, command: list[str] | None = None, **container: Any) -> dict[str, Any]:
    own = {"name": "kserve-container", "image": image, "command": SERVE if command is None else command, **container}
    formats = [{"name": "vLLM", "autoSelect": True}]
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "vllm", "namespace": "default"},
        "spec": {"supportedModelFormats": formats, "containers": [own]},
    }


def service(model: dict[str, Any] | None = None, annotations: dict[str, str] | None = None, **predictor: Any) -> Any:
    source = {"modelFormat": {"name": "vLLM"}, "runtime": "vllm", "storageUri": "hf://acme/tiny"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "tiny",
            "namespace": "default",
            "annotations": {"serving.kserve.io/deploymentMode": "Standard", **(annotations or {})},
        },
        "spec": {"predictor": {"model": source | (model or {}), **predictor}},
    }


def desired(body: dict[str, Any]) -> DesiredObject:
    """As if its field `args` stood in line 8, the grace period in 9, and all else in 1."""
    return DesiredObject(ObjectId.of(body), LINE, body, "", lines(body), ServiceId("default", "tiny"))


def lines(value: Any, key: str = "") -> LineTree:
    line = {"args": 8, "terminationGracePeriodSeconds": 9}.get(key, 1)
    return (line, tuple(lines(each, name) for name, each in value.items())) if isinstance(value, dict) else line


def merged(body: dict[str, Any], of: dict[str, Any]) -> dict[str, Any]:
    """The pod that KServe makes of both."""
    found = resolve(body, ClusterObjects.build([of], default_mode="Standard"))
    assert not found.errors, found.errors
    return dict(found.pod)


def server_of(body: dict[str, Any], of: dict[str, Any], **known: Any) -> Server:
    container = merged(body, of)["containers"][0]
    line = [Argument(each, NO_ORIGIN) for each in (*container.get("command", ()), *container.get("args", ()))]
    grace = body["spec"]["predictor"].get("terminationGracePeriodSeconds")
    return Server(container, line, **{"grace_seconds": grace, **known})


def drained(body: dict[str, Any], of: dict[str, Any] | None = None, **known: Any) -> tuple[DrainPlan, dict[str, Any]]:
    """What is added, and the pod that comes of it."""
    of = of or runtime()
    found = find_drain(desired(body), server_of(body, of, **known), SETTINGS)
    return found, merged(dict(laid_on(body, found.additions)), of)


def parts(pod: dict[str, Any]) -> tuple[int, int, int]:
    """What a pod waits before SIGTERM, after it, and at most. An engine without the flag aborts at once."""
    container = pod["containers"][0]
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    flags = [each for each in container.get("args", ()) if each.startswith("--shutdown-timeout=")]
    return sleep, int(flags[-1].partition("=")[2]) if flags else 0, pod["terminationGracePeriodSeconds"]


# ---------------------------------------------------------------- properties

seconds = st.integers(0, 400)
models = st.fixed_dictionaries(
    {},
    optional={
        "args": st.lists(
            st.sampled_from(["--max-model-len=8", "--shutdown-timeout=40", "--api-server-count=2"]), unique=True
        ),
        "lifecycle": st.sampled_from(
            [
                {"preStop": {"sleep": {"seconds": 7}}},
                {"preStop": {"exec": {"command": ["sleep", "9"]}}},
                {"preStop": {"httpGet": {"port": 1}}},
                {"postStart": {"exec": {"command": ["true"]}}},
            ]
        ),
        "image": st.sampled_from([IMAGE, "vllm/vllm-openai:v0.11.0", "quay.io/modh/vllm:rhoai-2.20"]),
    },
)
bodies = st.builds(
    lambda model, grace, off: service(
        model,
        {"reconciler/drain": "false"} if off else None,
        **({} if grace is None else {"terminationGracePeriodSeconds": grace}),
    ),
    models,
    st.none() | seconds,
    st.booleans(),
)


@given(bodies)
def test_what_is_added_fits_into_the_grace_period_or_is_warned_of(body: dict[str, Any]) -> None:
    drain, pod = drained(body)
    sleep, timeout, grace = parts(pod)
    if drain.additions:
        assert sleep + timeout + SETTINGS.teardown <= grace or drain.warnings


@given(bodies)
def test_what_is_laid_on_a_service_twice_changes_it_once(body: dict[str, Any]) -> None:
    before = copy.deepcopy(body)
    drain, _ = drained(body)
    once = laid_on(body, drain.additions)
    assert laid_on(once, drain.additions) == once
    assert body == before
    again, _ = drained(dict(once))
    assert again.additions == NO_ADDITIONS


@given(bodies)
def test_what_git_sets_is_never_replaced(body: dict[str, Any]) -> None:
    drain, _ = drained(body)
    git, laid = body["spec"]["predictor"], laid_on(body, drain.additions)["spec"]["predictor"]
    assert laid["model"].get("args", [])[: len(git["model"].get("args", []))] == git["model"].get("args", [])
    assert laid.get("terminationGracePeriodSeconds", 0) == git.get(
        "terminationGracePeriodSeconds", laid.get("terminationGracePeriodSeconds", 0)
    )
    for name, handler in git["model"].get("lifecycle", {}).items():
        assert laid["model"]["lifecycle"][name] == handler
    assert laid_on(body, drain.additions)["metadata"] == body["metadata"]


@given(bodies)
def test_everything_that_is_added_is_said(body: dict[str, Any]) -> None:
    drain, _ = drained(body)
    fields = (drain.additions.arguments, drain.additions.pre_stop, drain.additions.grace_seconds)
    assert len(drain.added) == sum(map(bool, fields))
    assert all(each.code is ReasonCode.DRAIN_ADDED and each.origin == LINE for each in drain.added)


# ---------------------------------------------------------------- examples


def test_a_vllm_that_drains_gets_all_three() -> None:
    drain, pod = drained(service())
    assert parts(pod) == (15, 120, 150)
    assert pod["containers"][0]["args"] == ["--shutdown-timeout=120"]
    assert "--shutdown-timeout=120: requests that run then may finish" in drain.added[1].message
    assert not drain.warnings


def test_a_vllm_that_cannot_drain_ends_requests_before_sigterm() -> None:
    for of in (runtime("vllm/vllm-openai:v0.11.0"), runtime("quay.io/modh/vllm:rhoai-2.20"), runtime("acme/llm:1")):
        assert parts(drained(service(), of)[1]) == (120, 0, 135)
    assert parts(drained(service({"args": ["--data-parallel-size", "2"]}))[1]) == (120, 0, 135)


def test_a_verdict_of_the_engine_counts_more_than_its_tag() -> None:
    of = runtime("quay.io/modh/vllm:rhoai-2.20")
    assert parts(drained(service(), of, lacks=frozenset())[1]) == (15, 120, 150)
    assert parts(drained(service(), lacks=frozenset({"--shutdown-timeout"}))[1]) == (120, 0, 135)


def test_a_grace_period_of_git_is_shared_out() -> None:
    drain, pod = drained(service(terminationGracePeriodSeconds=60))
    assert parts(pod) == (11, 34, 60)
    assert not drain.warnings


def test_a_timeout_of_the_runtime_counts_as_given() -> None:
    _, pod = drained(service(), runtime(args=["--shutdown-timeout=40"]))
    assert parts(pod) == (15, 40, 70)


def test_settings_that_do_not_fit_are_obeyed_with_a_warning() -> None:
    drain, pod = drained(service({"args": ["--shutdown-timeout=90"]}, terminationGracePeriodSeconds=60))
    assert parts(pod) == (0, 90, 60)
    (warning,) = drain.warnings
    assert warning.code is ReasonCode.DRAIN_CUT_SHORT
    assert str(warning).startswith("tiny.yaml:9: terminationGracePeriodSeconds 60 is shorter than preStop (0 s)")
    assert warning.message.endswith("raise it, to 105 for example")


def test_a_timeout_of_zero_is_warned_of_where_it_stands() -> None:
    drain, _ = drained(service({"args": ["--shutdown-timeout", "0"]}))
    assert str(drain.warnings[0]).startswith("tiny.yaml:8: --shutdown-timeout 0 cuts all requests")


def test_a_custom_predictor_gets_them_in_its_container() -> None:
    body = service()
    own = {"name": "kserve-container", "image": IMAGE, "command": SERVE, "args": ["--port=8080"]}
    body["spec"]["predictor"] = {"containers": [own]}
    _, pod = drained(body)
    assert parts(pod) == (15, 120, 150)
    assert pod["containers"][0]["args"] == ["--port=8080", "--shutdown-timeout=120"]


@pytest.mark.parametrize(
    ("rule", "body", "of", "known"),
    [
        ("the service says no", service(annotations={"reconciler/drain": "False"}), runtime(), {}),
        ("Knative ends pods its own way", service(), runtime(), {"mode": "Knative"}),
        ("a shell would not hand on a flag", service(), runtime(command=["sh", "-c", "vllm serve /mnt/models"]), {}),
        ("another server", service(), runtime("acme/triton:1", command=["tritonserver"]), {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_added_to(rule: str, body: dict[str, Any], of: dict[str, Any], known: dict[str, Any]) -> None:
    assert drained(body, of, **known)[0] == DrainPlan(), rule


@pytest.mark.parametrize(
    ("image", "command", "serves", "knows"),
    [
        ("vllm/vllm-openai:v0.18.0", [], True, True),
        ("vllm/vllm-openai:v0.32.0-cpu", [], True, True),
        ("registry:5000/vllm/vllm-openai:v1.0", [], True, True),
        ("vllm/vllm-openai:v0.17.1", [], True, False),
        ("vllm/vllm-openai:v0.18.0rc1", [], True, False),
        ("vllm/vllm-openai:latest", [], True, False),
        ("vllm/vllm-openai", [], True, False),
        ("vllm/vllm-openai:v0.20.0@sha256:00", [], True, True),
        ("kserve/huggingfaceserver:v0.20.0", [], False, False),
        ("acme/llm:v0.20.0", ["python3", "-m", "vllm.entrypoints.openai.api_server"], True, False),
        ("acme/llm:v0.20.0", ["/opt/bin/vllm", "serve"], True, False),
        ("acme/llm:v0.20.0", ["/opt/bin/vllm", "bench"], False, False),
        ("acme/llm:v0.20.0", ["python3", "serve.py"], False, False),
    ],
)
def test_which_images_and_commands_are_vllm(image: str, command: list[str], serves: bool, knows: bool) -> None:
    line = [Argument(each, NO_ORIGIN) for each in command]
    server = Server({"image": image, "command": command}, line)
    assert (serves_vllm(server), knows_flag(server)) == (serves, knows)


def test_a_kept_runtime_replaces_the_one_of_git() -> None:
    kept = laid_on(service(), replace(NO_ADDITIONS, runtime="vllm-0123abcd"))
    assert kept["spec"]["predictor"]["model"]["runtime"] == "vllm-0123abcd"
