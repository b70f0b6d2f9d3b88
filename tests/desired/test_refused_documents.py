"""What `validate` refuses does not exist on a host: its services keep what runs, and say which file and line."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.desired import HOST_MODE, build_desired
from reconciler.manifests import read_manifests
from reconciler.model import Desired, DesiredState, ReasonCode
from reconciler.preview import on_cluster
from reconciler.secrets import SecretSources
from tests.desired.test_desired import RUNTIME, SERVICE, TARGET, build, codes, snapshot
from tests.support.examples import examples

AUTO = SERVICE.replace("      runtime: vllm\n", "")
CLUSTER_WIDE = RUNTIME.replace("kind: ServingRuntime", "kind: ClusterServingRuntime")
OTHER_FORMAT = RUNTIME.replace("name: vllm\n", "name: triton\n").replace("name: vLLM,", "name: triton,")

WRONG_TYPE = RUNTIME.replace("value: /tmp", "value: 2")
UNKNOWN_TOP = RUNTIME.replace("kind: ServingRuntime\n", "kind: ServingRuntime\nlabels: {a: b}\n")
MISSPELT = RUNTIME.replace("    args:", "    arg:")


def chat(files: dict[str, str | bytes]) -> Desired:
    (service,) = (each for each in build({"hosts/box/chat.yaml": SERVICE, **files}).services if each.id.name == "chat")
    return service


def places_of(service: Desired) -> list[str]:
    return [str(each.origin) for each in service.problems if each.code == ReasonCode.INVALID_DOCUMENT]


@pytest.mark.parametrize("service", [SERVICE, AUTO])
@pytest.mark.parametrize(
    ("runtime", "line"), [(WRONG_TYPE, 16), (UNKNOWN_TOP, 3), (MISSPELT, 12), (CLUSTER_WIDE + "labels: {}\n", 17)]
)
def test_service_of_refused_runtime_is_unusable_and_names_line(runtime: str, line: int, service: str) -> None:
    found = chat({"runtimes/vllm.yaml": runtime, "hosts/box/chat.yaml": service})
    assert found.spec is None
    assert places_of(found) == [f"runtimes/vllm.yaml:{line}"]
    assert "ServingRuntime vllm is refused" in found.problems[0].message


def test_refused_documents_are_listed_once_and_hide_no_service() -> None:
    state = build({"runtimes/vllm.yaml": WRONG_TYPE, "hosts/box/chat.yaml": SERVICE})
    assert [(each.code, str(each.origin)) for each in state.refused] == [
        (ReasonCode.INVALID_DOCUMENT, "runtimes/vllm.yaml:16")
    ]
    assert (state.unreadable, state.prunable) == ((), True)


@pytest.mark.parametrize(
    ("refused", "service"),
    [
        (OTHER_FORMAT + "labels: {}\n", SERVICE),
        (OTHER_FORMAT + "labels: {}\n", AUTO),
        (RUNTIME.replace("name: vllm\n", "name: z\n  namespace: far\n") + "labels: {}\n", AUTO),
        # The namespace's own runtime goes before any of the cluster.
        (CLUSTER_WIDE + "labels: {}\n", SERVICE),
        (CLUSTER_WIDE.replace("name: vllm\n", "name: z\n") + "labels: {}\n", AUTO),
        (RUNTIME.replace("name: vllm\n", "name: z\n") + "labels: {}\n", SERVICE),
    ],
)
def test_service_that_refused_runtime_cannot_concern_goes_on(refused: str, service: str) -> None:
    found = chat({"runtimes/other.yaml": refused, "hosts/box/chat.yaml": service})
    assert found.spec
    assert found.problems == ()


@pytest.mark.parametrize("formats", ["supportedModelFormats: 3", "supportedModelFormats: [{name: 3}]"])
def test_auto_selection_waits_for_refused_runtime_of_unclear_formats(formats: str) -> None:
    better = (
        f"apiVersion: serving.kserve.io/v1alpha1\nkind: ServingRuntime\nmetadata: {{name: z}}\nspec:\n  {formats}\n"
    )
    assert chat({"runtimes/z.yaml": better, "hosts/box/chat.yaml": AUTO}).spec is None
    assert chat({"runtimes/z.yaml": better}).spec


def test_runtime_of_same_priority_is_refused_as_by_the_webhook() -> None:
    first = RUNTIME.replace("spec:\n", "spec:\n  protocolVersions: [v1, v2]\n")
    second = first.replace("name: vllm\n", "name: z\n")
    by_name = SERVICE.replace("runtime: vllm", "runtime: z")
    files = {"runtimes/vllm.yaml": first, "runtimes/z.yaml": second}
    assert places_of(chat({**files, "hosts/box/chat.yaml": by_name})) == ["runtimes/z.yaml:5"]
    assert chat(files).spec


CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {GREETING: hello}\n"
ACCOUNT = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: fetcher}\nsecrets: []\n"
CONTAINER = """\
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterStorageContainer
metadata: {name: special}
spec:
  container: {name: storage-initializer, image: fetch/it:1}
  supportedUriFormats: [{prefix: "s3://special"}]
"""
KSERVE_CONFIG = (
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: inferenceservice-config, namespace: kserve}\ndata: {x: any}\n"
)
FROM_MAP = SERVICE + "      envFrom: [{configMapRef: {name: words, optional: true}}]\n"
KEY_OF_MAP = SERVICE + "      env: [{name: A, valueFrom: {configMapKeyRef: {name: words, key: GREETING}}}]\n"
WITH_ACCOUNT = SERVICE.replace("  predictor:\n", "  predictor:\n    serviceAccountName: fetcher\n")
FETCHED = SERVICE.replace("file:///models/tiny", "s3://special/tiny")
FETCHED_BY_ACCOUNT = WITH_ACCOUNT.replace("file:///models/tiny", "s3://special/tiny")


@pytest.mark.parametrize(
    ("document", "service", "line"),
    [
        (CONFIG_MAP.replace("hello", "1"), FROM_MAP, 4),
        (CONFIG_MAP.replace("hello", "1"), KEY_OF_MAP, 4),
        (ACCOUNT + "secret: []\n", WITH_ACCOUNT, 5),
        (ACCOUNT.replace("fetcher", "default") + "secret: []\n", SERVICE, 5),
        (CONTAINER + "  supportedUris: []\n", FETCHED, 7),
        (CONTAINER.replace('"s3://special"', "3"), FETCHED, 6),
        (KSERVE_CONFIG + "dat: {}\n", SERVICE, 5),
        (KSERVE_CONFIG.replace("x: any", "deploy: nonsense"), SERVICE, 4),
    ],
)
def test_service_that_needs_any_refused_document_is_unusable(document: str, service: str, line: int) -> None:
    found = chat({"runtimes/more.yaml": document, "hosts/box/chat.yaml": service})
    assert found.spec is None
    assert places_of(found) == [f"runtimes/more.yaml:{line}"]


PROFILE = (
    "apiVersion: infrastructure.opendatahub.io/v1\nkind: HardwareProfile\nmetadata: {name: small}\n"
    "spec: {identifiers: []}\n"
)
PROFILED = SERVICE.replace("metadata:\n", "metadata:\n  annotations: {opendatahub.io/hardware-profile-name: small}\n")


@pytest.mark.parametrize(
    ("document", "service"),
    [
        (RUNTIME, SERVICE),
        (RUNTIME, AUTO),
        (CONFIG_MAP, FROM_MAP),
        (ACCOUNT, WITH_ACCOUNT),
        (CONTAINER, FETCHED),
        (KSERVE_CONFIG, SERVICE),
        (PROFILE, PROFILED),
    ],
)
def test_service_that_needs_a_duplicate_object_is_unusable(document: str, service: str) -> None:
    """Which one a cluster has depends on what applies them: kustomize refuses both, `kubectl apply` takes the last."""
    files = {"runtimes/vllm.yaml": RUNTIME, "runtimes/x.yaml": document, "hosts/box/chat.yaml": service}
    if document != RUNTIME:
        files["runtimes/y.yaml"] = document.replace("hello", "bye")
    found = chat({**files})
    (problem,) = found.problems
    first, other = ("vllm", "x") if document == RUNTIME else ("x", "y")
    assert (found.spec, problem.code, str(problem.origin)) == (None, "DuplicateObject", f"runtimes/{first}.yaml:1")
    assert f"is also written at runtimes/{other}.yaml:1; keep one; team/chat depends on it" in problem.message


@pytest.mark.parametrize("document", [CONFIG_MAP, ACCOUNT, CONTAINER, PROFILE])
def test_service_that_needs_no_duplicate_object_goes_on(document: str) -> None:
    state = build({"runtimes/x.yaml": document, "runtimes/y.yaml": document, "hosts/box/chat.yaml": SERVICE})
    assert state.services[0].spec
    assert codes(state.notes) == ["DuplicateObject"] * 2


@pytest.mark.parametrize(
    "document",
    [
        CONFIG_MAP.replace("hello", "1"),
        ACCOUNT + "secret: []\n",
        CONTAINER + "  supportedUris: []\n",
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LocalModelCache\nmetadata: {name: m}\nspec: {model: a}\n",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\nspce: {}\n",
    ],
)
def test_service_that_needs_no_refused_document_goes_on(document: str) -> None:
    state = build({"runtimes/more.yaml": document, "hosts/box/chat.yaml": SERVICE})
    assert state.refused
    assert state.services[0].spec


def test_secret_with_unknown_field_blocks_who_needs_it() -> None:
    """The store of Secrets reports it; it is reported once."""
    target = TARGET.model_copy(update={"secrets": TARGET.secrets.model_copy(update={"allow_plaintext": True})})
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: hf}\nstringData: {token: abc}\nlabels: {}\n"
    text = SERVICE + "      env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}]\n"
    revision = snapshot({"hosts/box/chat.yaml": text, "hosts/box/s.yaml": secret})
    manifests = read_manifests(revision)
    store = SecretSources(target, {}).load(manifests)
    state = build_desired(manifests, target, revision, secrets=store)
    assert codes(state.services[0].blocked) == ["SecretNotFound"]
    assert [str(each.origin) for each in state.refused] == ["hosts/box/s.yaml:5"]


def test_only_the_version_that_is_refused_waits_for_its_correction() -> None:
    """A canary by another runtime: what is wrong with that one is wrong with the service."""
    model = "{modelFormat: {name: vLLM}, runtime: z, storageUri: file:///models/tiny}"
    text = f"{SERVICE}  canary: [{{trafficPercent: 10, predictor: {{name: next, model: {model}}}}}]\n"
    files = {"runtimes/z.yaml": RUNTIME.replace("name: vllm\n", "name: z\n") + "labels: {}\n"}
    assert places_of(chat({**files, "hosts/box/chat.yaml": text})) == ["runtimes/z.yaml:17"]


# ---------------------------------------------------------------- what cannot be read at all

BROKEN = "x: [\n"


@pytest.mark.parametrize(
    ("document", "service"),
    [
        (CONFIG_MAP + BROKEN, FROM_MAP),
        (CONFIG_MAP.replace("{name: words}", "{name: 3}"), FROM_MAP),
        (KSERVE_CONFIG + BROKEN, SERVICE),
        (KSERVE_CONFIG.replace("kserve}", "K}"), SERVICE),
        (ACCOUNT + BROKEN, FETCHED_BY_ACCOUNT),
        (ACCOUNT + BROKEN, FETCHED),
        (CONTAINER + BROKEN, FETCHED),
    ],
)
def test_service_waits_for_what_it_may_need_and_cannot_be_read(document: str, service: str) -> None:
    found = chat({"runtimes/more.yaml": document, "hosts/box/chat.yaml": service})
    assert codes(found.problems) == ["DependencyUnreadable"]
    assert found.problems[0].origin
    assert found.problems[0].origin.file == "runtimes/more.yaml"


@pytest.mark.parametrize("document", [CONFIG_MAP, ACCOUNT, CONTAINER])
def test_service_that_needs_no_unreadable_document_goes_on(document: str) -> None:
    assert chat({"runtimes/more.yaml": document + BROKEN}).spec
    known = {"runtimes/words.yaml": CONFIG_MAP, "runtimes/a.yaml": CONFIG_MAP.replace("words", "other") + BROKEN}
    assert chat({**known, "hosts/box/chat.yaml": FROM_MAP}).spec


PROFILE = """\
apiVersion: infrastructure.opendatahub.io/v1
kind: HardwareProfile
metadata: {name: big, namespace: team}
spec: {identifiers: [{identifier: cpu, defaultCount: 2}]}
"""
PROFILED = "  name: chat\n  annotations: {opendatahub.io/hardware-profile-name: big}\n"
WITH_PROFILE = SERVICE.replace("  name: chat\n", PROFILED)


@pytest.mark.parametrize(
    ("document", "service"), [(CONFIG_MAP, FROM_MAP), (PROFILE, WITH_PROFILE), (ACCOUNT, FETCHED_BY_ACCOUNT)]
)
@pytest.mark.parametrize(
    "misspell",
    [
        lambda text: text.replace("kind: ", "kind: X"),
        lambda text: re.sub("kind: (.*)", lambda found: f"kind: {found[1].lower()}", text),
        lambda text: re.sub("kind: .*\n", "", text),
        lambda text: text.replace("/v1", "/v9").replace(": v1", ": v9"),
        lambda text: text.replace(": v1", ": core/v1").replace("opendatahub.io/v1", "opendatahub.oi/v1"),
        lambda text: text.replace("{name: ", "{name: X"),
        lambda _: "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        lambda _: "\0\1\2",
        lambda text: text + BROKEN,
    ],
)
def test_misspelt_document_is_not_taken_for_an_absent_one(
    misspell: Callable[[str], str], document: str, service: str
) -> None:
    good = {"hosts/box/chat.yaml": service, "hosts/box/it.yaml": document}
    assert chat(good).spec
    found = chat({**good, "hosts/box/it.yaml": misspell(document)})
    assert codes(found.problems) == ["DependencyUnreadable"]
    assert found.problems[0].origin
    assert found.problems[0].origin.file == "hosts/box/it.yaml"


def test_profile_that_is_refused_is_not_used() -> None:
    files = {
        "hosts/box/chat.yaml": WITH_PROFILE,
        "hosts/box/it.yaml": PROFILE.replace("{name", "{labels: {a: 1}, name"),
    }
    assert places_of(chat(files)) == ["hosts/box/it.yaml:3"]


@pytest.mark.parametrize("metadata", ["labels: 3", "annotations: [a]", "labels: {a: [1]}"])
def test_kind_without_schema_is_refused_for_its_labels_alone(metadata: str) -> None:
    host = f"apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {{name: box, {metadata}}}\nspec: {{}}\n"
    state = build({"hosts/box/host.yaml": host, "hosts/box/chat.yaml": SERVICE})
    assert codes(state.refused) == [ReasonCode.INVALID_DOCUMENT]
    assert state.services[0].spec


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [("cluster.x-k8s.io/v1", "Cluster"), ("gcp.upbound.io/v1", "ServiceAccount"), ("gcp.upbound.io/v1", "Secret")],
)
def test_kind_of_another_domain_may_have_the_name_of_ours(api_version: str, kind: str) -> None:
    found = read_manifests(snapshot({"a.yaml": f"apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n"}))
    assert found.errors == ()


@pytest.mark.parametrize("more", ["labels: {}\n", BROKEN])
def test_connection_that_is_refused_is_not_taken_for_an_absent_one(more: str) -> None:
    target = TARGET.model_copy(update={"secrets": TARGET.secrets.model_copy(update={"allow_plaintext": True})})
    text = SERVICE.replace("  name: chat\n", "  name: chat\n  annotations: {opendatahub.io/connections: hub}\n")
    secret = (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: hub, annotations: {opendatahub.io/connection-type: uri}}\n"
        'stringData: {URI: "file:///models/other"}\n'
    )

    def described(files: dict[str, str | bytes]) -> Desired:
        revision = snapshot({"hosts/box/chat.yaml": text, **files})
        manifests = read_manifests(revision)
        store = SecretSources(target, {}).load(manifests)
        return build_desired(manifests, target, revision, secrets=store).services[0]

    assert described({}).spec
    assert described({"hosts/box/s.yaml": secret}).spec
    (reason,) = described({"hosts/box/s.yaml": secret + more}).problems
    assert (reason.code, "hosts/box/s.yaml:" in reason.message) == ("SecretNotFound", True)


# ---------------------------------------------------------------- validate and plan agree

TREE = {
    "runtimes/vllm.yaml": RUNTIME,
    "runtimes/words.yaml": CONFIG_MAP,
    "runtimes/config.yaml": KSERVE_CONFIG,
    "runtimes/account.yaml": ACCOUNT,
    "runtimes/container.yaml": CONTAINER,
    "runtimes/profile.yaml": PROFILE.replace("{name", "{labels: {a: b}, annotations: {a: b}, name"),
    "hosts/box/chat.yaml": WITH_ACCOUNT.replace("  name: chat\n", PROFILED).replace(
        "file:///models/tiny", "s3://special/tiny"
    )
    + "      envFrom: [{configMapRef: {name: words}}]\n",
}
JUNK = (None, 3, 1.5, True, "", "x", "é", [], {}, ["a"], {"a": "b"}, {"a": 1}, [{"name": "a"}])
# Without their names documents do not stand for themselves any more: reading them fails before any validation.
IDENTITY = {("kind",), ("apiVersion",), ("metadata",), ("metadata", "name"), ("metadata", "namespace")}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutated(document: Any, choice: random.Random) -> Any:
    """A document with one value of another kind, or one field more."""
    document = copy.deepcopy(document)
    *way, last = choice.choice([each for each in places(document) if each not in IDENTITY])
    holder: Any = document
    for key in way:
        holder = holder[key]
    if choice.random() < 0.3 and isinstance(holder, dict):
        holder[f"{last}s" if choice.random() < 0.5 else "extra"] = choice.choice(JUNK)
    else:
        holder[last] = choice.choice(JUNK)
    return document


def is_refused(state: DesiredState) -> bool:
    ours = {ReasonCode.INVALID_DOCUMENT, ReasonCode.ADMISSION_DENIED}
    return any({each.code for each in service.problems} & ours for service in state.services)


@settings(max_examples=examples(400), deadline=None)
@given(st.sampled_from(sorted(TREE)), st.randoms(use_true_random=False))
def test_validate_refuses_exactly_what_a_host_does_not_use(file: str, choice: random.Random) -> None:
    text = yaml.safe_dump(mutated(yaml.safe_load(TREE[file]), choice), allow_unicode=True)
    revision = snapshot({**TREE, file: text})
    manifests = read_manifests(revision)
    verdict = on_cluster.validate(manifests, on_cluster.RenderContext(TARGET.default_namespace, HOST_MODE))
    state = build_desired(manifests, TARGET, revision)
    assert [each.id.name for each in state.services] == ["chat"]
    assert "InternalError" not in codes((*state.refused, *state.services[0].problems))
    if not verdict["valid"]:
        assert state.services[0].spec is None, verdict["errors"]
    else:
        assert not is_refused(state), state.services[0].problems
        assert not state.refused


def test_tree_of_the_property_is_valid_as_it_stands() -> None:
    assert on_cluster.validate(read_manifests(snapshot({**TREE})), on_cluster.RenderContext("team", HOST_MODE))["valid"]
    assert build({**TREE}).services[0].spec
