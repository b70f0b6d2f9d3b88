"""What OpenShift AI adds to a service: connections, data connections and hardware profiles, where their objects are."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.config.settings import HostSettings, Secrets
from reconciler.desired import build_desired
from reconciler.kserve.credentials import Secret
from reconciler.kserve.openshift_ai import admit
from reconciler.manifests import read_manifests
from reconciler.model import Desired, Origin, Resources
from reconciler.preview.on_cluster import validate
from reconciler.preview.on_host import validate_on
from reconciler.secrets import SecretSources
from reconciler.secrets.store import find_variables
from tests.desired.test_desired import SERVICE, TARGET, codes, snapshot
from tests.support.examples import examples

UNPLACED = SERVICE.replace("      storageUri: file:///models/tiny\n", "")
_KEYS = ("predictor", "model", "resources", "requests", "storage", "identifiers", "scheduling", "node", "tolerations")
ANNOTATIONS = {
    "uri": "opendatahub.io/connection-type-protocol: uri",
    "uri-v1": "opendatahub.io/connection-type-ref: uri-v1",
    "s3": "opendatahub.io/connection-type: s3",
    "oci": "opendatahub.io/connection-type-ref: oci-v1",
    "mail": "opendatahub.io/connection-type-ref: mail",
}
S3 = (
    "AWS_ACCESS_KEY_ID: me, AWS_SECRET_ACCESS_KEY: hush, AWS_S3_ENDPOINT: http://minio, AWS_S3_BUCKET: models, "
    "AWS_DEFAULT_REGION: eu"
)


def _trees(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4)


def annotated(text: str, *annotations: str) -> str:
    return text.replace("  name: chat\n", f"  name: chat\n  annotations: {{{', '.join(annotations)}}}\n", 1)


def connected(text: str = UNPLACED) -> str:
    return annotated(text, "opendatahub.io/connections: hub")


def secret(kind: str, data: str, name: str = "hub") -> str:
    head = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, annotations: {{{ANNOTATIONS[kind]}}}}}\n"
    return f"{head}stringData: {{{data}}}\n"


@pytest.fixture
def target(tmp_path: Path) -> HostSettings:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    return TARGET.model_copy(update={"secrets": Secrets(directory=folder)})


def put(target: HostSettings, text: str, name: str = "hub") -> None:
    assert target.secrets.directory is not None
    file = target.secrets.directory / f"{name}.yaml"
    file.write_text(text)
    file.chmod(0o600)


def one(target: HostSettings, text: str, **files: str) -> Desired:
    revision = snapshot(
        {"hosts/box/chat.yaml": text, **{f"hosts/box/{name}.yaml": each for name, each in files.items()}}
    )
    manifests = read_manifests(revision)
    store = SecretSources(target, {}).load(manifests)
    (service,) = build_desired(manifests, target, revision, secrets=store).services
    return service


# ---------------------------------------------------------------- connections


@pytest.mark.parametrize("kind", ["uri", "uri-v1"])
def test_uri_of_a_connection_is_where_the_model_is(target: HostSettings, kind: str):
    put(target, secret(kind, 'URI: "hf://org/model"'))
    service = one(target, connected())
    assert (service.blocked, service.warnings) == ((), ())
    assert service.spec is not None
    assert [each.uri for each in service.spec.mounts] == ["hf://org/model"]
    assert dict(service.mount_origins)["/mnt/models"] == Origin("hosts/box/chat.yaml", 5)


def test_connection_to_s3_is_the_storage_key_of_the_service(target: HostSettings):
    put(target, secret("s3", S3))
    service = one(target, connected().replace("      args:", "      storage: {path: chat/v1}\n      args:"))
    assert (service.blocked, service.warnings) == ((), ())
    assert service.spec is not None
    (mount,) = service.spec.mounts
    assert mount.uri == "s3://models/chat/v1"
    assert [each.source for each in mount.env if each.name == "STORAGE_CONFIG"] == ["secret storage-config/hub"]


def test_path_of_a_connection_to_s3_may_be_an_annotation(target: HostSettings):
    put(target, secret("s3", S3))
    text = annotated(UNPLACED, "opendatahub.io/connections: hub", "opendatahub.io/connection-path: chat/v2")
    service = one(target, text)
    assert service.spec is not None
    assert [each.uri for each in service.spec.mounts] == ["s3://models/chat/v2"]


def test_connection_to_s3_without_a_path_says_to_write_it(target: HostSettings):
    put(target, secret("s3", S3))
    (warning,) = [each for each in one(target, connected()).warnings if each.code == "OpenShiftAI"]
    assert str(warning).startswith("hosts/box/chat.yaml:5: connection hub: write the model's path in the bucket")


def test_missing_connection_blocks_a_service_that_writes_no_storage(target: HostSettings):
    (reason,) = one(target, connected()).blocked
    assert (reason.code, reason.origin) == ("SecretNotFound", Origin("hosts/box/chat.yaml", 5))
    assert "opendatahub.io/connections: hub needs Secret hub, which this host does not have" in reason.message
    assert reason.message.endswith("Or write where the model is, as storageUri")


def test_missing_connection_is_a_warning_where_a_storage_uri_stands(target: HostSettings):
    service = one(target, connected(SERVICE))
    assert service.blocked == ()
    (warning,) = service.warnings
    assert str(warning).startswith(
        "hosts/box/chat.yaml:5: opendatahub.io/connections: hub needs Secret hub, which this host does not have"
    )
    assert warning.message.endswith("Until then it adds nothing: the service's own settings are used")
    manifests = read_manifests(snapshot({"hosts/box/chat.yaml": connected(SERVICE)}))
    assert [each["line"] for each in validate_on(manifests, target)["warnings"]] == [5]


def test_connection_in_git_that_only_tells_an_address_is_taken(target: HostSettings):
    service = one(target, connected(), plain=secret("uri", 'URI: "oci://quay.io/org/model:1"'))
    assert service.blocked == ()
    assert service.spec is not None
    assert [each.uri for each in service.spec.mounts] == ["oci://quay.io/org/model:1"]
    manifests = read_manifests(snapshot({"hosts/box/s.yaml": secret("uri", 'URI: "hf://org/model"')}))
    assert [each for each in validate(manifests)["warnings"] if each["file"].endswith("s.yaml")] == []


@pytest.mark.parametrize(
    "data", ['URI: "https://me:hush@host/m"', 'URI: "https://host/m?sig=x"', "URI: hf://m, KEY: x"]
)
def test_connection_in_the_clear_that_holds_more_is_refused_and_said(target: HostSettings, data: str):
    (reason,) = one(target, connected(), plain=secret("uri", data)).blocked
    assert reason.origin == Origin("hosts/box/chat.yaml", 5)
    assert "which is refused: hosts/box/plain.yaml:4: " in reason.message


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("oci", "OCI_HOST: quay.io", "write where the model is, storageUri: oci://REGISTRY/MODEL:TAG"),
        ("mail", "HOST: x", "its Secret has no known type (uri, s3, oci)"),
        ("uri", "URL: x", "its Secret has no key URI"),
    ],
)
def test_connection_that_says_no_place_is_named(target: HostSettings, kind: str, data: str, said: str):
    put(target, secret(kind, data))
    found = [each for each in one(target, connected()).warnings if each.code == "OpenShiftAI"]
    assert [said in each.message for each in found] == [True]
    assert {each.origin for each in found} == {Origin("hosts/box/chat.yaml", 5)}


def test_connection_of_a_service_without_a_model_adds_nothing(target: HostSettings):
    put(target, secret("uri", 'URI: "hf://org/model"'))
    custom = "    containers: [{name: kserve-container, image: vllm/vllm:1, args: [serve, /mnt/models]}]\n"
    service = one(target, connected()[: connected().index("    model:")] + custom)
    assert service.spec is not None
    assert service.spec.mounts == ()
    assert [each.message for each in service.warnings if each.code == "OpenShiftAI"] == [
        "connection hub adds nothing: it is for services with spec.predictor.model only"
    ]


def test_connection_of_another_folders_namespace_is_not_followed(target: HostSettings):
    put(target, secret("uri", 'URI: "hf://org/model"'))
    folders = [{"path": "runtimes", "namespaces": ["team"]}]
    closed = target.secrets.model_copy(update={"folders": Secrets.model_validate({"folders": folders}).folders})
    service = one(target.model_copy(update={"secrets": closed}), connected())
    assert service.spec is not None
    assert service.spec.mounts == ()
    assert codes(service.blocked) == ["SecretNotAllowed"]


def test_plain_validate_follows_connections_and_warns_of_absent_ones():
    for more, expected in (({}, 1), ({"hosts/box/s.yaml": secret("uri", 'URI: "hf://org/model"')}, 0)):
        document = validate(read_manifests(snapshot({"hosts/box/chat.yaml": connected(), **more})))
        assert document["valid"]
        assert sum("opendatahub.io/connections" in str(each["path"]) for each in document["warnings"]) == expected


# ---------------------------------------------------------------- data connections


def test_data_connection_is_an_entry_of_the_storage_secret(target: HostSettings):
    put(target, secret("s3", S3, "aws-connection-hub"))
    text = UNPLACED.replace("      args:", "      storage: {key: aws-connection-hub, path: chat}\n      args:")
    service = one(target, text)
    assert service.blocked == ()
    assert service.spec is not None
    (mount,) = service.spec.mounts
    assert mount.uri == "s3://models/chat"
    store = SecretSources(target, {}).load(read_manifests(snapshot({})))
    (variable,) = [each for each in mount.env if each.name == "STORAGE_CONFIG"]
    values = find_variables(service.spec.__class__("", (), (), env=(variable,)), "team", store)
    entry = json.loads(values[variable]["STORAGE_CONFIG"])
    assert entry == {
        "type": "s3",
        "access_key_id": "me",
        "secret_access_key": "hush",
        "endpoint_url": "http://minio",
        "bucket": "models",
        "region": "eu",
    }
    assert "hush" not in repr(service)


def test_entry_of_storage_secret_itself_counts_before_data_connection(target: HostSettings):
    put(target, secret("s3", S3))
    own = "apiVersion: v1\nkind: Secret\nmetadata: {name: storage-config}\n"
    own += 'stringData: {hub: \'{"type": "s3", "bucket": "own"}\'}\n'
    put(target, own, "own")
    service = one(target, UNPLACED.replace("      args:", "      storage: {key: hub, path: chat}\n      args:"))
    assert service.spec is not None
    assert [each.uri for each in service.spec.mounts] == ["s3://own/chat"]


def test_refused_data_connection_is_named_where_its_key_is(target: HostSettings):
    text = UNPLACED.replace("      args:", "      storage: {key: hub, path: chat}\n      args:")
    (reason,) = one(target, text, plain=secret("s3", S3)).blocked
    assert "the model's storage needs Secret hub, which is refused: hosts/box/plain.yaml:4" in reason.message


def test_account_of_a_connection_opens_its_bucket(target: HostSettings):
    put(target, secret("s3", S3))
    text = SERVICE.replace("file:///models/tiny", "s3://models/chat") + "    serviceAccountName: hub-sa\n"
    service = one(target, text)
    assert service.spec is not None
    (mount,) = service.spec.mounts
    sources = {each.name: each.source for each in mount.env if each.source}
    assert sources["AWS_SECRET_ACCESS_KEY"] == "secret hub/AWS_SECRET_ACCESS_KEY"


# ---------------------------------------------------------------- hardware profiles


PROFILE = """\
apiVersion: infrastructure.opendatahub.io/v1
kind: HardwareProfile
metadata: {name: gpu, namespace: profiles}
spec:
  identifiers:
  - {identifier: cpu, defaultCount: "4", minCount: 1}
  - {identifier: memory, defaultCount: 16Gi}
  - {identifier: nvidia.com/gpu, defaultCount: 1, maxCount: 4}
  scheduling:
    type: Node
    node: {nodeSelector: {disk: fast}, tolerations: [{key: gpu, operator: Exists}]}
"""
NAME, SPACE = "opendatahub.io/hardware-profile-name: gpu", "opendatahub.io/hardware-profile-namespace: profiles"


def test_hardware_profile_gives_resources_that_the_service_does_not_write(target: HostSettings):
    text = annotated(SERVICE, NAME, SPACE) + "      resources: {limits: {cpu: 1}}\n"
    service = one(target.model_copy(update={"labels": {"disk": "fast"}}), text, profile=PROFILE)
    assert (service.problems, service.warnings, service.not_here) == ((), (), ())
    assert service.spec is not None
    assert service.spec.resources == Resources(
        gpus=1, cpu_millis=1000, memory_bytes=16 << 30, cpu_limit_millis=1000, memory_limit_bytes=16 << 30
    )


def test_hardware_profile_decides_on_which_hosts_a_service_runs(target: HostSettings):
    (reason,) = one(target, annotated(SERVICE, NAME, SPACE), profile=PROFILE).not_here
    assert "disk" in reason.message


def test_absent_hardware_profile_says_what_to_write_at_its_annotation(target: HostSettings):
    service = one(target, annotated(SERVICE, NAME))
    (warning,) = service.warnings
    assert service.blocked == ()
    assert str(warning) == (
        "hosts/box/chat.yaml:5: HardwareProfile gpu of namespace team is not in git, so it adds nothing; add it, or "
        "write resources, nodeSelector and tolerations into the service"
    )


def test_hardware_profile_of_another_namespace_is_pointed_at(target: HostSettings):
    (warning,) = one(target, annotated(SERVICE, NAME), profile=PROFILE).warnings
    assert warning.message.endswith("one exists in profiles: set opendatahub.io/hardware-profile-namespace: profiles")


def test_profile_of_an_older_dashboard_places_as_well(target: HostSettings):
    older = PROFILE.replace("infrastructure.opendatahub.io/v1", "dashboard.opendatahub.io/v1alpha1")
    older = older[: older.index("  scheduling:")] + "  nodeSelector: {disk: fast}\n"
    assert one(target, annotated(SERVICE, NAME, SPACE), profile=older).not_here


def test_field_of_a_wrong_type_stays_for_the_api_server_to_refuse(target: HostSettings):
    text = annotated(SERVICE, NAME, SPACE) + "      resources: many\n"
    assert [each.origin for each in one(target, text, profile=PROFILE).problems] == [Origin("hosts/box/chat.yaml", 15)]


@settings(max_examples=examples(100))
@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), _trees, max_leaves=12))
def test_service_of_any_shape_is_admitted_without_an_error(tree: object):
    annotations = {"opendatahub.io/connections": "hub", "opendatahub.io/hardware-profile-name": "gpu"}
    specs = (tree, {"predictor": tree}, {"predictor": {"model": tree, "tolerations": tree}})
    known = Secret("hub", {"URI": "hf://a/b"}, {"opendatahub.io/connection-type-ref": "uri-v1"})
    profile = tree if isinstance(tree, dict) else {}
    for spec, secrets in product(specs, ({}, {("team", "hub"): known})):
        service = {"metadata": {"annotations": annotations}, "spec": spec}
        admit(service, "team", secrets, {("team", "gpu"): profile})
