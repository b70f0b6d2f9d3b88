"""A kubeconfig is read strictly: a mistake is one error that names the file, the line and the key, never a secret."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.api import connection as connection_module
from reconciler.cluster.api.connection import ClusterConnection, read_access, tls_context
from reconciler.errors import ReconcileError, SettingsError
from tests.controlplane.certificates import Authority

SECRET = "hunter2-secret"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def content(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": SECRET} if user is None else user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "ignored"}}],
    }


def written(folder: Path, whole: Any) -> Path:
    file = folder / "kubeconfig"
    file.write_text(whole if isinstance(whole, str) else yaml.safe_dump(whole))
    return file


def refusal(file: Path, **settings: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        tls_context(read_access(ClusterConnection(file, named="targets[0].cluster", **settings)).tls)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_context_gives_the_server_and_the_token(tmp_path: Path) -> None:
    access = read_access(ClusterConnection(written(tmp_path, content())))
    assert access.server == "https://10.0.0.1:6443"
    assert access.headers["Authorization"] == f"Bearer {SECRET}"
    assert access.source == f"{tmp_path / 'kubeconfig'}, context here"
    assert SECRET not in repr(access)


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.client("alice")
    for name, file in (("ca.crt", authority.certificate), ("a.crt", certificate), ("a.key", key)):
        (tmp_path / name).write_bytes(file.read_bytes())
    user = {"client-certificate": "a.crt", "client-key": "a.key"}
    access = read_access(ClusterConnection(written(tmp_path, content({"certificate-authority": "ca.crt"}, user))))
    tls_context(access.tls)
    assert access.tls.key == key.read_bytes()
    assert key.read_text() not in repr(access)


def test_data_wins_over_files_as_in_kubectl(tmp_path: Path, authority: Authority) -> None:
    cluster = {"certificate-authority": "/nowhere", "certificate-authority-data": encoded(authority.certificate)}
    access = read_access(ClusterConnection(written(tmp_path, content(cluster))))
    assert access.tls.authorities == authority.certificate.read_text()


def test_token_file_is_read_again_in_time(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    access = read_access(ClusterConnection(written(tmp_path, content(user={"tokenFile": "token"}))))
    assert access.headers["Authorization"] == f"Bearer {SECRET}"
    assert access.valid_seconds == 60


USER = "users[u].user"
CLUSTER = "clusters[c].cluster"


@pytest.mark.parametrize(
    ("cluster", "user", "message"),
    [
        ({"insecure-skip-tls-verify": True}, None, f":4: {CLUSTER}.insecure-skip-tls-verify: refused: anyone between"),
        ({"insecure-skip-tls-verify": "yes"}, None, f"{CLUSTER}.insecure-skip-tls-verify: expected true or false"),
        ({"server": "http://10.0.0.1"}, None, f'{CLUSTER}.server: "http://10.0.0.1" is refused'),
        ({"server": "https://u:hunter2-secret@h"}, None, f"{CLUSTER}.server: write https://HOST:PORT, without a user"),
        ({"server": "https://h:99999"}, None, f"{CLUSTER}.server: the port is no number"),
        ({"server": ""}, None, f"{CLUSTER}: server is missing"),
        ({"certificate-authority-data": "%%"}, None, f"{CLUSTER}.certificate-authority-data: not base64"),
        ({"certificate-authority-data": "aGk="}, None, f"{CLUSTER}.certificate-authority-data: not a CA certificate"),
        ({"certificate-authority": "missing.crt"}, None, f"{CLUSTER}.certificate-authority: "),
        ({"proxy-url": "socks5://h"}, None, f"{CLUSTER}.proxy-url: write http://HOST:PORT"),
        ({"insecure": True}, None, f"{CLUSTER}.insecure: this key is not known here"),
        ({}, {"exec": {"command": "aws"}}, f"{USER}.exec: refused: it runs a program; targets[0].cluster.allow_exec"),
        ({}, {"auth-provider": {"name": "gcp"}}, f"{USER}.auth-provider: refused: Kubernetes has removed"),
        ({}, {"username": "a", "password": SECRET}, f"{USER}.password: refused: Kubernetes has removed passwords"),
        ({}, {"token": SECRET, "as": ""}, f"{USER}.as: refused: set impersonate"),
        ({}, {"token": f"{SECRET}\n{SECRET}"}, f"{USER}.token: not a token"),
        ({}, {"token": f"{SECRET}ü"}, f"{USER}.token: not a token"),
        ({}, {"token": 12}, f"{USER}.token: expected a text"),
        ({}, {"tokenFile": "missing"}, f"{USER}.tokenFile: "),
        ({}, {"client-certificate-data": "aGk="}, f"{USER}.client-certificate: client-key is missing"),
        (
            {},
            {"client-certificate-data": "aGk=", "client-key-data": "aGk="},
            f"{USER}.client-certificate-data: not a certificate with its unencrypted key",
        ),
    ],
)
def test_each_mistake_names_the_file_the_line_and_the_key(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any] | None, message: str
) -> None:
    text = refusal(written(tmp_path, content(cluster, user)))
    assert text.startswith(f"{tmp_path / 'kubeconfig'}:")
    assert message in text


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ("", "not a kubeconfig"),
        ("a: [", ":1: "),
        ("kind: Pod", "not a kubeconfig: it has no `kind: Config`"),
        ("kind: Config\nkind: Config", ":2: "),
        ("kind: Config", "no current-context; name one by targets[0].cluster.context"),
        ("kind: Config\ncurrent-context: x", 'has no "x" in contexts; it has none'),
        (
            "kind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {}}]",
            ":3: contexts[x].context: cluster is missing",
        ),
        (
            "kind: Config\ncurrent-context: x\ncontexts: [{name: x, context: 3}]",
            ":3: contexts[x].context: expected a mapping",
        ),
        ("\x00", ""),
    ],
)
def test_file_that_is_no_kubeconfig_says_why(tmp_path: Path, whole: str, message: str) -> None:
    assert message in refusal(written(tmp_path, whole))


def test_unknown_context_names_the_setting_and_the_choices(tmp_path: Path) -> None:
    text = refusal(written(tmp_path, content()), context="there")
    assert text == f'targets[0].cluster.context: {tmp_path / "kubeconfig"} has no "there" in contexts; it has here'


def test_missing_kubeconfig_names_the_setting(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").startswith(f"targets[0].cluster.kubeconfig: {tmp_path / 'none'}: cannot be read")


@given(st.text(max_size=200))
def test_any_text_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any-kubeconfig"
    file.write_text(text, "utf-8", "replace")
    with pytest.raises(ReconcileError):
        read_access(ClusterConnection(file))


@pytest.mark.parametrize("identity", ["", " ", "/", "ns/", "/name", "a/b/c", "a\nb", " a", "ä"])
def test_identity_that_names_nobody_is_refused(tmp_path: Path, identity: str) -> None:
    assert "targets[0].cluster.impersonate: " in refusal(written(tmp_path, content()), impersonate=identity)


@pytest.mark.parametrize(
    ("identity", "user"), [("alice", "alice"), ("ml/deployer", "system:serviceaccount:ml:deployer"), (None, None)]
)
def test_identity_is_a_user_or_a_service_account(tmp_path: Path, identity: str | None, user: str | None) -> None:
    access = read_access(ClusterConnection(written(tmp_path, content()), impersonate=identity))
    assert access.headers.get("Impersonate-User") == user


# ---------------------------------------------------------------- in a pod


def test_service_account_of_the_pod_is_used_without_a_kubeconfig(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "ca.crt").write_bytes(authority.certificate.read_bytes())
    access = read_access(ClusterConnection())
    assert access.server == "https://[fd00::1]:443"
    assert access.headers["Authorization"] == f"Bearer {SECRET}"
    with pytest.raises(SettingsError, match="has no contexts"):
        read_access(ClusterConnection(context="x"))
    (tmp_path / "token").write_text("")
    with pytest.raises(SettingsError, match="the token is empty"):
        read_access(ClusterConnection())


def test_outside_a_pod_a_kubeconfig_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SettingsError, match=r"cluster\.kubeconfig: not set, and this process does not run in a pod"):
        read_access(ClusterConnection())


# ---------------------------------------------------------------- exec plugins


def plugin(folder: Path, script: str, **more: Any) -> ClusterConnection:
    program = folder / "plugin"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(stat.S_IRWXU)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", **more}}
    return ClusterConnection(written(folder, content(user=user)), allow_exec=True, timeout=5.0)


def test_plugin_gives_a_token_until_it_expires(tmp_path: Path) -> None:
    status = {"token": SECRET, "expirationTimestamp": "2999-01-01T00:00:00Z"}
    answer = json.dumps({"kind": "ExecCredential", "status": status})
    script = f'[ "$1" = arg ] && [ "$KEY" = value ] && echo \'{answer}\''
    access = read_access(plugin(tmp_path, script, args=["arg"], env=[{"name": "KEY", "value": "value"}]))
    assert access.headers["Authorization"] == f"Bearer {SECRET}"
    assert access.valid_seconds is not None
    assert access.valid_seconds > 1e9


def test_plugin_is_told_of_the_cluster(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with pytest.raises(ReconcileError):
        read_access(plugin(tmp_path, f'echo "$KUBERNETES_EXEC_INFO" >{told}', provideClusterInfo=True))
    assert json.loads(told.read_text())["spec"]["cluster"]["server"] == "https://10.0.0.1:6443"


@pytest.mark.parametrize(
    ("script", "more", "message"),
    [
        (f"echo {SECRET} >&2; exit 3", {}, "plugin failed with status 3; run it by hand"),
        (f"echo {SECRET}", {}, "does not write an ExecCredential"),
        ('echo \'{"kind": "ExecCredential", "status": {}}\'', {}, "gives neither a token nor a certificate"),
        ("head -c 3000000 /dev/zero", {}, "writes more than 1 MiB"),
        ("true", {"command": "./missing", "installHint": "install it"}, "cannot be run"),
        ("true", {"command": "./missing", "installHint": "install it"}, "install it"),
        ("true", {"apiVersion": "x/v1"}, "expected client.authentication.k8s.io/v1"),
        ("true", {"interactiveMode": "Always"}, "a daemon has no terminal"),
        ("true", {"args": "no list"}, "args: expected a list of texts"),
        ("true", {"env": [{"name": "A"}]}, "env: expected a list of name and value"),
        ("true", {"shell": "x"}, "shell: this key is not known here"),
    ],
)
def test_plugin_that_fails_says_how(tmp_path: Path, script: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ReconcileError) as caught:
        read_access(plugin(tmp_path, script, **more))
    assert message in str(caught.value)
    assert f"{tmp_path / 'kubeconfig'}:" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_plugin_that_does_not_end_is_ended(tmp_path: Path) -> None:
    connection = plugin(tmp_path, "sleep 100 & sleep 100")
    with pytest.raises(ReconcileError, match=r"did not end within 0\.3 s"):
        read_access(ClusterConnection(connection.kubeconfig, allow_exec=True, timeout=0.3))
