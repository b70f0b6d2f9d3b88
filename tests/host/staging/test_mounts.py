"""What downloading a service's models needs:

references that a host resolves, never values, and the message for missing ones.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config.settings import HostSettings
from reconciler.desired.blockers import storage_blocker
from reconciler.engines.digest import digest
from reconciler.model import Desired, EnvVar, Mount, Origin, StorageFile
from reconciler.model.model_sources import SOURCE_BY_SCHEME, ModelSource, key_of, secret_parts, shown, source_of
from reconciler.secrets import NO_SECRETS, SecretStore, StoredSecret
from tests.desired.test_desired import SERVICE
from tests.desired.test_secrets_desired import build

VALUE = "nobody-may-see-this"
STORED = {"type": "s3", "bucket": "models", "endpoint_url": "https://s3.example.com", "secret_access_key": VALUE}
ACCOUNT = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: team}
secrets: [{name: %s}]
"""
BUNDLE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, namespace: kserve}
data: {cabundle.crt: %s}
"""
CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: kserve}
data:
  storageInitializer: |
    {"caBundleConfigMapName": "ca", "caBundleVolumeMountPath": "/certs", "cpuRequest": "100m", "cpuLimit": "1",
     "memoryRequest": "100Mi", "memoryLimit": "1Gi"}
"""


def store(name: str, **data: str) -> SecretStore:
    keys = {key.replace("__", "-"): value.encode() for key, value in data.items()}
    found = StoredSecret("team", name, Origin("/etc/reconciler/secrets/s.yaml", 1), keys)
    return SecretStore({found.key: found})


def one(text: str, secrets: SecretStore = NO_SECRETS, **files: str) -> Desired:
    (service,) = build(text, secrets, **files).services
    assert VALUE not in repr(service)
    return service


def mount(service: Desired) -> Mount:
    assert service.spec is not None, service.problems
    (found,) = service.spec.mounts
    return found


def test_storage_key_becomes_a_uri_and_a_reference():
    text = SERVICE.replace("storageUri: file:///models/tiny", "storage: {key: mine, path: llama}")
    service = one(text, store("storage-config", mine=json.dumps(STORED)))
    assert service.blocked == ()
    found = mount(service)
    assert found.uri == "s3://models/llama"
    assert EnvVar("STORAGE_CONFIG", source="secret storage-config/mine") in found.env


def test_another_password_is_no_other_model_but_another_bucket_is():
    text = SERVICE.replace("storageUri: file:///models/tiny", "storage: {key: mine, path: llama}")
    digests = [
        one(text, store("storage-config", mine=json.dumps(STORED | more))).digest
        for more in ({}, {"secret_access_key": "another"}, {"bucket": "others"})
    ]
    assert digests[0] == digests[1] != digests[2]


def test_headers_for_a_host_are_a_reference():
    text = SERVICE.replace("file:///models/tiny", "https://models.example.com/llama.tar.gz")
    secrets = store("web", https__host="models.example.com", headers=json.dumps({"X-Token": VALUE}))
    found = mount(one(text, secrets, account=ACCOUNT % "web"))
    assert EnvVar("models.example.com-headers", source="secret web/headers") in found.env


def test_credentials_that_are_a_file_are_mounted_where_their_variable_says():
    text = SERVICE.replace("file:///models/tiny", "gs://bucket/llama")
    secrets = store("gcs", **{"gcloud-application-credentials.json": VALUE})
    found = mount(one(text, secrets, account=ACCOUNT % "gcs"))
    (file,) = found.files
    assert file.source == "secret gcs/*"
    assert EnvVar("GOOGLE_APPLICATION_CREDENTIALS", f"{file.path}/gcloud-application-credentials.json") in found.env


def test_certificate_from_git_changes_neither_digest_nor_model_key():
    text = SERVICE.replace("file:///models/tiny", "https://models.example.com/llama.tar.gz")
    old, new = (one(text, account=BUNDLE % pem, config=CONFIG) for pem in ("old", "new"))
    assert StorageFile("/certs/cabundle.crt", "old") in mount(old).files, mount(old)
    assert old.digest == new.digest
    assert key_of("team", mount(old)) == key_of("team", mount(new))


def test_secret_that_is_not_there_blocks_with_the_place_that_asks_for_it():
    text = SERVICE.replace("storageUri: file:///models/tiny", "storage: {key: mine, path: llama}")
    (reason,) = one(text).blocked
    assert (reason.code, reason.origin and reason.origin.line) == ("SecretNotFound", 10)
    assert "storage-config" in reason.message


def test_keys_tell_sources_and_namespaces_apart_but_not_places():
    plain, secret = Mount("s3://a/b"), Mount("s3://a/b", env=(EnvVar("AWS_SECRET_ACCESS_KEY", source="secret s/k"),))
    assert key_of("x", plain) == key_of("y", plain) == key_of("x", replace(plain, path="/mnt/other"))
    assert key_of("x", secret) != key_of("y", secret)
    assert len({key_of("x", each) for each in (plain, secret, Mount("s3://a/c"))}) == 3


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("/models/llama", ModelSource.FOLDER),
        ("file:///models/llama", ModelSource.FOLDER),
        ("pvc://models/llama", ModelSource.CLAIM),
        ("s3://bucket/llama", ModelSource.S3),
        ("https://host/llama.tar.gz", ModelSource.HTTP),
        ("http://host/llama.git.tar", ModelSource.HTTP),
        ("https://host/team/llama.git", ModelSource.GIT),
        ("https://account.blob.core.windows.net/container/llama", ModelSource.LIBRARY),
        ("https://account.z3.file.storage.azure.net/share/llama", ModelSource.LIBRARY),
        ("gs://bucket/llama", ModelSource.LIBRARY),
        ("hf://org/model", ModelSource.HUB),
        ("ftp://host/llama", None),
    ],
)
def test_scheme_decides_who_fetches_a_model(uri: str, source: ModelSource | None):
    assert source_of(uri) is source


@pytest.mark.parametrize("scheme", [scheme for scheme in SOURCE_BY_SCHEME if scheme])
def test_every_scheme_of_the_table_is_accepted(scheme: str):
    settings = HostSettings(name="box", paths=("box",), volumes={"models": Path("/models")})
    uri = f"{scheme}:///models" if scheme == "file" else f"{scheme}://models/llama"
    assert storage_blocker(Mount(uri, "/mnt/models"), settings) is None


def test_passwords_and_signatures_in_a_uri_are_not_shown():
    assert shown("https://me:pw@host:1/a.tar?X-Sig=abc") == "https://host:1/a.tar"
    assert shown("/models/a?b") == "/models/a?b"
    assert secret_parts("https://me:pass@host:1/a.tar?X-Sig=abc") == ("X-Sig=abc", "me:pass", "pass")
    assert secret_parts("s3://bucket/me@home") == ()


def test_spec_of_before_models_were_fetched_keeps_its_digest():
    service = one(SERVICE)
    assert service.spec is not None
    assert digest(service.spec) == digest(replace(service.spec, mounts=(Mount("file:///models/tiny"),)))
