"""Rules of KServe that the recordings do not show, one row each: what goes in, what KServe 0.20's own code answers."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
import yaml

from reconciler.kserve import gojson, quantity, storage
from reconciler.kserve.placeholders import replace_placeholders
from reconciler.kserve.resolve import ClusterObjects, Resolved, resolve
from reconciler.kserve.template_syntax import TemplateError

Document = dict[str, Any]


def runtime(name: str = "r", kind: str = "ServingRuntime", **spec: Any) -> Document:
    formats = spec.pop("formats", [{"name": "vLLM", "autoSelect": True}])
    annotations = spec.pop("notes", {})
    container = {"name": "kserve-container", "image": "i:1", **spec.pop("container", {})}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"supportedModelFormats": formats, "containers": [container], **spec},
    }


def service(model: Document | None = None, predictor: Document | None = None, **metadata: Any) -> Document:
    model = {"modelFormat": {"name": "vLLM"}, "storageUri": "pvc://c/m", **(model or {})}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "m", "namespace": "default", **metadata},
        "spec": {"predictor": {"model": {k: v for k, v in model.items() if v is not None}, **(predictor or {})}},
    }


def settings(**data: Any) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "inferenceservice-config", "namespace": "kserve"},
        "data": {key: json.dumps(value) for key, value in data.items()},
    }


def secret(name: str, annotations: dict[str, str] | None = None, **data: str) -> Document:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": name, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}


def account(*secrets: str) -> Document:
    listed = [{"name": name} for name in secrets]
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}, "secrets": listed}


def resolved(isvc: Document, *tree: Document) -> Resolved:
    return resolve(isvc, ClusterObjects.build([*(tree or (runtime(),)), isvc], default_mode="Standard"))


def messages(result: Resolved) -> str:
    return "\n".join(issue.message for issue in result.errors)


# ---------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("rule", "runtimes", "order"),
    [
        ("ties fall to the name", [runtime("b"), runtime("a")], ("a", "b")),
        (
            "the namespace's own come before the cluster's whatever the priority",
            [
                runtime("own"),
                runtime("c", "ClusterServingRuntime", formats=[{"name": "vLLM", "autoSelect": True, "priority": 9}]),
            ],
            ("own", "c"),
        ),
        (
            "a lower protocol comes first, none at all last",
            [runtime("none"), runtime("two", protocolVersions=["v2", "grpc-v2"]), runtime("zone")],
            ("two", "none", "zone"),
        ),
        (
            "an unset priority comes last",
            [runtime("a"), runtime("b", formats=[{"name": "vLLM", "autoSelect": True, "priority": 1}])],
            ("b", "a"),
        ),
        (
            "the first entry of a name gives the priority",
            [
                runtime("a", formats=[{"name": "vLLM"}, {"name": "vLLM", "autoSelect": True, "priority": 9}]),
                runtime("b", formats=[{"name": "vLLM", "autoSelect": True, "priority": 1}]),
            ],
            ("b", "a"),
        ),
        ("names of formats are exact", [runtime("a", formats=[{"name": "vllm", "autoSelect": True}])], ()),
        ("multi-model runtimes are not taken", [runtime("a", multiModel=True)], ()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_candidates_are_ordered_as_kserve_orders_them(rule: str, runtimes: list[Document], order: Any) -> None:
    assert resolved(service(), *runtimes).candidates == order, rule


def test_named_runtime_needs_no_auto_select_and_may_be_multi_model() -> None:
    result = resolved(service({"runtime": "r"}), runtime(formats=[{"name": "vLLM"}], multiModel=True))
    assert result.runtime
    assert result.candidates == ()


@pytest.mark.parametrize(
    ("server", "protocol", "label"),
    [("mlserver", "v2", "modelClass"), ("torchserve", "v1", "serviceEnvelope"), ("tritonserver", "v2", "")],
)
def test_server_type_decides_protocol_and_label(server: str, protocol: str, label: str) -> None:
    formats = [{"name": "sklearn", "autoSelect": True}]
    chosen = runtime(formats=formats, notes={"serving.kserve.io/server-type": server})
    result = resolved(service({"modelFormat": {"name": "sklearn"}}), chosen)
    assert result.protocol == protocol
    assert not label or label in result.pod["labels"]


def test_two_runtimes_of_one_display_name_are_not_taken() -> None:
    notes = {"openshift.io/display-name": "Nice"}
    result = resolved(service({"runtime": "Nice"}), runtime("a", notes=notes), runtime("b", notes=notes))
    assert result.model_status["lastFailureInfo"]["reason"] == "RuntimeNotRecognized"


# ---------------------------------------------------------------- merge and image


def test_args_of_runtime_then_service_then_kserve_are_merged() -> None:
    notes = {"serving.kserve.io/server-type": "tritonserver"}
    chosen = runtime(container={"args": ["a"]}, notes=notes, formats=[{"name": "vLLM", "autoSelect": True}])
    result = resolved(service({"args": ["b"], "storageUri": None}), chosen)
    assert result.pod["containers"][0]["args"] == ["a", "b", "--model-control-mode=explicit"]


@pytest.mark.parametrize(
    ("image", "server", "resources", "version", "expected"),
    [
        ("a/b:1", "vllmserver", {}, None, "a/b-cpu:1"),
        ("a/b-cpu:1", "vllmserver", {}, None, "a/b-cpu:1"),
        ("a/b:1", "vllmserver", {"nvidia.com/mig-1g.5gb": "1"}, None, "a/b:1"),
        ("a/b@sha256:00", "vllmserver", {}, "9", "a/b@sha256:00"),
        ("a/b", "vllmserver", {}, None, "a/b"),
        ("a/b:1", "torchserve", {"nvidia.com/gpu": "1"}, None, "a/b:1-gpu"),
        ("a/b:1-gpu", "huggingfaceserver", {"nvidia.com/gpu": "1"}, None, "a/b:1-gpu"),
        ("a:5000/b", "x", {}, "9", "a:5000/b:9"),
        ("a/b:1", "huggingfaceserver", {"nvidia.com/gpu": "1"}, "9", "a/b:9"),
    ],
)
def test_image_follows_server_type_and_version(
    image: str, server: str, resources: Document, version: str | None, expected: str
) -> None:
    container = {"image": image, "resources": {"limits": resources}}
    chosen = runtime(container=container, notes={"serving.kserve.io/server-type": server})
    result = resolved(service({"runtimeVersion": version}), chosen)
    assert result.pod["containers"][0]["image"] == expected


def test_zero_in_a_probe_means_unset() -> None:
    chosen = runtime(container={"startupProbe": {"tcpSocket": {"port": 1}, "initialDelaySeconds": 30}})
    result = resolved(service({"startupProbe": {"initialDelaySeconds": 0, "periodSeconds": 5}}), chosen)
    probe = result.pod["containers"][0]["startupProbe"]
    assert (probe["initialDelaySeconds"], probe["periodSeconds"]) == (30, 5)


# ---------------------------------------------------------------- placeholders

_METADATA = {"name": "m", "namespace": "ns", "labels": {"a": "x<'\"&+>"}, "annotations": {"a-b": "v", "nl": 'q"\\n'}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{.Name}}-{{ .Namespace }}", "m-ns"),
        ("{{.Labels.a}}", "x&lt;&#39;&#34;&amp;&#43;&gt;"),
        ("{{.Labels.none}}", ""),
        ("x{{.Labels.app.kubernetes}}y", "xy"),
        ("{{if .Labels.none.deep.er}}a{{else}}b{{end}}", "b"),
        ("{{or .Labels.none.deep `d`}}", "d"),
        ("{{index .Annotations `a-b`}}", "v"),
        ("{{`{{`}}", "{{"),
        ("{{if .Labels.none}}a{{else}}b{{end}}", "b"),
        ("{{if not .Name}}a{{else if eq .Namespace `x` `ns`}}b{{else}}c{{end}}", "b"),
        ("{{if and .Name (ne .Name `x`)}}{{$.Name | printf `%q`}}{{end}}", "&#34;m&#34;"),
        ("{{(index .Annotations `a-b`) | html}}", "v"),
        ("{{printf `%s-%03d` .Name 7}}", "m-007"),
        ("{{len .Annotations}}", "2"),
        ("{{/* nothing */}}x {{- .Name -}} y", "xmy"),
        ("{{eq .Name `m`}}", "true"),
        ("{% raw %} }}", "{% raw %} }}"),
    ],
)
def test_placeholder_is_executed_as_a_go_template(text: str, expected: str) -> None:
    assert replace_placeholders({"name": "c", "args": [text]}, _METADATA)["args"] == [expected]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{{range .Labels}}{{end}}", "`range`"),
        ("{{if .Name}}{{else with .Labels}}{{end}}", "'with'"),
        ("{{with .Name}}{{.}}{{end}}", "`with`"),
        ("{{define `x`}}{{end}}", "`define`"),
        ("{{template `x`}}", "`template`"),
        ("{{$x := .Name}}", "a variable $x"),
        ("{{lt 1 2}}", "`lt`"),
        ("{{.Name | urlquery}}", "`urlquery`"),
        ("{{eq .Name nil}}", "`nil`"),
        ("{{printf `%s` 1.5}}", "a number such as 1.5"),
        ("{{eq 010 8}}", "a number such as 010"),
        ("{{eq 'c' 1}}", "a character constant 'c'"),
        ("{{printf `%5.2f` 1}}", "printf's `%5.2f`"),
    ],
)
def test_construct_of_go_that_is_not_supported_is_named(text: str, named: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(named)):
        replace_placeholders({"name": "c", "args": [text]}, _METADATA)


@pytest.mark.parametrize(
    "text",
    [
        "{{ bos_token }}",
        "{{.Spec.X}}",
        '{{index .Labels "a"}}',
        "{{",
        "{{end}}",
        "{{if .Name}}",
        "{{.Labels.a.b}}",
        "{{.DeletionTimestamp.x}}",
    ],
)
def test_what_is_no_template_fails(text: str) -> None:
    with pytest.raises(TemplateError):
        replace_placeholders({"name": "c", "args": [text]}, _METADATA)


# ---------------------------------------------------------------- storage


@pytest.mark.parametrize(
    "uri", ["/mnt/x", "rel/path", "https://a.blob.core.windows.net/c/p", "gs://b", "hf://o/m:r", ""]
)
def test_storage_uri_is_taken(uri: str) -> None:
    storage.check_uri(uri, (storage.DEFAULT_CONTAINER,))


@pytest.mark.parametrize("uri", ["abfs://c/p", "git://h/r", "ftp://h/x", "S3://b/p"])
def test_storage_uri_is_refused(uri: str) -> None:
    with pytest.raises(storage.StorageError, match=r"StorageURI not supported: storageUri, must be one of: \[gs://"):
        storage.check_uri(uri, (storage.DEFAULT_CONTAINER,))


@pytest.mark.parametrize("uri", ["oci+fetch://r/i", "modelscope://o/m"])
def test_uri_of_a_later_kserve_is_taken_with_a_warning(uri: str) -> None:
    result = resolved(service({"storageUri": uri}))
    assert result.errors == ()
    assert [issue.reason for issue in result.warnings] == ["NewerVersionRequired"]


def test_claims_of_a_runtime_are_merged_and_warned_about() -> None:
    claims = [{"name": "a", "resourceClaimName": "x"}, {"name": "b", "resourceClaimTemplateName": "y"}]
    chosen = runtime(resourceClaims=claims)
    own = {"name": "c", "resourceClaimName": "z"}
    result = resolved(service(predictor={"resourceClaims": [own]}), chosen)
    assert (result.errors, result.pod["resourceClaims"]) == ((), [own, *claims])
    world = ClusterObjects.build([chosen])
    assert world.issues == ()
    text = "resourceClaims needs KServe 0.21; 0.20 refuses it"
    assert [(issue.path, issue.message) for issue in world.warnings] == [(("spec", "resourceClaims"), text)]


def test_tracing_of_a_service_is_taken_with_a_warning() -> None:
    isvc = service()
    isvc["spec"]["tracing"] = {}
    result = resolved(isvc)
    assert (result.errors, [issue.path for issue in result.warnings]) == ((), [("spec", "tracing")])


@pytest.mark.parametrize(
    ("uri", "enabled", "said"),
    [
        ("oci://r/i", True, "confidential has no effect with OCI URIs; OCI image decryption is handled by the"),
        ("pvc://c/m", True, "confidential has no effect with PVC URIs; the storage-initializer is not injected"),
        ("s3://b/m", True, None),
        ("oci://r/i", False, None),
    ],
)
def test_confidential_in_vain_is_warned_about(uri: str, enabled: bool, said: str | None) -> None:
    result = resolved(service({"storageUri": uri, "confidential": {"enabled": enabled}}))
    assert result.errors == ()
    assert [said in issue.message for issue in result.warnings if said] == ([True] if said else [])
    assert bool(result.warnings) == bool(said)


@pytest.mark.parametrize(
    ("data", "annotations", "names"),
    [
        ({"HF_TOKEN": "t"}, {}, ["HF_TOKEN"]),
        ({"AZ_CLIENT_ID": "x"}, {}, ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"]),
        ({"https-host": "h.io", "headers": "a: b"}, {}, ["h.io-headers"]),
        ({"https-host": "h.io"}, {}, []),
        ({"gcloud-application-credentials.json": "{}"}, {}, ["GOOGLE_APPLICATION_CREDENTIALS"]),
        ({"unknown": "x"}, {}, []),
        (
            {"AWS_SECRET_ACCESS_KEY": "s", "S3_ENDPOINT": "e:9"},
            {"serving.kserve.io/s3-usehttps": "0"},
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "S3_USE_HTTPS", "S3_ENDPOINT", "AWS_ENDPOINT_URL"],
        ),
    ],
)
def test_first_known_key_decides_what_a_secret_is(data: Document, annotations: Document, names: list[str]) -> None:
    result = resolved(service({"storageUri": "s3://b/p"}), runtime(), secret("s", annotations, **data), account("s"))
    assert result.errors == ()
    assert [item["name"] for item in result.storage[0].env] == names


def test_values_of_secrets_stay_out_of_the_result() -> None:
    data = {"AWS_ACCESS_KEY_ID": "AKIASECRET", "AWS_SECRET_ACCESS_KEY": "hushhush"}
    result = resolved(service({"storageUri": "s3://b/p"}), runtime(), secret("s", **data), account("s"))
    shown = repr(result)
    assert "AKIASECRET" not in shown
    assert "hushhush" not in shown
    assert "hushhush" not in repr(ClusterObjects.build([secret("s", **data)]))


@pytest.mark.parametrize(
    ("entry", "parameters", "expected"),
    [
        ('{"type": "s3", "bucket": "b"}', None, "s3://b/p"),
        ('{"type": "s3", "bucket": "b"}', {"bucket": "other"}, "s3://other/p"),
        ('{"type": "hdfs"}', None, "hdfs://p"),
        ('{"type": "s3", "bucket": "b"}', {"type": "s3"}, "requires a bucket"),
        ('{"type": "gs"}', None, "storage type must be one of [s3, hdfs, webhdfs]. storage type [gs] is not supported"),
        ("{}", None, "unable to determine storage type"),
        ("{", None, "invalid json encountered in key k of storage secret storage-config"),
    ],
)
def test_storage_section_finds_scheme_and_bucket(entry: str, parameters: Document | None, expected: str) -> None:
    section: Document = {"key": "k", "path": "/p"} | ({"parameters": parameters} if parameters else {})
    tree = (runtime(), secret("storage-config", k=entry))
    result = resolved(service({"storageUri": None, "storage": section}), *tree)
    found = [each.uri for each in result.storage]
    assert found == [expected] if "://" in expected else expected in messages(result)


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("predictor", "notes", "message"),
    [
        ({"minReplicas": -1}, {}, "'MinReplicas' cannot be less than 0"),
        ({"maxReplicas": -1}, {}, "'MaxReplicas' cannot be less than 0"),
        ({"containerConcurrency": -1}, {}, "parallelism cannot be less than 0"),
        ({"logger": {}}, {}, "invalid logger type"),
        ({"scaleMetric": "rps"}, {"serving.kserve.io/autoscalerClass": "hpa"}, "[rps] is not a supported metric"),
        (
            {"scaleMetric": "memory", "scaleTarget": 101},
            {"serving.kserve.io/autoscalerClass": "hpa"},
            "the target utilization percentage should be a [1-100] integer",
        ),
        (
            {"scaleMetric": "cpu"},
            {"serving.kserve.io/autoscalerClass": "keda"},
            "ScaleMetric is not supported for KEDA",
        ),
        ({"scaleMetric": "cpu"}, {"serving.kserve.io/deploymentMode": "Knative"}, "[cpu] is not a supported metric"),
        (
            {"deploymentStrategy": {"type": "Recreate"}},
            {"serving.kserve.io/deploymentMode": "Serverless"},
            "customizing deploymentStrategy is only supported for raw deployment mode",
        ),
        ({"containers": [{"name": "kserve-container", "image": "i"}]}, {}, "exactly one of [Name, SKLearn"),
        (
            {"containers": [{"name": "transformer-container", "env": [{"name": "STORAGE_URI", "value": "x"}]}]},
            {},
            "storage uri should not be specified in transformer container",
        ),
        ({"nope": 1}, {}, 'strict decoding error: unknown field "spec.predictor.nope"'),
        ({"minReplica": 1}, {}, 'did you mean "minReplicas"?'),
        ({"minReplicas": "two"}, {}, 'spec.predictor.minReplicas in body must be of type integer: "string"'),
        ({"minReplicas": "2"}, {}, 'must be of type integer: "string"; write it without quotes'),
        ({"schedulerName": 4}, {}, 'must be of type string: "integer"; put it in quotes'),
        ({"tolerations": "x"}, {}, 'must be of type array: "string"; write a list, each item after a `- `'),
        (
            {"containers": [{"name": "a", "args": [{"--max-model-len": 4096}]}]},
            {},
            "; a colon makes a mapping of it: write --max-model-len=VALUE",
        ),
        ({"scaleMetric": "gpu"}, {}, 'Unsupported value: "gpu": supported values: "cpu", "memory"'),
        ({"name": "9"}, {}, "should match '^[a-z]([-a-z0-9]*[a-z0-9])?$'"),
        ({"labels": {"a b": "c"}}, {}, "name part must consist of alphanumeric"),
        ({"nodeSelector": {"a": "b c"}}, {}, "a valid label must be an empty string"),
        (
            {"tolerations": [{"operator": "Exists", "value": "x"}]},
            {},
            "value must be empty when `operator` is 'Exists'",
        ),
        ({"restartPolicy": "Never"}, {}, 'restartPolicy: Unsupported value: "Never": supported values: "Always"'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_predictor_is_refused_in_the_words_of_a_cluster(predictor: Document, notes: Document, message: str) -> None:
    assert message in messages(resolved(service(predictor=predictor, annotations=notes)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"env": [{"name": "A"}, {"name": "A"}]}, "spec.predictor.model.env[1]: Duplicate value"),
        ({"resources": {"limits": {"memory": "24GiB"}}}, "quantities must match the regular expression"),
        ({"resources": {"requests": {"nvidia.com/gpu": "1"}}}, "Limit must be set for non overcommitable resources"),
        ({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}, "must be less than or equal to cpu limit"),
        ({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}, 'volumeMounts[0].name: Not found: "v"'),
        ({"livenessProbe": {"httpGet": {"path": "/x"}}}, "httpGet.port: Invalid value: 0: must be between 1 and 65535"),
        ({"env": [{"name": "PYTHONPATH", "value": "/"}]}, "setting PYTHONPATH in container"),
        ({"confidential": {"enabled": True, "resourceId": "x"}}, "must be in the format kbs:///<repo>/<type>/<tag>"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_model_is_refused_in_the_words_of_a_cluster(model: Document, message: str) -> None:
    assert message in messages(resolved(service(model)))


def test_predictor_without_implementation_is_refused_where_kserve_panics() -> None:
    isvc = service()
    isvc["spec"]["predictor"] = {"minReplicas": 1}
    assert "exactly one of [Name, SKLearn" in messages(resolved(isvc))


def test_first_runtime_of_a_scope_is_never_refused_for_its_priorities() -> None:
    odd = [{"name": "f", "autoSelect": True, "priority": 1}, {"name": "f", "autoSelect": True, "priority": 2}]
    assert ClusterObjects.build([runtime("a", formats=odd)]).issues == ()
    issues = ClusterObjects.build([runtime("b"), runtime("a", formats=odd)]).issues
    assert [issue.message for issue in issues] == [
        "different priorities assigned for the model format f under the servingruntime a"
    ]


# ---------------------------------------------------------------- settings, mode, URL


@pytest.mark.parametrize(
    ("ingress", "url"),
    [
        ({"ingressGateway": "g"}, "http://m-default.example.com"),
        ({"ingressDomain": "ai.io", "urlScheme": "https"}, "https://m-default.ai.io"),
        ({"domainTemplate": "{{.Name}}.{{.Labels.team}}.{{.IngressDomain}}"}, "http://m.nlp.example.com"),
    ],
)
def test_url_follows_the_config_map(ingress: Document, url: str) -> None:
    assert resolved(service(labels={"team": "nlp"}), runtime(), settings(ingress=ingress)).url == url


def test_host_name_longer_than_a_label_may_be_is_an_error() -> None:
    assert "failed creating host name" in messages(resolved(service(name="m" * 50)))


@pytest.mark.parametrize(
    ("default", "annotation", "mode"),
    [
        (None, "", "Knative"),
        ("RawDeployment", "", "Standard"),
        ("Standard", "Serverless", "Knative"),
        ("Standard", "Foo", "Standard"),
    ],
)
def test_deployment_mode(default: str | None, annotation: str, mode: str) -> None:
    tree = [runtime(), *([settings(deploy={"defaultDeploymentMode": default})] if default else [])]
    notes = {"serving.kserve.io/deploymentMode": annotation} if annotation else {}
    assert resolve(service(annotations=notes), ClusterObjects.build(tree)).deployment_mode == mode


def test_knative_template_carries_its_scaler_but_no_service_annotations() -> None:
    notes = {"serving.knative.openshift.io/enablePassthrough": "true", "autoscaling.knative.dev/initial-scale": "0"}
    isvc = service(predictor={"maxReplicas": 3, "scaleTarget": 4}, annotations=notes)
    pod = resolve(isvc, ClusterObjects.build([runtime()])).pod
    scaling = {k.split("/")[1]: v for k, v in pod["annotations"].items() if k.startswith("autoscaling.knative.dev/")}
    assert scaling == {"class": "kpa.autoscaling.knative.dev", "target": "4", "min-scale": "1", "max-scale": "3"}
    assert "serving.knative.openshift.io/enablePassthrough" not in pod["annotations"]
    assert "app" not in pod["labels"]


def test_broken_config_map_is_reported_and_the_shipped_settings_hold() -> None:
    config_map = settings(ingress={"ingressDomain": 5}, deploy={"defaultDeploymentMode": "Nope"})
    world = ClusterObjects.build([runtime(), config_map])
    assert {issue.path for issue in world.issues} == {("data", "deploy"), ("data", "ingress")}
    assert resolve(service(), world).url == "http://m-default.example.com"


@pytest.mark.parametrize(
    ("args", "env", "name"),
    [
        (["--model_name=a"], [], "a"),
        (["--model_name", "b"], [], "b"),
        (["--model_name=a"], [{"name": "MLSERVER_MODEL_NAME", "value": "c"}], "c"),
        ([], [], "m"),
    ],
)
def test_model_name(args: list[str], env: list[Document], name: str) -> None:
    assert resolved(service({"args": args, "env": env})).model_name == name


# ---------------------------------------------------------------- small parts


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        *[("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1e3", "1e3"), ("0", "0")],
        *[(2, "2"), ("1000M", "1G"), ("0.1m", "100u"), ("1536", "1536"), (0.5, "500m")],
    ],
)
def test_quantity_is_written_as_the_api_server_writes_it(text: Any, normal: str) -> None:
    assert quantity.canonical(text) == normal


@pytest.mark.parametrize("text", ["24GiB", "", "1 Gi", "--1", True, None, "1e", "٣"])
def test_what_is_no_quantity(text: Any) -> None:
    assert not quantity.is_quantity(text)


def test_json_is_escaped_as_go_does() -> None:
    assert gojson.dumps({"a": "<&>é"}) == '{"a":"\\u003c\\u0026\\u003eé"}'


def test_documents_of_a_tree_stay_as_they_are() -> None:
    tree = [runtime(), service(), settings(deploy={"defaultDeploymentMode": "Standard"})]
    before = yaml.safe_dump(tree)
    resolve(tree[1], ClusterObjects.build(tree))
    assert yaml.safe_dump(tree) == before


# ---------------------------------------------------------------- which container takes a URI


def supports(pattern: object, uri: str) -> bool:
    return storage.StorageContainer("c", {"supportedUriFormats": [{"regex": pattern}]}).supports(uri)


@pytest.mark.parametrize("pattern", [r"^(a+)+$", r"(a|aa)+$", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(.*a){20}$"])
def test_regex_of_a_storage_container_takes_linear_time(pattern: str) -> None:
    # One that backtracks would not end in the life of this test's time limit.
    assert not supports(pattern, "a" * 5000 + "!")


@pytest.mark.parametrize("pattern", ["(", r"(?=a)b", r"(a)\1", "a{100000}", "((a{100}){100}){100}", "\ud800"])
def test_regex_that_go_refuses_is_refused_with_its_words(pattern: str) -> None:
    with pytest.raises(storage.StorageError, match="error parsing regexp"):
        supports(pattern, "a")


def test_regex_of_a_storage_container_reads_as_in_go() -> None:
    assert supports(r"https?://(.+)/(.+)", "http://a/b")
    assert supports(r"(?P<scheme>s3|gs)://\pL+", "gs://buchet")
    assert not supports(12, "s3://a")
