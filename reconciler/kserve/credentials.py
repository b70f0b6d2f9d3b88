"""The credentials of a storage initializer: references to secrets, never their values.

The one exception is KServe's own: headers for an https host go into a variable as they are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.kserve import gojson, names
from reconciler.kserve.config import Config
from reconciler.kserve.issues import AbsentSecret
from reconciler.kserve.storage import StorageError

Document = Mapping[str, Any]
SCHEME_PLACEHOLDER = "<scheme-placeholder>://"
_SPEC_TYPES = ("s3", "hdfs", "webhdfs")
_ROLE = "eks.amazonaws.com/role-arn"
_REFUSED_BY_POD_WEBHOOK = 'secrets "{}" not found'


@dataclass(frozen=True, slots=True, eq=False)
class Secret:
    """A Secret; `data` is decoded text. Of a `private` one no value is written anywhere, only where it is."""

    name: str
    data: Mapping[str, str] = field(repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict)
    private: bool = False


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A ServiceAccount of the tree."""

    name: str
    secrets: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Vault:
    """Where one namespace's secrets and accounts are looked up."""

    secret: Callable[[str], Secret | None]
    account: Callable[[str], ServiceAccount | None]
    config: Config


@dataclass(slots=True)
class Given:
    """What credentials add to an initializer: variables, mounts and volumes."""

    env: list[Document] = field(default_factory=list)
    mounts: list[Document] = field(default_factory=list)
    volumes: list[Document] = field(default_factory=list)


def decode_secret(document: Document) -> Secret:
    """A Secret as KServe reads it: stringData over the decoded data."""
    data = {key: _decoded(value) for key, value in (document.get("data") or {}).items()}
    metadata = document.get("metadata") or {}
    text = {**data, **(document.get("stringData") or {})}
    return Secret(metadata.get("name", ""), text, metadata.get("annotations") or {})


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""


def secret_ref(name: str, secret: str, key: str) -> Document:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


# ---------------------------------------------------------------- storage.key, storage.path, storage.parameters


def storage_spec_env(key: str, parameters: Mapping[str, str], annotations: Mapping[str, str], vault: Vault) -> Given:
    """Variables for a `storage` section. Raises StorageError. The URI is made by `storage_spec_uri`."""
    entry = _entry(key, parameters, annotations, vault)
    given = Given()
    if entry.found:
        if entry.cabundle is not None:
            given.env.append({"name": "AWS_CA_BUNDLE_CONFIGMAP", "value": entry.cabundle})
        given.env.append(secret_ref("STORAGE_CONFIG", entry.secret, entry.key))
    if not entry.type:
        raise StorageError("unable to determine storage type")
    if parameters:
        text = gojson.dumps(dict(sorted(parameters.items())))
        given.env.append({"name": "STORAGE_OVERRIDE_CONFIG", "value": text})
    return given


def storage_spec_uri(
    uri: str, key: str, parameters: Mapping[str, str], annotations: Mapping[str, str], vault: Vault
) -> str:
    """The URI of a `storage` section's path: its scheme and bucket come from the secret or the parameters."""
    if not uri.startswith(SCHEME_PLACEHOLDER):
        return uri
    entry = _entry(key, parameters, annotations, vault)
    path = uri.removeprefix(SCHEME_PLACEHOLDER)
    if entry.type != "s3":
        return f"{entry.type}://{path}"
    if not entry.bucket:
        raise StorageError("format [s3] requires a bucket but one wasn't found in storage data or parameters")
    return f"s3://{entry.bucket}/{path}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the storage secret, and what it says together with the parameters."""

    secret: str
    key: str
    type: str
    bucket: str
    cabundle: str | None = None
    found: bool = False


def _entry(key: str, parameters: Mapping[str, str], annotations: Mapping[str, str], vault: Vault) -> _Entry:
    kind, bucket = parameters.get("type", ""), parameters.get("bucket", "")
    settings = vault.config["credentials"]
    name = settings.get("storageSpecSecretName") or "storage-config"
    name = annotations.get(settings.get("storageSecretNameAnnotation", ""), name)
    secret = vault.secret(name)
    if secret is None and key:
        refusal = _REFUSED_BY_POD_WEBHOOK.format(name)
        raise StorageError(f"can't read storage secret {name}: {refusal}", AbsentSecret(name))
    if secret and key and key not in secret.data:
        raise StorageError(f"specified storage key {key} not found in storage secret {name}", AbsentSecret(name, key))
    key = key or (f"default_{kind}" if kind else "default")
    text = secret.data.get(key) if secret else None
    if text is None or kind:
        return _Entry(name, key, kind, bucket, found=text is not None)
    content = _content(text, key, name)
    kind = content.get("type", "")
    if "type" in content and kind not in _SPEC_TYPES:
        known = ", ".join(_SPEC_TYPES)
        raise StorageError(f"storage type must be one of [{known}]. storage type [{kind}] is not supported")
    return _Entry(name, key, kind, bucket or content.get("bucket", ""), content.get("cabundle_configmap"), True)


def _content(text: str, key: str, secret: str) -> Mapping[str, str]:
    try:
        return gojson.loads_texts(text)
    except ValueError as error:
        raise StorageError(f"invalid json encountered in key {key} of storage secret {secret}: {error}") from None


# ---------------------------------------------------------------- service accounts


def account_credentials(account_name: str, annotations: Mapping[str, str], vault: Vault) -> Given:
    """What a service account's secrets add, or those that the service's annotation names. Raises StorageError."""
    given = Given()
    account = vault.account(account_name or "default")
    if account is None:
        return given
    s3 = vault.config["credentials"].get("s3") or {}
    if _ROLE in account.annotations:
        given.env += s3_env(account.annotations, None, s3)
    chosen = vault.config["credentials"].get("storageSecretNameAnnotation")
    named = annotations.get(chosen) if chosen else None
    for name in account.secrets if named is None else (named,):
        secret = vault.secret(name)
        if secret is None:
            raise StorageError(_REFUSED_BY_POD_WEBHOOK.format(name), AbsentSecret(name))
        _add_secret(secret, given, vault.config)
    return given


def _add_secret(secret: Secret, given: Given, config: Config) -> None:
    """The first key that is known decides what kind of secret it is."""
    settings = config["credentials"]
    s3 = settings.get("s3") or {}
    gcs_file = (settings.get("gcs") or {}).get("gcsCredentialFileName") or "gcloud-application-credentials.json"
    if (s3.get("s3SecretAccessKeyName") or "awsSecretAccessKey") in secret.data:
        _override(given.env, _s3_secret_env(secret, s3))
    elif gcs_file in secret.data:
        _mount(given, "user-gcp-sa", secret.name, "/var/secrets/")
        given.env.append({"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": f"/var/secrets/{gcs_file}"})
    elif any(key in secret.data for key in ("AZ_CLIENT_ID", "AZURE_CLIENT_ID", "AZURE_ACCESS_TOKEN")):
        given.env += _azure_env(secret)
    elif "AZURE_STORAGE_ACCESS_KEY" in secret.data:
        given.env.append(secret_ref("AZURE_STORAGE_ACCESS_KEY", secret.name, "AZURE_STORAGE_ACCESS_KEY"))
    elif "https-host" in secret.data:
        if "headers" in secret.data:
            given.env.append(_headers(secret, secret.data["https-host"] + "-headers"))
    elif "HDFS_NAMENODE" in secret.data:
        _mount(given, "hdfs-secrets", secret.name, "/var/secrets/kserve-hdfscreds")
    elif "HF_TOKEN" in secret.data:
        given.env.append(secret_ref("HF_TOKEN", secret.name, "HF_TOKEN"))


def _headers(secret: Secret, name: str) -> Document:
    return (
        secret_ref(name, secret.name, "headers") if secret.private else {"name": name, "value": secret.data["headers"]}
    )


def _mount(given: Given, volume: str, secret: str, path: str) -> None:
    if all(item["name"] != volume for item in given.volumes):
        given.volumes.append({"name": volume, "secret": {"secretName": secret}})
    given.mounts.append({"name": volume, "mountPath": path, "readOnly": True})


def _override(env: list[Document], added: list[Document]) -> None:
    """Values of the same name are replaced; KServe copies the value only, not a reference."""
    for item in added:
        index = next((i for i, old in enumerate(env) if old["name"] == item["name"]), None)
        if index is None:
            env.append(item)
        else:
            env[index] = {**env[index], "value": item.get("value", "")}


_AZURE_KEYS = (
    ("AZURE_SUBSCRIPTION_ID", "AZ_SUBSCRIPTION_ID"),
    ("AZURE_TENANT_ID", "AZ_TENANT_ID"),
    ("AZURE_CLIENT_ID", "AZ_CLIENT_ID"),
    ("AZURE_CLIENT_SECRET", "AZ_CLIENT_SECRET"),
    ("AZURE_STORAGE_ACCESS_KEY", ""),
    ("AZURE_ACCESS_TOKEN", ""),
    ("AZURE_ACCESS_EXPIRES_ON_SECONDS", ""),
    ("AZURE_ACCOUNT_NAME", ""),
    ("AZURE_SERVICE_URL", ""),
)


def _azure_env(secret: Secret) -> list[Document]:
    """The tenant is asked for even where the secret has none, as in KServe."""
    found = []
    for name, legacy in _AZURE_KEYS:
        key = legacy if legacy and legacy in secret.data else name
        if key in secret.data or key == "AZURE_TENANT_ID":
            found.append(secret_ref(name, secret.name, key))
    return found


def _s3_secret_env(secret: Secret, s3: Mapping[str, Any]) -> list[Document]:
    key_id = s3.get("s3AccessKeyIDName") or "awsAccessKeyID"
    key = s3.get("s3SecretAccessKeyName") or "awsSecretAccessKey"
    return [
        secret_ref("AWS_ACCESS_KEY_ID", secret.name, key_id),
        secret_ref("AWS_SECRET_ACCESS_KEY", secret.name, key),
        *s3_env(secret.annotations, secret.data, s3),
    ]


_S3_SETTINGS = (
    ("s3-verifyssl", "S3_VERIFY_SSL", "s3VerifySSL"),
    ("s3-useanoncredential", "awsAnonymousCredential", "s3UseAnonymousCredential"),
    ("s3-region", "AWS_DEFAULT_REGION", "s3Region"),
    ("s3-usevirtualbucket", "S3_USER_VIRTUAL_BUCKET", "s3UseVirtualBucket"),
    ("s3-useaccelerate", "S3_USE_ACCELERATE", "s3UseAccelerate"),
    ("s3-cabundle", "AWS_CA_BUNDLE", "s3CABundle"),
    ("s3-cabundle-configmap", "AWS_CA_BUNDLE_CONFIGMAP", "s3CABundleConfigMap"),
)


def s3_env(annotations: Mapping[str, str], data: Mapping[str, str] | None, s3: Mapping[str, Any]) -> list[Document]:
    """Settings of an S3 endpoint: annotations before the secret's own keys before the ConfigMap."""

    def setting(annotation: str, key: str, fallback: str) -> str:
        own = annotations.get(f"{names.GROUP}/{annotation}")
        own = (data or {}).get(key) if own is None else own
        return str(s3.get(fallback) or "") if own is None else own

    env: list[Document] = []
    endpoint = setting("s3-endpoint", "S3_ENDPOINT", "s3Endpoint")
    if endpoint:
        secure, host, url = _endpoint(endpoint.strip(), setting("s3-usehttps", "S3_USE_HTTPS", "s3UseHttps"))
        env += [{"name": "S3_USE_HTTPS", "value": secure}] if secure else []
        env += [{"name": "S3_ENDPOINT", "value": host}, {"name": "AWS_ENDPOINT_URL", "value": url}]
    for annotation, name, fallback in _S3_SETTINGS:
        if value := setting(annotation, name, fallback):
            env.append({"name": name, "value": value})
    return env


def _endpoint(endpoint: str, use_https: str) -> tuple[str, str, str]:
    """`S3_USE_HTTPS`, host and URL: a scheme that the endpoint names itself wins."""
    for scheme, flag in (("https://", "1"), ("http://", "0")):
        if endpoint.lower().startswith(scheme):
            return flag, endpoint[len(scheme) :], endpoint
    return use_https, endpoint, ("http://" if use_https == "0" else "https://") + endpoint
