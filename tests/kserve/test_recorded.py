"""Recordings of a real KServe 0.20 on a real API server: what it made of these manifests, and what it refused.

Each file of `cases/` holds the manifests, the rule that they show, and the measurement: the defaulted service and the
pod, or why KServe refused, or why it could not deploy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.manifests import read_file
from reconciler.preview import on_cluster
from tests.kserve.stored import stored_pod

_SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: kserve}
data: {deploy: '{"defaultDeploymentMode": "Standard"}'}
"""


def _load(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    return case


_CASES = [_load(path) for path in sorted(Path(__file__).parent.joinpath("cases").glob("*.yaml"))]
# Where we part from KServe on purpose: a display name is taken, a host has no KEDA to ask for.
_KINDER = {"the documentation's pair as is: the runtime is named by its display name"}


def _that(*keys: str) -> Any:
    chosen = [case for case in _CASES if any(key in case for key in keys) and case["rule"] not in _KINDER]
    return pytest.mark.parametrize("case", chosen, ids=[case["rule"] for case in chosen])


def _render(case: dict[str, Any]) -> dict[str, Any]:
    document = on_cluster.render(_tree(case))
    names = [d["metadata"]["name"] for d in case["input"] if d["kind"] == "InferenceService"]
    service: dict[str, Any] = next(each for each in document["services"] if each["name"] == names[0])
    # What we print is JSON: a comparison must not see more than that.
    plain: dict[str, Any] = json.loads(json.dumps(service))
    return plain


def _tree(case: dict[str, Any]) -> Any:
    return read_file("tree.yaml", (yaml.safe_dump_all(case["input"]) + "---" + _SETTINGS).encode())


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ("", [], None) and (item != {} or key in _OPEN)}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


_OPEN = frozenset({"emptyDir", "storage", "workerSpec"})


@_that("pod")
def test_pod_is_the_one_that_kserve_creates(case: dict[str, Any]) -> None:
    service = _render(case)
    assert service["errors"] == []
    assert stored_pod(service["pod"]) == case["pod"]["spec"]


@_that("pod")
def test_pod_metadata_is_the_one_that_kserve_writes(case: dict[str, Any]) -> None:
    service = _render(case)
    assert service["pod"]["labels"] == case["pod"]["labels"]
    assert service["pod"]["annotations"] == case["pod"]["annotations"]


@_that("defaulted")
def test_defaulted_service_is_the_one_that_the_webhook_leaves(case: dict[str, Any]) -> None:
    service = _render(case)
    assert _without_empty(service["defaulted"]["spec"]) == _without_empty(case["defaulted"]["spec"])
    for key in ("labels", "annotations"):
        assert service["defaulted"]["metadata"].get(key, {}) == case["defaulted"].get(key, {})


@_that("url")
def test_url_is_the_one_in_the_status(case: dict[str, Any]) -> None:
    assert _render(case)["url"] == case["url"]


@_that("refused")
def test_refusal_says_what_kserve_says(case: dict[str, Any]) -> None:
    verdict = on_cluster.validate(_tree(case))
    assert not verdict["valid"]
    messages = [error["message"] for error in verdict["errors"]]
    assert any(case["refused"]["message"].split(" is invalid: ")[-1] in message for message in messages), messages


@_that("invalid")
def test_invalid_spec_has_the_failure_info_of_the_status(case: dict[str, Any]) -> None:
    service = _render(case)
    status = service["modelStatus"]
    assert status["transitionStatus"] == "InvalidSpec"
    assert status["lastFailureInfo"] == case["invalid"]
    assert status["states"]["targetModelState"] == "FailedToLoad"
    assert service["errors"]
    assert not on_cluster.validate(_tree(case))["valid"]


@_that("fails")
def test_failure_to_deploy_is_named(case: dict[str, Any]) -> None:
    messages = [error["message"] for error in _render(case)["errors"]]
    # The decoder's own messages for broken JSON are Go's, and a panic has none.
    said = case["fails"].split(": invalid character")[0].removeprefix("fails to reconcile predictor: ")
    assert messages
    assert any(said in message for message in messages), messages


def test_display_name_of_one_runtime_is_taken_with_a_warning() -> None:
    case = next(case for case in _CASES if case["rule"] in _KINDER)
    service = _render(case)
    assert service["runtime"]["name"] == "vllm-runtime"
    assert [warning["reason"] for warning in service["warnings"]] == ["AmbiguousDisplayName"]
    assert on_cluster.validate(_tree(case))["valid"]


def test_every_recording_is_judged() -> None:
    runtimes_only = [case for case in _CASES if all(d["kind"] != "InferenceService" for d in case["input"])]
    judged = {"pod", "refused", "invalid", "fails"}
    assert [case["rule"] for case in _CASES if not judged & case.keys() and case not in runtimes_only] == []
