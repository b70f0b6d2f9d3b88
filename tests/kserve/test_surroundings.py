"""Rules about what surrounds a service: the ConfigMap, model caches, injected sidecars, the stop annotation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconciler.kserve.config import SHIPPED, from_config_map
from reconciler.kserve.resolve import ClusterObjects, resolve
from tests.kserve.test_rules import Document, account, messages, resolved, runtime, secret, service, settings

MODE = {"serving.kserve.io/deploymentMode": "Standard"}
AMOUNTS = {"memoryRequest": "1Gi", "memoryLimit": "1Gi", "cpuRequest": "1", "cpuLimit": "1"}


def complaints(**data: str) -> list[str]:
    return [message for _, message in from_config_map(data).errors]


# ---------------------------------------------------------------- the ConfigMap


def test_keys_of_the_config_map_are_read_in_any_case_as_go_does() -> None:
    text = json.dumps({key[0].upper() + key[1:]: "2Gi" for key in AMOUNTS} | {"Image": "mine:1"})
    config = from_config_map(
        {"storageInitializer": text, "ingress": '{"INGRESSDOMAIN": "a.io", "ingressgateway": "g"}'}
    )
    assert config.errors == ()
    assert (config["storageInitializer"]["image"], config["ingress"]["ingressDomain"]) == ("mine:1", "a.io")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("oops", "invalid character 'o' looking for beginning of value"),
        ("nope", "invalid character 'o' in literal null (expecting 'u')"),
        ("{", "unexpected end of JSON input"),
        ('{"a": 1} x', "invalid character 'x' after top-level value"),
        ("[1]", "json: cannot unmarshal array into Go value"),
    ],
)
def test_broken_json_is_refused_in_go_s_words(text: str, complaint: str) -> None:
    assert complaints(deploy=text)[0].startswith(f"unable to parse deploy config json: {complaint}")


@pytest.mark.parametrize(
    ("ingress", "complaint"),
    [
        ({}, " - ingressGateway is required"),
        ({"enableGatewayApi": True}, " - kserveIngressGateway is required"),
        ({"enableGatewayApi": True, "kserveIngressGateway": "a"}, "be in the format <namespace>/<name>"),
        ({"enableGatewayApi": True, "kserveIngressGateway": "A_/b"}, "gateway namespace is invalid"),
        ({"enableGatewayApi": True, "kserveIngressGateway": "a/b_"}, "gateway name is invalid"),
        ({"ingressGateway": "g", "pathTemplate": "/{{.Name}}"}, "ingressDomain is required if pathTemplate is given"),
        ({"ingressGateway": "g", "pathTemplate": "{{ .Name }"}, 'path-template:1: unexpected "}" in operand'),
    ],
)
def test_ingress_section_is_checked_as_kserve_does(ingress: Document, complaint: str) -> None:
    assert any(complaint in each for each in complaints(ingress=json.dumps(ingress)))


@pytest.mark.parametrize("section", ["storageInitializer", "agent", "logger", "batcher"])
def test_amounts_of_injected_containers_must_be_quantities(section: str) -> None:
    given = {**SHIPPED[section], **AMOUNTS}
    assert complaints(**{section: json.dumps(given)}) == []
    wrong = complaints(**{section: json.dumps({**given, "memoryLimit": "1GB!"})})
    assert f'resource configuration for "{section}"' in wrong[0]


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("/serving/{{ .Namespace }}/{{ .Name }}", "https://ai.io/serving/default/m"),
        ("serving", ""),
        ("http://{{ .Name }}", ""),
        ("/{{ .Labels }}", ""),
    ],
)
def test_path_template_makes_the_url_in_mode_knative_only(template: str, url: str) -> None:
    ingress = {"ingressGateway": "g", "ingressDomain": "ai.io", "urlScheme": "https", "pathTemplate": template}
    world = ClusterObjects.build([runtime(), settings(ingress=ingress)])
    assert resolve(service(), world).url == url
    assert resolve(service(annotations=MODE), world).url == "https://m-default.ai.io"


def test_unknown_field_of_a_domain_template_is_named_with_its_place() -> None:
    ingress = {"ingressGateway": "g", "domainTemplate": "{{ .ModelName }}.{{ .IngressDomain }}"}
    assert (
        'template: domain-template:1:3: executing "domain-template" at <.ModelName>: '
        "can't evaluate field ModelName in type ingress.DomainTemplateValues"
    ) in messages(resolved(service(), runtime(), settings(ingress=ingress)))


# ---------------------------------------------------------------- runtimes that exist already


def test_runtime_that_is_written_again_is_an_update_of_itself() -> None:
    formats = [{"name": "f", "autoSelect": True, "priority": 1}]
    worker = {"containers": [{"name": "worker-container", "image": "i"}]}
    old = runtime("a", formats=formats, protocolVersions=["v1"], workerSpec=worker)
    assert ClusterObjects.build([old, old]).issues == ()
    issues = ClusterObjects.build([old, runtime("a", formats=formats, protocolVersions=["v1"])]).issues
    assert [issue.message for issue in issues] == [
        "the ServingRuntime a is invalid: removing workerSpec where it already exists is not allowed"
    ]


# ---------------------------------------------------------------- cached models


def cache(name: str, uri: str, *groups: str, namespace: str = "") -> Document:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LocalModelNamespaceCache" if namespace else "LocalModelCache",
        "metadata": metadata,
        "spec": {"sourceModelUri": uri, "modelSize": "1Gi", "nodeGroups": list(groups)},
    }


CACHED = "internal.serving.kserve.io/localmodel"


@pytest.mark.parametrize(
    ("rule", "uri", "annotations", "claim"),
    [
        ("the model itself", "s3://b/m", {}, "own-g1"),
        ("a folder below it", "s3://b/m/v1/", {}, "own-g1"),
        ("not one that only begins alike", "s3://b/m2", {}, None),
        ("the group that the service asks for", "s3://b/m", {"serving.kserve.io/nodegroup": "g2"}, "shared-g2"),
        ("no group that holds it", "s3://b/m", {"serving.kserve.io/nodegroup": "g3"}, None),
        ("the cluster's, where the namespace has none", "s3://b/x", {}, "other-g1"),
        ("not when the service does not want it", "s3://b/m", {"serving.kserve.io/disable-localmodel": "x"}, None),
    ],
)
def test_cached_model_is_mounted_instead_of_downloaded(
    rule: str, uri: str, annotations: Document, claim: str | None
) -> None:
    tree = [
        runtime(),
        settings(localModel={"enabled": True}),
        cache("own", "s3://b/m/", "g1", namespace="default"),
        cache("elsewhere", "s3://b/x", "g1", namespace="other"),
        cache("other", "s3://b/x", "g1"),
        cache("shared", "s3://b/m", "g1", "g2"),
    ]
    result = resolved(service({"storageUri": uri}, annotations=annotations, labels={CACHED: "liar"}), *tree)
    found = result.defaulted["metadata"]["annotations"].get(f"{CACHED}-pvc-name")
    assert found == claim
    assert (CACHED in result.defaulted["metadata"]["labels"]) == (claim is not None)
    claims = [v["persistentVolumeClaim"]["claimName"] for v in result.pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ([claim] if claim else [])


# ---------------------------------------------------------------- what the pod webhook adds


def containers(result: Any, key: str = "containers") -> Document:
    return {each["name"]: each for each in result.pod.get(key) or ()}


@pytest.mark.parametrize(
    ("annotations", "sidecar", "user"),
    [
        ({"serving.kserve.io/storage-initializer-uid": "1001"}, {}, 1001),
        ({"serving.kserve.io/storage-initializer-uid": "me"}, {}, None),
        ({"sidecar.istio.io/interceptionMode": "REDIRECT"}, {}, None),
        ({"sidecar.istio.io/interceptionMode": "TPROXY", "sidecar.istio.io/status": '{"containers":["p"]}'}, {}, None),
        (
            {"sidecar.istio.io/interceptionMode": "REDIRECT", "sidecar.istio.io/status": '{"containers":["p"]}'},
            {},
            1337,
        ),
        (
            {"sidecar.istio.io/interceptionMode": "REDIRECT", "sidecar.istio.io/status": '{"containers":["p"]}'},
            {"securityContext": {"runAsUser": 12}},
            12,
        ),
    ],
)
def test_initializer_runs_as_the_user_that_istio_lets_through(
    annotations: Document, sidecar: Document, user: int | None
) -> None:
    predictor = {"annotations": annotations, "containers": [{"name": "p", "image": "i:1", **sidecar}]}
    result = resolved(service({"storageUri": "s3://b/m"}, predictor))
    initializer = containers(result, "initContainers")["storage-initializer"]
    assert (initializer.get("securityContext") or {}).get("runAsUser") == user


def test_knative_s_own_proxy_learns_of_agent_and_metrics() -> None:
    queue = {"name": "queue-proxy", "image": "q:1", "env": [{"name": "USER_PORT", "value": "8080"}]}
    notes = {"serving.kserve.io/enable-metric-aggregation": "true", "prometheus.kserve.io/port": "9000"}
    predictor = {"containers": [queue], "batcher": {}, "annotations": notes}
    found = containers(resolved(service(predictor=predictor)))
    env = {each["name"]: each.get("value") for each in found["queue-proxy"]["env"]}
    assert (env["USER_PORT"], env["KSERVE_CONTAINER_PROMETHEUS_METRICS_PORT"]) == ("9081", "9000")
    assert {"name": "USER_PORT", "value": "8080"} in found["agent"]["env"]
    assert all(each["name"] != "SERVING_READINESS_PROBE" for each in found["agent"]["env"])


def test_logger_of_service_has_its_own_store_and_cluster_s_certificates() -> None:
    logger = {**SHIPPED["logger"], "caBundle": "bundle", "storage": {"path": "/cluster"}, "batchSize": 4}
    result = resolved(service(predictor={"logger": {"mode": "all"}}), runtime(), settings(logger=logger))
    agent = containers(result)["agent"]
    assert "--log-store-path" not in agent["args"]
    assert agent["args"][agent["args"].index("--log-batch-size") + 1] == "4"
    assert {"name": "agent-ca-bundle", "mountPath": "/etc/tls/logger", "readOnly": True} in agent["volumeMounts"]


def test_kserve_s_own_namespace_keeps_its_own_certificates() -> None:
    given = {**SHIPPED["storageInitializer"], "caBundleConfigMapName": "mine"}
    tree = [runtime(kind="ClusterServingRuntime"), settings(storageInitializer=given), account(), secret("x")]
    for namespace, name in (("kserve", "mine"), ("default", "global-ca-bundle")):
        result = resolved(service({"storageUri": "s3://b/m"}, namespace=namespace), *tree)
        assert {"name": "cabundle-cert", "configMap": {"name": name}} in result.pod["volumes"]


# ---------------------------------------------------------------- what KServe does not run


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_stopped_service_has_no_url_and_its_model_no_state(word: str) -> None:
    result = resolved(service(annotations={"serving.kserve.io/stop": word}))
    assert (result.url, result.model_status["transitionStatus"], result.errors) == ("", "", ())
    assert [issue.reason for issue in result.cluster_errors] == ["Stopped"]


def test_service_whose_spec_is_invalid_is_not_stopped() -> None:
    result = resolved(service({"runtime": "nope"}, annotations={"serving.kserve.io/stop": "true"}))
    assert result.model_status["transitionStatus"] == "InvalidSpec"
    assert result.cluster_errors == ()


@pytest.mark.parametrize(("default", "reasons"), [("Standard", ["ServerlessModeRejected"]), ("Knative", [])])
def test_knative_is_doubted_only_where_it_is_not_the_default(default: str, reasons: list[str]) -> None:
    isvc = service(annotations={"serving.kserve.io/deploymentMode": "Serverless"})
    result = resolved(isvc, runtime(), settings(deploy={"defaultDeploymentMode": default}))
    assert [issue.reason for issue in result.cluster_errors] == reasons


# ---------------------------------------------------------------- transformer and explainer


@pytest.mark.parametrize("kind", ["transformer", "explainer"])
@pytest.mark.parametrize(
    ("rule", "component", "complaint"),
    [
        ("a pod like any other", {"containers": [{"name": "t", "image": "t:1"}]}, ""),
        ("an image is needed", {"containers": [{"name": "t"}]}, "containers[0].image: Required value"),
        (
            "the first container takes the name that a later one may have",
            {"containers": [{"name": "t", "image": "t:1"}, {"name": "kserve-container", "image": "t:1"}]},
            'containers[1].name: Duplicate value: "kserve-container"',
        ),
    ],
)
def test_component_that_cannot_be_deployed_is_an_error(
    kind: str, rule: str, component: Document, complaint: str
) -> None:
    isvc = service()
    isvc["spec"][kind] = component
    found = messages(resolved(isvc))
    if complaint:
        expected = f'fails to reconcile {kind}: Deployment.apps "m-{kind}" is invalid: spec.template.spec.{complaint}'
        assert expected in found
    else:
        assert found == ""


# ---------------------------------------------------------------- the model's status before anything runs


@pytest.mark.parametrize(
    ("rule", "model", "annotations", "transition"),
    [
        ("all is well", {}, {}, "InProgress"),
        ("a pod that is refused is still to come", {"storageUri": None, "storage": {"key": "k", "path": "p"}}, {},
         "InProgress"),
        ("a model that cannot be had has no status", {"storageUri": "abfs://x"}, {}, ""),
        ("nor one whose Deployment is refused", {"image": " "}, {}, ""),
        ("nor one that needs what the cluster lacks", {}, {"serving.kserve.io/autoscalerClass": "keda"}, ""),
        ("an invalid spec says why", {"runtime": "nope"}, {}, "InvalidSpec"),
    ],
)  # fmt: skip
def test_transition_status_before_anything_runs(
    rule: str, model: Document, annotations: Document, transition: str
) -> None:
    status = resolved(service(model, annotations=annotations)).model_status
    assert status["transitionStatus"] == transition
    assert (status["states"] is None) == (transition == "")
