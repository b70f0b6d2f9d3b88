"""Objects of a real API server: applied, read, changed and deleted, and everything that it refuses."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.cluster.api import client as client_module
from reconciler.cluster.api import errors, transport
from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.errors import Retryable
from reconciler.model.objects import ObjectId
from tests.cluster.api.bodies import bind, config_map, crd, deployment, namespace_of
from tests.cluster.api.hostile import Handler, serving
from tests.controlplane.api import Api, wait_for
from tests.controlplane.certificates import Authority
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode

pytestmark = pytest.mark.cluster


def owners(found: Any) -> list[str]:
    return [entry["manager"] for entry in found["metadata"]["managedFields"]]


def test_object_applied_twice_is_written_once(client: Client, namespace: str) -> None:
    first = client.apply(config_map(namespace, key="value"))
    assert first["data"] == {"key": "value"}
    assert owners(first) == ["reconciler"]
    assert client.apply(config_map(namespace, key="value")) == first
    assert client.get(ObjectId.of(first)) == first


def test_dry_run_says_what_would_be_and_writes_nothing(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    control_plane.requests()
    made = client.apply(deployment(namespace), dry_run=True)
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "Always"
    assert client.get(ObjectId.of(made)) is None
    assert not [each for each in control_plane.requests() if each.writes and each.user_agent == "reconciler"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50))
def test_any_text_arrives_as_it_was_sent(client: Client, namespace: str, text: str) -> None:
    assert client.apply(config_map(namespace, key=text))["data"] == {"key": text}


@pytest.mark.parametrize("text", ["\x7f", "\x85", "\u2028\u2029", "\ufeff", "\U0001f600", "\x01\t", "é\r\n", "a: [b"])
def test_text_that_yaml_reads_otherwise_arrives_as_sent(client: Client, namespace: str, text: str) -> None:
    assert client.apply(config_map(namespace, key=text))["data"] == {"key": text}


def test_conflict_names_managers_and_fields_until_forced(client: Client, api: Api, namespace: str) -> None:
    api.apply(deployment(namespace), manager="argocd")
    wanted = deployment(namespace, replicas=3, image="j")
    with pytest.raises(errors.Conflict) as caught:
        client.apply(wanted)
    assert {(field.path, field.manager) for field in caught.value.fields} == {
        ("spec.replicas", "argocd"),
        ("spec.template.spec.containers.1.image", "argocd"),
    }
    assert "spec.replicas (argocd)" in str(caught.value)
    assert client.apply(wanted, force=True)["spec"]["replicas"] == 3


def test_unknown_fields_and_wrong_types_name_their_paths(client: Client, namespace: str) -> None:
    unknown = deployment(namespace)
    unknown["spec"]["template"]["spec"]["containers"][1]["imaage"] = "x"
    wrong = deployment(namespace)
    wrong["spec"]["replicas"] = "many"
    for body, path in ((unknown, "spec.template.spec.containers.1.imaage"), (wrong, "spec.replicas")):
        with pytest.raises(errors.Invalid) as caught:
            client.apply(body)
        assert [field.path for field in caught.value.fields] == [path]


def test_invalid_values_name_each_their_path(client: Client, namespace: str) -> None:
    body = deployment(namespace, replicas=-1, image="")
    with pytest.raises(errors.Invalid) as caught:
        client.apply(body)
    assert {field.path for field in caught.value.fields} == {"spec.replicas", "spec.template.spec.containers.1.image"}


@pytest.mark.parametrize("name", ["Bad_Name", "a/b", "..", "a%2f", "x" * 300])
def test_names_that_no_object_may_have_are_refused(client: Client, namespace: str, name: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        client.apply(config_map(namespace, name))
    assert [field.path for field in caught.value.fields] == ["metadata.name"]


def test_namespace_that_is_not_there_is_named(client: Client) -> None:
    with pytest.raises(errors.NotFound, match="namespace nowhere does not exist"):
        client.apply(config_map("nowhere"))


def test_kind_whose_crd_comes_late_is_first_absent_then_applied(client: Client, namespace: str) -> None:
    body = {"apiVersion": "late.example.com/v1", "kind": "Late", "metadata": {"name": "x", "namespace": namespace}}
    assert client.resource("late.example.com", "Late") is None
    with pytest.raises(errors.KindUnknown, match="install its CRD"):
        client.apply(body)
    made = client.apply(crd("lates", "Late", "late.example.com"))
    try:
        applied = wait_for(lambda: is_applied(client, {**body, "spec": {"size": 1}}))
        assert applied["spec"] == {"size": 1}
        with pytest.raises(errors.Invalid) as caught:
            client.apply({**body, "spec": {"size": 0}})
        assert caught.value.fields[0].path == "spec.size"
    finally:
        client.delete(ObjectId.of(made), made["metadata"]["uid"])
    wait_for(lambda: is_unknown(client, ObjectId.of(body)))
    assert client.resource("late.example.com", "Late") is None


def is_unknown(client: Client, id: ObjectId) -> bool:
    try:
        client.get(id)
    except errors.KindUnknown:
        return True
    return False


def is_applied(client: Client, body: dict[str, Any]) -> Any:
    """Its result once its kind is served, which the server needs a moment for."""
    try:
        return client.apply(body)
    except errors.KindUnknown:
        return None


def test_delete_needs_the_uid_that_was_seen(client: Client, namespace: str) -> None:
    made = client.apply(config_map(namespace))
    id, uid = ObjectId.of(made), made["metadata"]["uid"]
    with pytest.raises(errors.WriteConflict):
        client.delete(id, "another")
    assert client.delete(id, uid) is None
    assert client.delete(id, uid) is None
    assert client.get(id) is None


def test_object_with_a_finalizer_is_still_there_after_delete(client: Client, namespace: str) -> None:
    body = config_map(namespace)
    body["metadata"]["finalizers"] = ["example.com/never"]
    made = client.apply(body)
    left = client.delete(ObjectId.of(made), made["metadata"]["uid"])
    assert left is not None
    assert left["metadata"]["deletionTimestamp"]
    client.patch(ObjectId.of(made), {"metadata": {"finalizers": None}})
    wait_for(lambda: client.get(ObjectId.of(made)) is None)


def test_update_needs_the_version_that_was_seen(client: Client, api: Api, namespace: str) -> None:
    seen = client.create(config_map(namespace, key="1"))
    api.apply(config_map(namespace, other="2"), manager="other")
    with pytest.raises(errors.WriteConflict):
        client.update({**seen, "data": {"key": "3"}})
    with pytest.raises(errors.AlreadyExists):
        client.create(config_map(namespace))
    again = client.get(ObjectId.of(seen))
    assert again is not None
    updated = client.update({**again, "data": {"key": "3"}})
    assert updated["data"] == {"key": "3"}
    # What was trimmed of the others' entries was not written back.
    found = api.get(config_map(namespace))
    assert all(entry["fieldsV1"] for entry in found["metadata"]["managedFields"])


def test_patch_changes_an_annotation_and_nothing_else(client: Client, namespace: str) -> None:
    made = client.apply(config_map(namespace, key="value"))
    patched = client.patch(ObjectId.of(made), {"metadata": {"annotations": {"serving.kserve.io/stop": "true"}}})
    assert patched["metadata"]["annotations"] == {"serving.kserve.io/stop": "true"}
    assert patched["data"] == {"key": "value"}


def test_list_reads_all_pages_and_knows_kinds(client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE", 3)
    for index in range(8):
        body = config_map(namespace, f"c-{index}")
        body["metadata"]["labels"] = {"half": str(index % 2)}
        client.apply(body)
    resource = client.resource("", "ConfigMap")
    assert resource is not None
    found = client.list(resource, namespace, labels="half")
    assert [item["metadata"]["name"] for item in found.items] == [f"c-{index}" for index in range(8)]
    assert {(item["apiVersion"], item["kind"]) for item in found.items} == {("v1", "ConfigMap")}
    assert len(client.list(resource, namespace, labels="half=1").items) == 4
    assert len(client.list(resource, namespace, fields="metadata.name=c-3").items) == 1


def test_pages_that_are_too_large_are_read_in_smaller_ones(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 1_500_000)
    for index in range(40):
        client.apply(config_map(namespace, f"c-{index:02}", key="x" * 100_000))
    resource = client.resource("", "ConfigMap")
    assert resource is not None
    assert len(client.list(resource, namespace, labels="").items) >= 40


def test_largest_object_is_applied_and_a_larger_one_refused(client: Client, namespace: str) -> None:
    made = client.apply(crd("bigs", "Big", "big.example.com"))
    body = {"apiVersion": "big.example.com/v1", "kind": "Big", "metadata": {"name": "x", "namespace": namespace}}
    wait_for(lambda: is_applied(client, body))
    found = client.apply({**body, "spec": {"free": {"text": "x" * 1_400_000}}})
    assert len(found["spec"]["free"]["text"]) == 1_400_000
    for size in (2_000_000, 4_000_000):
        with pytest.raises(errors.TooLarge):
            client.apply({**body, "spec": {"free": {"text": "x" * size}}})
    client.delete(ObjectId.of(made), made["metadata"]["uid"])


def test_no_value_of_a_secret_leaves_the_package(client: Client, namespace: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": namespace}}
    made = client.apply({**secret, "stringData": {"token": "hunter2"}})
    other = client.apply({**secret, "stringData": {"token": "hunter3"}})
    assert made["data"]["token"].startswith("sha256:")
    assert made["data"] != other["data"]
    assert "hunter" not in str(made)
    with pytest.raises(errors.Invalid) as caught:
        client.apply({**secret, "data": {"token": "hunter2!"}})
    assert "hunter" not in str(caught.value) + str(caught.value.fields)


def test_namespace_that_is_being_deleted_and_a_full_quota_say_so(client: Client, namespace: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q", "namespace": namespace},
        "spec": {"hard": {"count/secrets": "0"}},
    }
    client.apply(quota)
    wait_for(lambda: ((client.get(ObjectId.of(quota)) or {}).get("status") or {}).get("used"))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": namespace}}
    with pytest.raises(errors.QuotaExceeded, match="exceeded quota: q, requested: count/secrets=1"):
        client.apply(secret)
    stuck = config_map(namespace, "stuck")
    stuck["metadata"]["finalizers"] = ["example.com/never"]
    made = client.apply(stuck)
    found = client.get(ObjectId.of(namespace_of(namespace)))
    assert found is not None
    client.delete(ObjectId.of(found), found["metadata"]["uid"])
    with pytest.raises(errors.NamespaceEnding):
        client.apply(config_map(namespace, "new"))
    client.patch(ObjectId.of(made), {"metadata": {"finalizers": None}})


def webhook(namespace: str, name: str, url: str, authority: Authority) -> dict[str, Any]:
    """It is asked about each new ConfigMap of the namespace."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
    hook = {
        "name": name,
        "clientConfig": {"url": f"{url}/x", "caBundle": bundle},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 1,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [rule],
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return {**kind, "metadata": {"name": name}, "webhooks": [hook]}


def test_webhook_that_does_not_answer_is_named(client: Client, namespace: str, tmp_path: Path) -> None:
    made = client.apply(webhook(namespace, "down.example.com", "https://127.0.0.1:1", Authority(tmp_path)))

    def refused() -> Exception | None:
        try:
            denied(client, namespace)
        except errors.WebhookFailed as error:
            return error
        return None

    try:
        error = wait_for(refused)
    finally:
        client.delete(ObjectId.of(made), made["metadata"]["uid"])
    assert "webhook down.example.com could not be asked" in str(error)
    assert isinstance(error, Retryable)


def test_webhook_that_denies_is_named_with_its_verdict(client: Client, namespace: str, tmp_path: Path) -> None:
    verdict = "the 'name' field is not allowed in standard predictor"

    def deny(handler: Handler) -> None:
        review = json.loads(handler.body)
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": {"message": verdict, "code": 400}}
        handler.reply(200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer})

    authority = Authority(tmp_path)
    with serving(authority, deny) as (url, _):
        made = client.apply(webhook(namespace, "deny.example.com", url, authority))
        try:
            error = wait_for(lambda: denied(client, namespace))
        finally:
            client.delete(ObjectId.of(made), made["metadata"]["uid"])
    assert (error.by, error.verdict) == ("deny.example.com", verdict)
    assert str(error) == f"ConfigMap {namespace}/c: deny.example.com denied the request: {verdict}"


def denied(client: Client, namespace: str) -> errors.Denied | None:
    """The denial of a new object, once the server has heard of the webhook."""
    try:
        made = client.apply(config_map(namespace))
    except errors.Denied as error:
        return error
    client.delete(ObjectId.of(made), made["metadata"]["uid"])
    return None


def test_logs_are_the_last_lines_of_a_container(
    control_plane: ControlPlane, client: Client, namespace: str, add_node: AddNode
) -> None:
    add_node()
    container = {"name": "c", "image": "example.com/vllm:1"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}}
    client.apply({**pod, "spec": {"containers": [container]}})
    wait_for(lambda: ((client.get(ObjectId.of(pod)) or {}).get("status") or {}).get("containerStatuses"))
    control_plane.set_logs("starting\nready", "one\ntwo")
    assert client.logs(namespace, "p", "c", 1) == "ready\n"
    with pytest.raises(errors.Invalid):
        client.logs(namespace, "..", "c", 1)


def test_impersonated_account_lacks_a_right_and_is_told_which(
    control_plane: ControlPlane, connection: ClusterConnection, client: Client, namespace: str
) -> None:
    control_plane.requests()
    limited = Client(replace(connection, impersonate=f"{namespace}/default"))
    with pytest.raises(errors.Forbidden) as caught:
        limited.apply(config_map(namespace))
    user = f"system:serviceaccount:{namespace}:default"
    assert f"{user} cannot patch configmaps in the namespace {namespace}" in str(caught.value)
    assert '"resources": ["configmaps"], "verbs": ["patch"]' in str(caught.value)
    asked = [each for each in control_plane.requests() if each.resource == "configmaps"]
    assert [(each.user, each.code) for each in asked] == [(user, 403)]


def test_wrong_token_names_the_kubeconfig_and_not_the_token(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.write_kubeconfig("nobody", {"token": "not-a-real-token"})
    with pytest.raises(errors.Unauthorized) as caught:
        Client(ClusterConnection(kubeconfig)).get(ObjectId("", "ConfigMap", "default", "c"))
    assert str(kubeconfig) in str(caught.value)
    assert "not-a-real-token" not in str(caught.value)


def test_token_that_was_replaced_is_read_again_when_refused(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_REREAD_AFTER", 0.0)
    good = control_plane.service_account_kubeconfig(namespace, "default").read_text()
    token = tmp_path / "token"
    token.write_text("not-a-real-token")
    kubeconfig = control_plane.write_kubeconfig("rotating", {"tokenFile": str(token)})
    client = Client(ClusterConnection(kubeconfig))
    with pytest.raises(errors.Unauthorized):
        client.server_version()
    token.write_text(next(line.split()[-1] for line in good.splitlines() if "token:" in line))
    assert client.server_version().startswith("v1.")


def test_storm_of_429_loses_no_apply(
    control_plane: ControlPlane, api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An administrator is never turned away.
    bind(api, namespace, "edit")
    kubeconfig = control_plane.service_account_kubeconfig(namespace, "default")
    turned_away: list[int] = []
    pause = transport._pause

    def note(error: errors.Busy | errors.Unreached, failures: int) -> float:
        turned_away.append(error.code)
        return pause(error, failures)

    monkeypatch.setattr(transport, "_pause", note)
    with control_plane.api_server_with("--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1"):
        client = Client(ClusterConnection(kubeconfig))
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda index: client.apply(config_map(namespace, f"c-{index}")), range(200)))
        assert len({item["metadata"]["uid"] for item in found}) == 200
    assert set(turned_away) == {429}


def test_apply_outlasts_a_restart_of_the_api_server(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    client.apply(config_map(namespace, key="before"))
    control_plane.stop_api_server()
    with ThreadPoolExecutor(1) as threads:
        applied = threads.submit(client.apply, config_map(namespace, key="after"))
        control_plane.start_api_server()
        control_plane.wait_until_ready()
        assert applied.result(60)["data"] == {"key": "after"}
