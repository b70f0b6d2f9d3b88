"""Secrets that the config names by file or systemd credential, read each time so that a new one needs no restart."""

from __future__ import annotations

import os
import time
from pathlib import Path

from reconciler.config.values import CREDENTIAL
from reconciler.errors import Retryable
from reconciler.system.files import Stamp, stamp_of

_MOST_BYTES = 64 << 10
_AGAIN_SECONDS = 1.0


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
    text = read_lines(place, key).strip()
    if not text or not text.isprintable():
        raise Retryable(f"{key}: {path_of(place, key)} must hold the secret alone, on one line")
    return text


def read_lines(place: str, key: str) -> str:
    """A secret that has several lines, as a private key has. Raises Retryable, without its content."""
    path = path_of(place, key)
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Retryable(f"{key}: {path} cannot be read: {why}") from None


class CachedSecret:
    """One secret that is asked for often: its file is read when it changed, and after a failure once a second at most.

    For one thread.
    """

    def __init__(self, place: str, key: str) -> None:
        """`key`: what errors call the setting."""
        self._place, self._key = place, key
        self._file: Stamp = None
        self._secret = ""
        self._failed: tuple[float, Retryable] | None = None

    def read(self) -> str:
        """Raises Retryable, without its content."""
        if self._failed is not None and time.monotonic() - self._failed[0] < _AGAIN_SECONDS:
            raise Retryable(str(self._failed[1]))
        try:
            # Before it is read: what comes in between is read the next time.
            file = stamp_of(path_of(self._place, self._key))
            if file is None or file != self._file:
                self._secret = read_secret(self._place, self._key)
            self._file, self._failed = file, None
        except Retryable as error:
            self._file, self._failed = None, (time.monotonic(), error)
            raise
        return self._secret
