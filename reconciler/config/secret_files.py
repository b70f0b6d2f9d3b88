"""Secrets that the config names by file or systemd credential, read each time so that a new one needs no restart."""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.config.values import CREDENTIAL
from reconciler.errors import Retryable

_MOST_BYTES = 64 << 10


def path_of(place: str, key: str) -> Path:
    """Where it is. Raises Retryable when a credential is named and systemd gave us none; `key` is the setting's."""
    if not place.startswith(CREDENTIAL):
        return Path(place)
    folder, name = os.environ.get("CREDENTIALS_DIRECTORY"), place.removeprefix(CREDENTIAL)
    if not folder:
        raise Retryable(
            f"{key}: systemd gave this process no credentials; add LoadCredential={name}:/PATH to its unit, "
            "or name a file"
        )
    return Path(folder) / name


def read_secret(place: str, key: str) -> str:
    """The one line of a secret. Raises Retryable, without its content."""
    path = path_of(place, key)
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Retryable(f"{key}: {path} cannot be read: {why}") from None
    if not text or not text.isprintable():
        raise Retryable(f"{key}: {path} must hold the secret alone, on one line")
    return text
