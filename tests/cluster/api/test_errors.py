"""Answers of a real API server (1.36.3, recorded) as errors, and the fields they name in the form of git's lines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.api import errors
from reconciler.cluster.api.errors import ApiError, FieldProblem, RequestInfo, error_of
from reconciler.cluster.api.field_paths import field_path
from reconciler.errors import Retryable, Terminal

CONTAINERS = [{"name": "c", "env": [{"name": "A", "value": "1"}]}, {"name": "e", "ports": [{"containerPort": 80}]}]
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"annotations": {"example.com/a.b": "x"}, "finalizers": ["example.com/x", "example.com/y"]},
    "spec": {"template": {"spec": {"containers": CONTAINERS}}},
}
CONTAINER = "spec.template.spec.containers"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (".spec.replicas", "spec.replicas"),
        ("spec.replicas", "spec.replicas"),
        (f'.{CONTAINER}[name="e"].image', f"{CONTAINER}.1.image"),
        (f'.{CONTAINER}[name="c"].env[name="A"].value', f"{CONTAINER}.0.env.0.value"),
        (f'.{CONTAINER}[name="e"].ports[containerPort=80,protocol="TCP"]', f"{CONTAINER}.1.ports.0"),
        (f'.{CONTAINER}[name="other"].image', f"{CONTAINER}.other.image"),
        (f"{CONTAINER}[1].ports[0].containerPort", f"{CONTAINER}.1.ports.0.containerPort"),
        ("metadata.annotations[example.com/a.b]", "metadata.annotations.example.com/a.b"),
        ('.metadata.finalizers[="example.com/y"]', "metadata.finalizers.1"),
        ("", ""),
    ],
)
def test_paths_of_the_server_become_those_of_git_s_lines(written: str, expected: str) -> None:
    assert field_path(written, DEPLOYMENT) == expected


@given(st.text(max_size=60))
def test_any_text_is_read_as_a_path_without_failing(text: str) -> None:
    field_path(text, DEPLOYMENT)
    field_path(text, None)


def answered(code: int, message: str = "", **rest: Any) -> ApiError:
    """The error of an answer to an apply of the Deployment."""
    return error_of(RequestInfo("apply", "Deployment.apps default/d", DEPLOYMENT), code, {"message": message, **rest})


def test_a_conflict_names_each_field_and_its_manager() -> None:
    causes = [
        {"reason": "FieldManagerConflict", "message": 'conflict with "other"', "field": ".spec.replicas"},
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl-edit" using apps/v1 at 2026-11-29T17:00:00Z',
            "field": f'.{CONTAINER}[name="e"].image',
        },
    ]
    error = answered(409, "Apply failed with 2 conflicts", reason="Conflict", details={"causes": causes})
    assert isinstance(error, errors.Conflict)
    assert [(field.path, field.manager) for field in error.fields] == [
        ("spec.replicas", "other"),
        (f"{CONTAINER}.1.image", "kubectl-edit"),
    ]
    assert error.managers == ("kubectl-edit", "other")


def test_unknown_fields_of_an_apply_are_invalid_though_it_says_500() -> None:
    message = (
        "failed to create typed patch object (bench/x; ex.io/v1, Kind=Big): errors:\n"
        "  .spec.l[0].y: field not declared in schema\n  .spec.zz: field not declared in schema"
    )
    error = answered(500, message)
    assert isinstance(error, errors.Invalid)
    unknown = "field not declared in schema"
    assert error.fields == (FieldProblem("spec.l.0.y", unknown), FieldProblem("spec.zz", unknown))


def test_one_field_of_a_wrong_type_is_invalid() -> None:
    message = (
        "failed to create typed patch object (bench/d; apps/v1, Kind=Deployment): .spec.replicas: expected numeric"
    )
    error = answered(500, message)
    assert error.fields == (FieldProblem("spec.replicas", "expected numeric"),)


def test_value_of_a_wrong_type_is_not_repeated() -> None:
    message = (
        "failed to create typed patch object (bench/s; /v1, Kind=Secret): errors:\n"
        "  .stringData.password: expected string, got &value.valueUnstructured{Value:20261129}\n"
        "  .data.key: expected string, got &value.valueUnstructured{Value:4711}"
    )
    error = answered(500, message)
    assert error.fields == (
        FieldProblem("stringData.password", "expected string"),
        FieldProblem("data.key", "expected string"),
    )
    assert "20261129" not in str(error)
    assert "4711" not in str(error)


def test_invalid_values_name_their_fields() -> None:
    causes = [
        {"reason": "FieldValueRequired", "message": "Required value", "field": f"{CONTAINER}[1].image"},
        {"reason": "FieldValueTooLong", "message": "Too long: may not be more than 1048576 bytes", "field": "[]"},
    ]
    error = answered(422, "Deployment.apps d is invalid: …", reason="Invalid", details={"name": "d", "causes": causes})
    assert isinstance(error, errors.Invalid)
    assert error.fields == (
        FieldProblem(f"{CONTAINER}.1.image", "Required value"),
        FieldProblem("", "Too long: may not be more than 1048576 bytes"),
    )


def test_no_value_of_a_secret_is_quoted() -> None:
    cause = {"reason": "FieldValueInvalid", "message": 'Invalid value: "hunter2": must be shorter', "field": "data[x]"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"x": "aHVudGVyMg=="}}
    error = error_of(
        RequestInfo("apply", "Secret default/s", secret), 422, {"reason": "Invalid", "details": {"causes": [cause]}}
    )
    assert error.fields == (FieldProblem("data.x", "Invalid value"),)
    assert "hunter2" not in str(error)


def test_a_webhook_s_denial_has_its_name_and_verdict() -> None:
    message = (
        'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: '
        "the 'name' field is not allowed in standard predictor"
    )
    error = answered(400, message, reason="BadRequest")
    assert isinstance(error, errors.Denied)
    assert error.by == "inferenceservice.kserve-webhook-server.validator"
    assert error.verdict == "the 'name' field is not allowed in standard predictor"


def test_a_policy_s_denial_has_its_name_and_verdict() -> None:
    message = (
        "configmaps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no such name"
    )
    error = answered(422, message, reason="Invalid", details={"name": "d", "causes": [{"message": message}]})
    assert isinstance(error, errors.Denied)
    assert (error.by, error.verdict) == ("ValidatingAdmissionPolicy 'p'", "no such name")


def test_a_missing_right_says_which_rule_to_add() -> None:
    message = (
        'deployments.apps "d" is forbidden: User "system:serviceaccount:bench:x" cannot patch resource "deployments" '
        'in API group "apps" in the namespace "bench"'
    )
    error = answered(403, message, reason="Forbidden", details={"name": "d", "group": "apps", "kind": "deployments"})
    assert isinstance(error, errors.Forbidden)
    assert "system:serviceaccount:bench:x cannot patch deployments.apps in the namespace bench" in str(error)
    assert 'add to its Role: {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}' in str(error)


TERMINATING = {
    "name": "n",
    "kind": "secrets",
    "causes": [{"reason": "NamespaceTerminating", "message": "namespace q is being terminated"}],
}


@pytest.mark.parametrize(
    ("code", "message", "rest", "expected"),
    [
        (401, "Unauthorized", {"reason": "Unauthorized"}, errors.Unauthorized),
        (
            403,
            'configmaps "a" is forbidden: exceeded quota: q, requested: count/configmaps=1',
            {"reason": "Forbidden"},
            errors.QuotaExceeded,
        ),
        (403, 'secrets "n" is forbidden: …', {"reason": "Forbidden", "details": TERMINATING}, errors.NamespaceEnding),
        (404, "", {}, errors.KindUnknown),
        (
            404,
            "the server could not find the requested resource",
            {"reason": "NotFound", "details": {}},
            errors.KindUnknown,
        ),
        (
            404,
            'namespaces "nope" not found',
            {"reason": "NotFound", "details": {"name": "nope", "kind": "namespaces"}},
            errors.NotFound,
        ),
        (
            409,
            "Operation cannot be fulfilled on configmaps: the object has been modified",
            {"reason": "Conflict", "details": {"name": "fin"}},
            errors.WriteConflict,
        ),
        (409, 'configmaps "fin" already exists', {"reason": "AlreadyExists"}, errors.AlreadyExists),
        (410, "too old resource version", {"reason": "Expired"}, errors.Expired),
        (413, "Request entity too large: limit is 3145728", {"reason": "RequestEntityTooLarge"}, errors.TooLarge),
        (500, "etcdserver: request is too large", {}, errors.TooLarge),
        (500, "etcdserver: leader changed", {}, errors.Busy),
        (429, "Too many requests, please try again later.", {}, errors.Busy),
        (503, "apiserver is shutting down", {"reason": "ServiceUnavailable"}, errors.Busy),
        (
            500,
            'Internal error occurred: failed calling webhook "w.ex.io": failed to call webhook: connection refused',
            {"reason": "InternalError"},
            errors.WebhookFailed,
        ),
        (500, "something else", {"reason": "InternalError"}, errors.ServerFailed),
        (400, "error strict decoding YAML: line 1: key already set in map", {"reason": "BadRequest"}, errors.Invalid),
    ],
)
def test_each_answer_has_its_own_error(code: int, message: str, rest: dict[str, Any], expected: type) -> None:
    error = answered(code, message, **rest)
    assert type(error) is expected
    assert error.code == code
    assert str(error).startswith("Deployment.apps default/d: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.integers(400, 599),
    st.dictionaries(st.sampled_from(["message", "reason", "details", "causes", "code"]), json_values, max_size=5),
    st.lists(st.dictionaries(st.sampled_from(["reason", "message", "field"]), json_values, max_size=3), max_size=3),
)
def test_every_answer_is_an_error_that_is_retryable_or_terminal(
    code: int, document: dict[str, Any], causes: list[dict[str, Any]]
) -> None:
    for each in (document, {**document, "details": {"name": "d", "causes": causes}}):
        error = error_of(RequestInfo("apply", "it", DEPLOYMENT), code, each)
        assert isinstance(error, Retryable) != isinstance(error, Terminal)
