"""Credentials that a program gives: the `exec` plugin of a kubeconfig (client.authentication.k8s.io)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reconciler.cluster.api.connection import Access, bearer, checked_token
from reconciler.cluster.api.kubeconfig import KubeconfigSection
from reconciler.errors import Retryable
from reconciler.system.programs import TooMuchError, exchange, kill_group

_GROUP = "client.authentication.k8s.io"
_KEYS = frozenset({"apiVersion", "command", "args", "env", "installHint", "interactiveMode", "provideClusterInfo"})
_MOST_BYTES = 1 << 20
# Renewed a moment before it ends, so that no request meets the end.
_EARLY_SECONDS = 10.0


def run_plugin(access: Access, plugin: KubeconfigSection, seconds: float) -> Access:
    """The access with what the program gives. Raises SettingsError, and Retryable where the program fails."""
    plugin.only(_KEYS)
    version = plugin.required("apiVersion")
    if version not in (f"{_GROUP}/v1", f"{_GROUP}/v1beta1"):
        raise plugin.wrong("apiVersion", f"expected {_GROUP}/v1")
    if plugin.text("interactiveMode") == "Always":
        raise plugin.wrong("interactiveMode", "refused: a daemon has no terminal to ask on")
    output = _run(_argv(plugin), _environment(access, plugin, version), plugin, seconds)
    return _with_status(access, _status(output, plugin), plugin)


def _argv(plugin: KubeconfigSection) -> list[str]:
    command = plugin.required("command")
    # A path is relative to the kubeconfig; a bare name is found on PATH, as in kubectl.
    program = str(plugin.path.parent / command) if "/" in command else command
    return [program, *_texts(plugin, "args")]


def _texts(plugin: KubeconfigSection, key: str) -> list[str]:
    values = plugin.value.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise plugin.wrong(key, "expected a list of texts")
    return values


def _environment(access: Access, plugin: KubeconfigSection, version: str) -> dict[str, str]:
    variables = plugin.value.get("env") or []
    if not isinstance(variables, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("value"), str)
        for each in variables
    ):
        raise plugin.wrong("env", "expected a list of name and value")
    spec: dict[str, Any] = {"interactive": False}
    if plugin.truth("provideClusterInfo"):
        authorities = base64.b64encode((access.tls.authorities or "").encode()).decode()
        spec["cluster"] = {"server": access.server, "certificate-authority-data": authorities}
    info = json.dumps({"apiVersion": version, "kind": "ExecCredential", "spec": spec})
    return {**os.environ, **{each["name"]: each["value"] for each in variables}, "KUBERNETES_EXEC_INFO": info}


def _run(argv: list[str], environment: Mapping[str, str], plugin: KubeconfigSection, seconds: float) -> bytes:
    """What the program writes; what it complains about may hold secrets, and is not repeated."""
    at = plugin.at("command")
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=Path("/"),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        hint = f"; {plugin.text('installHint')}" if plugin.text("installHint") else ""
        raise Retryable(f"{at}: {Path(argv[0]).name} cannot be run: {error}{hint}") from None
    with process:
        try:
            output, _ = exchange(process, b"", seconds, _MOST_BYTES)
        except subprocess.TimeoutExpired:
            raise Retryable(f"{at}: {Path(argv[0]).name} did not end within {seconds:g} s") from None
        except TooMuchError:
            raise Retryable(f"{at}: {Path(argv[0]).name} writes more than {_MOST_BYTES >> 20} MiB") from None
        finally:
            kill_group(process)
    if process.returncode:
        raise Retryable(
            f"{at}: {Path(argv[0]).name} failed with status {process.returncode}; run it by hand to see why"
        )
    return output


def _status(output: bytes, plugin: KubeconfigSection) -> Mapping[str, Any]:
    try:
        document = json.loads(output)
    except ValueError:
        document = None
    status = document.get("status") if isinstance(document, dict) else None
    if not isinstance(status, dict) or document.get("kind") != "ExecCredential":
        raise Retryable(f"{plugin.at('command')}: the program does not write an ExecCredential with a status")
    return status


def _with_status(access: Access, status: Mapping[str, Any], plugin: KubeconfigSection) -> Access:
    at = plugin.at("command")
    token, certificate, key = (status.get(name) for name in ("token", "clientCertificateData", "clientKeyData"))
    if isinstance(token, str) and token:
        access = replace(access, headers=bearer(checked_token(token, f"{at}: its token")))
    if isinstance(certificate, str) and isinstance(key, str) and certificate and key:
        tls = replace(access.tls, certificate=certificate.encode(), key=key.encode(), certificate_at=at)
        access = replace(access, tls=tls)
    if not access.headers and access.tls.certificate is None:
        raise Retryable(f"{at}: the program gives neither a token nor a certificate with its key")
    return replace(access, valid_seconds=_valid_seconds(status.get("expirationTimestamp"), at))


def _valid_seconds(until: object, at: str) -> float | None:
    if until is None:
        return None
    try:
        ends = datetime.fromisoformat(str(until).replace("Z", "+00:00"))
        return max(0.0, (ends - datetime.now(UTC)).total_seconds() - _EARLY_SECONDS)
    except (ValueError, TypeError):
        raise Retryable(f"{at}: expirationTimestamp is no time: {str(until)[:40]}") from None
