"""A kubeconfig, read strictly: what we do not honour is refused by name, never silently left out."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reconciler.cluster.api.connection import (
    REREAD_SECONDS,
    Access,
    ClusterConnection,
    Tls,
    bearer,
    checked_token,
    read_file,
    read_token,
)
from reconciler.errors import SettingsError
from reconciler.formats.strict_yaml import Lines, Tree, YamlProblem, find, line_at, load_one

_CLUSTER_KEYS = frozenset(
    {
        *("server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify"),
        *("tls-server-name", "proxy-url", "disable-compression", "extensions"),
    }
)
_USER_KEYS = frozenset(
    {
        *("token", "tokenFile", "client-certificate", "client-certificate-data", "client-key", "client-key-data"),
        *("exec", "extensions"),
    }
)
_REFUSED = {
    "auth-provider": "Kubernetes has removed auth providers; use a token, a client certificate or an exec plugin",
    "username": "Kubernetes has removed passwords; use a token or a client certificate",
    "password": "Kubernetes has removed passwords; use a token or a client certificate",
    "as": "set impersonate in the config of the reconciler instead",
    "as-uid": "set impersonate in the config of the reconciler instead",
    "as-groups": "set impersonate in the config of the reconciler instead",
    "as-user-extra": "set impersonate in the config of the reconciler instead",
}


def read_kubeconfig(path: Path, connection: ClusterConnection) -> Access:
    """The cluster and the user of a context. Raises SettingsError, which begins with the file and line, and the key."""
    whole = _whole(path, f"{connection.named}.kubeconfig")
    name = connection.context
    if name is None:
        name = whole.text("current-context")
    if not name:
        raise SettingsError(f"{path}: no current-context; name one by {connection.named}.context")
    context = whole.named("contexts", name, "context", connection.context and f"{connection.named}.context")
    cluster = whole.named("clusters", context.required("cluster"), "cluster")
    user = whole.named("users", context.required("user"), "user")
    cluster.only(_CLUSTER_KEYS)
    user.only(_USER_KEYS)
    server, tls = _server(cluster), _authorities(cluster)
    access = Access(server, tls, f"{path}, context {name}", proxy=_proxy(cluster))
    return _with_credentials(access, user, cluster, connection)


@dataclass(frozen=True, slots=True)
class KubeconfigSection:
    """One mapping of a kubeconfig, that knows where it stands."""

    path: Path
    value: Mapping[str, Any]
    lines: Lines
    key: str = ""

    def at(self, key: str) -> str:
        """`/root/.kube/config:12: users[admin].user.token`."""
        _, lines = find(self.value, self.lines, (key,))
        return f"{self.path}:{line_at(lines)}: {self.key and self.key + '.'}{key}"

    def wrong(self, key: str, message: str) -> SettingsError:
        return SettingsError(f"{self.at(key)}: {message}")

    def text(self, key: str) -> str | None:
        """A text that may be left out; an empty one is none, as in client-go."""
        value = self.value.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "expected a text")
        return value or None

    def required(self, key: str) -> str:
        if (value := self.text(key)) is None:
            raise SettingsError(f"{self.path}:{line_at(self.lines)}: {self.key}: {key} is missing")
        return value

    def truth(self, key: str) -> bool:
        value = self.value.get(key)
        if not isinstance(value, bool | None):
            raise self.wrong(key, "expected true or false")
        return bool(value)

    def section(self, key: str) -> KubeconfigSection | None:
        value, lines = find(self.value, self.lines, (key,))
        if self.value.get(key) is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "expected a mapping")
        return KubeconfigSection(self.path, value, lines, f"{self.key and self.key + '.'}{key}")

    def named(self, part: str, name: str, inside: str, asked_by: str | None = None) -> KubeconfigSection:
        """The entry of this name in `contexts`, `clusters` or `users`."""
        items = self.value.get(part)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, dict) and item.get("name") == name:
                value, lines = find(self.value, self.lines, (part, index, inside))
                if not isinstance(item.get(inside), dict):
                    raise SettingsError(f"{self.path}:{line_at(lines)}: {part}[{name}].{inside}: expected a mapping")
                return KubeconfigSection(self.path, value, lines, f"{part}[{name}].{inside}")
        by = f"{asked_by}: " if asked_by else ""
        raise SettingsError(f'{by}{self.path} has no "{name}" in {part}; it has {_names(items)}')

    def only(self, known: frozenset[str]) -> None:
        for key, value in self.value.items():
            if value is None:
                continue
            if key in _REFUSED:
                raise self.wrong(key, f"refused: {_REFUSED[key]}")
            if key not in known:
                raise self.wrong(key, "this key is not known here; take it out")

    def file(self, key: str) -> Path | None:
        """A file that is named; relative to the kubeconfig's own folder, as in kubectl."""
        return self.path.parent / name if (name := self.text(key)) else None

    def data(self, key: str) -> bytes | None:
        """What stands in `KEY-data`, else in the file that `KEY` names."""
        if (encoded := self.text(f"{key}-data")) is not None:
            try:
                return base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                raise self.wrong(f"{key}-data", "not base64") from None
        file = self.file(key)
        return read_file(file, self.at(key)) if file else None


def _whole(path: Path, key: str) -> KubeconfigSection:
    try:
        tree: Tree = load_one(read_file(path, key))
    except YamlProblem as problem:
        raise SettingsError(f"{path}:{problem.line}: {problem.message}") from None
    if not isinstance(tree.value, dict) or tree.value.get("kind") != "Config":
        raise SettingsError(f"{path}: not a kubeconfig: it has no `kind: Config`")
    return KubeconfigSection(path, tree.value, tree.lines)


def _names(items: object) -> str:
    names = [str(item.get("name")) for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return ", ".join(names[:10]) or "none"


def _server(cluster: KubeconfigSection) -> str:
    server = cluster.required("server").rstrip("/")
    parts = urlsplit(server)
    if parts.scheme != "https" or not parts.hostname:
        raise cluster.wrong("server", f'"{parts.scheme}://{parts.hostname or ""}" is refused: write https://HOST:PORT')
    if parts.username is not None or parts.query or parts.fragment:
        raise cluster.wrong("server", "write https://HOST:PORT, without a user or a query")
    try:
        _ = parts.port
    except ValueError:
        raise cluster.wrong("server", "the port is no number from 0 to 65535") from None
    return server


def _authorities(cluster: KubeconfigSection) -> Tls:
    if cluster.truth("insecure-skip-tls-verify"):
        raise cluster.wrong(
            "insecure-skip-tls-verify",
            "refused: anyone between could read Secrets and change what is applied; set certificate-authority-data",
        )
    key = "certificate-authority"
    data = cluster.data(key)
    at = cluster.at(f"{key}-data" if cluster.text(f"{key}-data") else key)
    return Tls(
        None if data is None else data.decode("ascii", "replace"),
        server_name=cluster.text("tls-server-name"),
        authorities_at=at,
    )


def _proxy(cluster: KubeconfigSection) -> str | None:
    if (proxy := cluster.text("proxy-url")) is None:
        return None
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise cluster.wrong("proxy-url", "write http://HOST:PORT or https://HOST:PORT; other proxies are not supported")
    return proxy


def _with_credentials(
    access: Access, user: KubeconfigSection, cluster: KubeconfigSection, connection: ClusterConnection
) -> Access:
    if (plugin := user.section("exec")) is not None:
        # Only here: most clusters need no plugin.
        from reconciler.cluster.api.exec_plugin import run_plugin

        if not connection.allow_exec:
            raise user.wrong("exec", f"refused: it runs a program; {connection.named}.allow_exec: true allows it")
        return run_plugin(access, plugin, connection.timeout)
    if (file := user.file("tokenFile")) is not None:
        token = read_token(file, user.at("tokenFile"))
        access = replace(access, headers=bearer(token), valid_seconds=REREAD_SECONDS)
    elif (given := user.text("token")) is not None:
        access = replace(access, headers=bearer(checked_token(given, user.at("token"))))
    return replace(access, tls=_with_certificate(access.tls, user))


def _with_certificate(tls: Tls, user: KubeconfigSection) -> Tls:
    certificate, key = user.data("client-certificate"), user.data("client-key")
    if (certificate is None) != (key is None):
        there, missing = ("client-certificate", "client-key") if key is None else ("client-key", "client-certificate")
        raise SettingsError(f"{user.at(there)}: {missing} is missing")
    if certificate is None:
        return tls
    named = "client-certificate-data" if user.text("client-certificate-data") else "client-certificate"
    return replace(tls, certificate=certificate, key=key, certificate_at=user.at(named))
