"""Secrets that stand in git in the clear: each is named with its line and a way out, and none is repeated."""

from __future__ import annotations

import json

import pytest

from reconciler.desired import build_desired
from reconciler.manifests import read_manifests
from reconciler.preview.on_cluster import validate
from reconciler.preview.on_host import validate_on
from reconciler.report.redact import scrub
from tests.desired.test_desired import TARGET, snapshot

SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: chat
  annotations: {{note: {note}, {key}: {annotation}}}
spec:
  predictor:
    model:
      modelFormat: {{name: vLLM}}
      storageUri: {uri}
      args: {args}
      env: [{{name: {variable}, value: {value}}}]
"""
PLAIN = {
    "note": "fine",
    "key": "team",
    "annotation": "search",
    "uri": "hf://org/model",
    "args": "[]",
    "variable": "VLLM_LOGGING_LEVEL",
    "value": "INFO",
}
VALUE = "abcd1234efgh5678ijkl9"


def found(**fields: str) -> list[str]:
    """Line and beginning of what is said of a service, of which some fields are not as usual."""
    tree = snapshot({"hosts/box/chat.yaml": SERVICE.format(**PLAIN | fields)})
    manifests = read_manifests(tree)
    (service,) = build_desired(manifests, TARGET, tree).services
    told = [each for each in service.warnings if each.code == "PlaintextSecret"]
    said = validate(manifests)["warnings"]
    assert VALUE not in json.dumps([*map(str, told), said, validate_on(manifests, TARGET)])
    assert len(said) >= len(told)
    assert all(each.message in json.dumps(said) for each in told)
    return [f"{each.origin.line if each.origin else 0}: {each.message.split(' is in git')[0]}" for each in told]


def test_service_without_secrets_is_not_warned_about() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"args": f"[--api-key, {VALUE}]"}, "11: the value of --api-key"),
        ({"args": f"[--api-key={VALUE}]"}, "11: the value of --api-key"),
        ({"args": f"[--hf-token, {VALUE}]"}, "11: the value of --hf-token"),
        ({"args": f"[--model=x, --hf_token={VALUE}]"}, "11: the value of --hf_token"),
        ({"args": f"[sh, hf_{VALUE}]"}, "11: a token"),
        ({"variable": "VLLM_API_KEY", "value": VALUE}, "12: the value of variable VLLM_API_KEY"),
        ({"variable": "HF_TOKEN", "value": VALUE}, "12: the value of variable HF_TOKEN"),
        ({"variable": "AWS_SECRET_ACCESS_KEY", "value": VALUE}, "12: the value of variable AWS_SECRET_ACCESS_KEY"),
        ({"variable": "EXTRA", "value": f"Bearer {VALUE}"}, "12: the credential of this header"),
        ({"uri": f"https://ada:{VALUE}@example.com/m"}, "10: the user or password in this URL"),
        ({"uri": f"https://{VALUE}@example.com/m"}, "10: the user or password in this URL"),
        ({"uri": f"'https://example.com/m?se=1&sig={VALUE}'"}, "10: a token"),
        ({"key": "example.com/api-token", "annotation": VALUE}, "5: the value of example.com/api-token"),
        ({"note": f"glpat-{VALUE}"}, "5: a token"),
    ],
)
def test_secret_in_the_clear_is_named_with_its_line(fields: dict[str, str], expected: str) -> None:
    assert found(**fields) == [expected]


@pytest.mark.parametrize(
    "fields",
    [
        {"args": "[--api-key, $(VLLM_API_KEY)]"},
        {"args": "[--api-key, --port, '80']"},
        {"args": "[--max-num-batched-tokens, '2048', --tokenizer, /mnt/models, --long-prefill-token-threshold, '4']"},
        {"variable": "OPENAI_API_KEY", "value": "EMPTY"},
        {"variable": "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "value": "/run/secrets/token"},
        {"variable": "PAD_TOKEN", "value": "word"},
        {"uri": "ssh://git@example.com/m"},
        {"note": "basic authentication is for administrators"},
    ],
)
def test_name_or_reference_of_a_secret_is_not_warned_about(fields: dict[str, str]) -> None:
    assert found(**fields) == []


def test_secret_in_a_runtime_or_config_map_is_named_too() -> None:
    runtime = "apiVersion: serving.kserve.io/v1alpha1\nkind: ServingRuntime\nmetadata: {name: vllm}\nspec:\n"
    runtime += f"  containers:\n  - name: kserve-container\n    args: [--api-key={VALUE}]\n"
    config = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  password: {VALUE}\n"
    tree = snapshot({"hosts/box/a.yaml": runtime, "hosts/box/b.yaml": config})
    notes = build_desired(read_manifests(tree), TARGET, tree).notes
    assert [str(each.origin) for each in notes if each.code == "PlaintextSecret"] == [
        "hosts/box/a.yaml:7",
        "hosts/box/b.yaml:5",
    ]


def test_tokenizer_of_an_argument_list_is_shown() -> None:
    assert scrub(["--tokenizer", "/mnt/models", "--hf-token", VALUE]) == [
        "--tokenizer",
        "/mnt/models",
        "--hf-token",
        "***",
    ]
