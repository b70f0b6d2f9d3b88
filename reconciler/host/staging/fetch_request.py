"""The request of the program that downloads a model: its variables and files, with the values of Secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from reconciler.engines.interpreter import loads_code
from reconciler.host.staging.download.request import Order
from reconciler.model import EffectiveSpec, SecretMount, Stage
from reconciler.secrets import SecretStore
from reconciler.secrets.wanted import find_files, find_variables

# These are settings, and worth reading when something fails.
_OPEN = frozenset(
    {"type", "bucket", "endpoint_url", "region", "verify_ssl", "anonymous", "ca_bundle", "cabundle_configmap"}
)
_SHORTEST_SECRET = 4
# Bars that move are no use in a log.
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def order_for(stage: Stage, folder: Path, memory: Path, env: Mapping[str, str], store: SecretStore) -> Order:
    """`env` are the host's own variables, and win; they alone load code. Raises Retryable for a missing Secret."""
    values = [each for each in _variables(stage, env, store) if not loads_code(each[0], each[1])]
    secret_files = _secret_files(stage, store)
    hidden = [value for _, value, is_secret in values if is_secret]
    hidden += [data.decode(errors="replace") for data in secret_files.values()]
    return Order(
        uri=stage.mount.uri,
        folder=folder,
        memory=memory,
        env={**_QUIET, **{name: value for name, value, _ in values}, **env},
        files={each.path: each.text.encode() for each in stage.mount.files if not each.source} | secret_files,
        secrets=tuple(dict.fromkeys(part for text in hidden for part in _parts(text) if len(part) >= _SHORTEST_SECRET)),
    )


def _variables(stage: Stage, given: Mapping[str, str], store: SecretStore) -> Iterator[tuple[str, str, bool]]:
    """Name, value, and whether that is secret. What the config gives needs no Secret."""
    namespace = stage.service.namespace
    wanted = EffectiveSpec("", (), (), env=tuple(each for each in stage.mount.env if each.name not in given))
    secret = find_variables(wanted, namespace, store)
    for each in wanted.env:
        if each in secret:
            yield from ((name, value, True) for name, value in secret[each].items())
        else:
            yield each.name, each.value, False


def _secret_files(stage: Stage, store: SecretStore) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for each in stage.mount.files:
        if each.source:
            secret = each.source.removeprefix("secret ").partition("/")[0]
            data = find_files(SecretMount(secret, each.path), stage.service.namespace, store)
            found |= {f"{each.path}/{name}": value for name, value in data.items()}
    return found


def _parts(text: str) -> Iterator[str]:
    """A secret as a whole, and what is secret in it where it is JSON: libraries show it in pieces."""
    yield text.strip()
    try:
        content = json.loads(text)
    except ValueError:
        return
    if isinstance(content, dict):
        yield from (str(value) for key, value in content.items() if key not in _OPEN)
