"""The support table: complete, and nothing is reported about a target that is not in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.config.settings import EngineSettings, HostSettings, Routing
from reconciler.desired.deviations import ALL_FACTS, deviations
from reconciler.desired.origins import Origins
from reconciler.desired.support import ROWS, Effect, Fact, SupportRow, TargetKind, Where, find_row
from reconciler.kserve.schema import ObjectNode, roots
from reconciler.manifests import KNOWN_KINDS
from reconciler.manifests.documents import read_file
from reconciler.model import Desired
from tests.desired.test_desired import (
    HOST,
    PAIR,
    RUNTIME,
    SERVICE,
    TARGET,
    build,
    codes,
    one,
    with_model,
    with_predictor,
)

# ---------------------------------------------------------------- complete


def _keys(node: Any, *path: str) -> list[str]:
    for step in path:
        node = node.items if step == "[]" else node.properties[step]
    assert isinstance(node, ObjectNode)
    return sorted(node.properties)


SERVICE_NODE = roots()["serving.kserve.io/v1beta1/InferenceService"]
RUNTIME_NODE = roots()["serving.kserve.io/v1alpha1/ServingRuntime"]


@pytest.mark.parametrize(
    ("wheres", "keys"),
    [
        ((Where.SPEC,), _keys(SERVICE_NODE, "spec")),
        ((Where.PREDICTOR, Where.POD), _keys(SERVICE_NODE, "spec", "predictor")),
        ((Where.CONTAINER,), _keys(SERVICE_NODE, "spec", "predictor", "model")),
        ((Where.RUNTIME, Where.POD), _keys(RUNTIME_NODE, "spec")),
        ((Where.CONTAINER,), _keys(RUNTIME_NODE, "spec", "containers", "[]")),
        ((Where.KIND,), sorted(KNOWN_KINDS)),
    ],
    ids=["spec", "predictor", "model", "runtime", "container", "kinds"],
)
def test_every_field_of_kserve_and_every_kind_has_a_row(wheres: tuple[Where, ...], keys: list[str]):
    assert [key for key in keys if not any(find_row(where, key) for where in wheres)] == []


def test_every_annotation_and_label_of_the_documented_pair_has_a_row():
    runtime, service = yaml.safe_load_all(PAIR)
    found = {
        (where, key)
        for data in (runtime["metadata"], service["metadata"], runtime["spec"])
        for where, kind in ((Where.ANNOTATION, "annotations"), (Where.LABEL, "labels"))
        for key in data.get(kind, {})
    }
    assert len(found) == 8
    assert [each for each in found if not find_row(*each)] == []


def test_no_field_has_two_rows():
    keys = [(row.where, key) for row in ROWS for key in row.keys]
    assert len(keys) == len(set(keys))


# ---------------------------------------------------------------- what is said is what the table says


def _manifest(data: dict[str, Any]) -> Any:
    (found,) = read_file("a.yaml", yaml.safe_dump(data).encode()).documents
    return found


def _documents(row: SupportRow, key: str, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A service and a runtime that hold this field once."""
    service = {"metadata": {"name": "a"}, "spec": {"predictor": {"model": {}}}}
    service |= {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    runtime: dict[str, Any] = {"metadata": {"name": "r"}, "spec": {"containers": []}}
    runtime |= {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime"}
    places: dict[Where, Any] = {
        Where.SPEC: service["spec"],
        Where.PREDICTOR: service["spec"]["predictor"],
        Where.POD: service["spec"]["predictor"],
        Where.CONTAINER: service["spec"]["predictor"]["model"],
        Where.RUNTIME: runtime["spec"],
        Where.ANNOTATION: service["metadata"].setdefault("annotations", {}),
        Where.LABEL: service["metadata"].setdefault("labels", {}),
    }
    places[row.where][key.replace("*", "x")] = value
    return service, runtime


BY_NAME = {"containers", "initContainers", "volumes"}
FIELDS = [(row, key) for row in ROWS if row.where is not Where.KIND for key in row.keys if key not in BY_NAME]


@pytest.mark.parametrize(("row", "key"), FIELDS, ids=[f"{row.where.name}-{key}" for row, key in FIELDS])
@pytest.mark.parametrize("place", list(TargetKind))
def test_field_is_answered_as_its_row_says(row: SupportRow, key: str, place: TargetKind):
    value = row.values[0] if row.values else {"x": "y"} if row.where is Where.SPEC else "x"
    service, runtime = _documents(row, key, value)
    origins, outcome = Origins(_manifest(service), _manifest(runtime)), row.at(place)
    found = list(deviations(origins, place, frozenset()))
    if outcome.effect is Effect.HONOURED:
        assert found == []
        return
    (said,) = found
    assert (said.effect, said.reason.code) == (outcome.effect, outcome.code)
    assert outcome.note in said.reason.message
    assert key.removesuffix("*") in said.reason.message
    assert said.reason.origin
    if outcome.unless:
        assert list(deviations(origins, place, frozenset({outcome.unless}))) == []
    else:
        assert list(deviations(origins, place, ALL_FACTS)) == [said]


def test_what_asks_for_nothing_is_not_answered():
    open_rows = [row for row in ROWS if not row.values and not row.even_empty]
    nothing = (None, "", False, 0, "false", "False", [], {})
    assert [row.keys for row in open_rows if any(row.counts(value) for value in nothing)] == []


def test_fields_of_the_runtime_are_answered_at_their_own_line():
    probed = RUNTIME + "    livenessProbe: {tcpSocket: {port: 8080}}\n"
    (warning,) = one(SERVICE, {"runtimes/vllm.yaml": probed}).warnings
    assert (warning.code, str(warning.origin)) == ("NoEffect", "runtimes/vllm.yaml:17")


# ---------------------------------------------------------------- facts of a host


def annotated(text: str, **pairs: str) -> str:
    """A document with annotations and labels; a key that begins with `label_` is a label."""
    named = {"dashboard": "opendatahub.io/dashboard", "auth": "security.opendatahub.io/enable-auth"}
    labels = {named[k.removeprefix("label_")]: v for k, v in pairs.items() if k.startswith("label_")}
    notes = {named[k]: v for k, v in pairs.items() if not k.startswith("label_")}
    return text.replace("metadata:\n", f"metadata:\n  annotations: {notes}\n  labels: {labels}\n")


KEY_FROM_SECRET = ("env:", "- {name: VLLM_API_KEY, valueFrom: {secretKeyRef: {name: keys, key: chat}}}")


@pytest.mark.parametrize(
    ("uri", "enabled", "problems", "warnings"),
    [
        ("s3://b/m", "true", ["UnsupportedField"], []),
        ("s3://b/m", "false", [], []),
        ("pvc://claim/m", "true", [], ["NoEffect"]),
        ("oci://r/i", "true", [], ["NoEffect"]),
    ],
)
def test_confidential_is_refused_where_kserve_decrypts(
    uri: str, enabled: str, problems: list[str], warnings: list[str]
):
    text = with_model(f"confidential: {{enabled: {enabled}}}").replace("file:///models/tiny", uri)
    service = one(text)
    assert uri in text
    assert (codes(service.problems), codes(service.warnings)) == (problems, warnings)


def test_auth_that_nobody_enforces_is_an_error():
    service = one(annotated(SERVICE, auth="true"))
    assert service.spec is None
    (problem,) = service.problems
    assert (problem.code, problem.origin and problem.origin.line) == ("NoAuth", 4)
    assert "VLLM_API_KEY" in problem.message


@pytest.mark.parametrize("lines", [KEY_FROM_SECRET, ("env:", "- {name: VLLM_API_KEY, value: k}"), ('- "--api-key=k"',)])
def test_auth_that_engine_enforces_is_honoured_and_guarded_by_proxy(lines: tuple[str, ...]):
    service = one(annotated(with_model(*lines), auth="true"))
    assert service.problems == ()
    assert service.guarded
    assert not one(with_model(*lines)).guarded


def test_label_for_auth_means_the_same():
    text = SERVICE.replace(
        "metadata:\n", 'metadata:\n  labels: {security.openshift.io/enable-authentication: "true"}\n'
    )
    assert codes(one(text).problems) == ["NoAuth"]


TLS = ('- "--ssl-certfile=/certs/tls.crt"', '- "--ssl-keyfile=/certs/tls.key"')
PASS = "metadata:\n  annotations: {serving.knative.openshift.io/enablePassthrough: 'true'}\n"


def test_tls_is_passed_through_to_an_engine_that_ends_it():
    service = one(with_model(*TLS).replace("metadata:\n", PASS))
    assert (service.passthrough, service.blocked, service.warnings) == (True, (), ())
    assert not one(with_model(*TLS)).passthrough
    nothing = one(SERVICE.replace("metadata:\n", PASS))
    assert (nothing.passthrough, codes(nothing.warnings)) == (False, ["NoEffect"])


def test_auth_together_with_tls_passthrough_is_refused():
    both = "{serving.knative.openshift.io/enablePassthrough: 'true', security.opendatahub.io/enable-auth: 'true'}"
    keyed = '- "--api-key=k"'
    text = with_model(*TLS, keyed).replace("metadata:\n", f"metadata:\n  annotations: {both}\n")
    assert codes(one(text).problems) == ["NoAuth"]
    without_tls = with_model(keyed).replace("metadata:\n", f"metadata:\n  annotations: {both}\n")
    assert one(without_tls).guarded


def _with_accelerators(text: str) -> dict[str, str]:
    notes = f"metadata:\n  annotations: {{opendatahub.io/recommended-accelerators: '{text}'}}\n"
    return {"runtimes/vllm.yaml": RUNTIME.replace("metadata:\n", notes)}


def _judged(accelerators: str, **settings: Any) -> Desired:
    files: dict[str, Any] = {**_with_accelerators(accelerators)}
    return one(SERVICE, files, TARGET.model_copy(update=settings))


def test_recommended_accelerators_are_compared_with_the_gpus_of_the_host():
    assert codes(_judged('["nvidia.com/gpu"]', gpus=()).warnings) == ["AcceleratorMismatch"]
    assert codes(_judged('["nvidia.com/gpu"]', gpus=("GPU-1",)).warnings) == []
    assert codes(_judged('["habana.ai/gaudi"]', gpus=("GPU-1",)).warnings) == ["AcceleratorMismatch"]
    assert codes(_judged("[]", gpus=()).warnings) == []
    assert codes(_judged("not json", gpus=()).warnings) == []


def test_where_only_driver_knows_gpus_warning_waits_for_its_answer():
    service = _judged('["nvidia.com/gpu"]', gpus="auto")
    assert service.warnings == ()
    assert codes(service.warnings_without_gpu) == ["AcceleratorMismatch"]
    assert codes(_judged('["habana.ai/gaudi"]', gpus="auto").warnings) == ["AcceleratorMismatch"]


def test_private_service_is_warned_about_where_the_proxy_is_not():
    text = SERVICE.replace("metadata:\n", "metadata:\n  labels: {networking.kserve.io/visibility: cluster-local}\n")
    assert one(text).warnings == ()
    shared = TARGET.model_copy(update={"routing": Routing(listen="0.0.0.0:8080")})
    assert codes(one(text, target=shared).warnings) == ["FieldIgnored"]


def test_what_the_documented_pair_says_to_a_host_is_said():
    engine = EngineSettings(image="quay.io/modh/vllm*", python=Path("/p"))
    target = HostSettings(name="box", paths=("runtimes", "hosts/box"), engines=(engine,), gpus=("GPU-1",))
    (service,) = build({"hosts/box/pair.yaml": PAIR}, target).services
    said = sorted((warning.code, warning.message.split(" ")[1]) for warning in service.warnings[1:])
    assert said == [
        ("NoEffect", "serving.knative.openshift.io/enablePassthrough"),
        ("NoEffect", "sidecar.istio.io/inject"),
        ("NoEffect", "sidecar.istio.io/rewriteAppHTTPProbers"),
    ]
    assert (service.display_name, service.dashboard, service.metrics_path) == ("granite", True, "/metrics")


def test_dashboard_label_hides_a_service():
    assert not one(annotated(SERVICE, label_dashboard="false")).dashboard
    assert one(annotated(SERVICE, label_dashboard="true")).dashboard
    assert not one(annotated(with_predictor("workerSpec: {}"), label_dashboard="false")).dashboard


# ---------------------------------------------------------------- metrics of replicas


def _scraped(*pairs: str, model: tuple[str, ...] = ()) -> Desired:
    notes = ", ".join(pairs)
    return one(with_model(*model).replace("metadata:\n", f"metadata:\n  annotations: {{{notes}}}\n"))


def test_metrics_are_published_where_the_annotations_say():
    assert one(SERVICE).metrics_path == "/metrics"
    assert _scraped("prometheus.io/path: /m, prometheus.io/port: '8080'").metrics_path == "/m"
    assert _scraped("prometheus.io/path: m").metrics_path == "/m"
    assert _scraped("prometheus.io/scrape: 'false'").metrics_path is None


def test_port_that_is_not_the_containers_is_not_published_and_warned_about():
    service = _scraped("prometheus.io/port: '9000'")
    assert service.metrics_path is None
    assert codes(service.warnings) == ["NotScraped"]
    named = _scraped("prometheus.io/port: '9000'", model=("ports: [{containerPort: 9000}]",))
    assert (named.metrics_path, codes(named.warnings)) == ("/metrics", ["PortMismatch"])


def test_kserves_own_metrics_port_means_the_engines():
    service = _scraped("serving.kserve.io/enable-prometheus-scraping: 'true'")
    assert service.metrics_path == "/metrics"
    assert codes(service.warnings) == ["NoEffect"]


# ---------------------------------------------------------------- documents


@pytest.mark.parametrize("kind", ["LLMInferenceService", "Cluster"])
def test_document_that_means_nothing_to_hosts_is_noted(kind: str):
    versions = {"LLMInferenceService": "serving.kserve.io/v1alpha1", "Cluster": "reconciler/v1alpha1"}
    text = f"apiVersion: {versions[kind]}\nkind: {kind}\nmetadata: {{name: a}}\n"
    (note,) = build({"hosts/box/a.yaml": text, "hosts/box/host.yaml": HOST}).notes
    row = find_row(Where.KIND, kind)
    assert row
    assert note.code == row.host.code


@pytest.mark.parametrize("kind", ["InferenceGraph", "TrainedModel", "LLMInferenceServiceConfig", "LocalModelCache"])
def test_kinds_that_are_not_ours_are_said_to_be_ignored(kind: str):
    text = f"apiVersion: serving.kserve.io/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\n"
    row = find_row(Where.KIND, kind)
    assert row
    assert codes(build({"hosts/box/a.yaml": text}).notes) == [row.host.code]


def test_every_fact_decides_some_row():
    used = {outcome.unless for row in ROWS for outcome in (row.host, row.cluster)}
    assert set(Fact) <= used
