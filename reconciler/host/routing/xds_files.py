"""The files that Envoy watches: replaced in one step, and followed until Envoy runs them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable
from reconciler.host.routing import process
from reconciler.host.routing.admin import Admin, Uptake
from reconciler.host.routing.bootstrap import Resource
from reconciler.host.routing.files import read_file, replace_file, write_file

_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Content:
    """One file's text. The version is a hash of its content: equal versions are equal content."""

    version: str
    text: str

    def runs(self, uptake: Uptake) -> bool:
        """Whether this is what Envoy runs."""
        return bool(self.version) and self.version == uptake.version


NOTHING = Content("", "")


def content(*resources: Resource) -> Content:
    """A file with these resources."""
    body = json.dumps(resources)
    version = hashlib.sha256(body.encode()).hexdigest()[:16]
    return Content(version, f'{{"version_info": "{version}", "resources": {body}}}\n')


class WatchedFiles:
    """The watched files of one folder. Raises Retryable where Envoy refuses or does not answer."""

    def __init__(self, folder: Path, admin: Admin) -> None:
        self._folder = folder
        self._admin = admin

    def text(self, name: str) -> str | None:
        """The present content of the file; None if it cannot be read."""
        return read_file(self._folder / f"{name}.json")

    def resource(self, name: str) -> Mapping[str, Any] | None:
        """The first resource in the file; None if it cannot be read."""
        try:
            first = json.loads(self.text(name) or "")["resources"][0]
        except (ValueError, KeyError, TypeError, IndexError):
            return None
        return first if isinstance(first, dict) else None

    def lay_out(self, name: str, desired: Content) -> None:
        """Replaces the file without waiting: for an Envoy that does not run yet."""
        write_file(self._folder / f"{name}.json", desired.text)

    def publish(self, name: str, desired: Content) -> None:
        """Replaces the file and waits until Envoy runs it. What Envoy refuses is taken back."""
        before = self._admin.uptakes()[name]
        former = self.text(name)
        if former == desired.text and desired.runs(before):
            return
        log_end = process.log_size(self._folder)
        replace_file(self._folder / f"{name}.json", desired.text)
        if not self._is_taken(name, desired, before):
            if former is not None:
                replace_file(self._folder / f"{name}.json", former)
            why = process.last_words(self._folder, log_end) or f"see {self._folder / process.LOG}"
            raise Retryable(f"the proxy refused {name}.json and keeps what it had: {why}")

    def _is_taken(self, name: str, desired: Content, before: Uptake) -> bool:
        deadline = time.monotonic() + _PATIENCE
        pause = 0.001
        while time.monotonic() < deadline:
            # While it takes up a large table, a busy Envoy may not answer.
            with suppress(Retryable):
                now = self._admin.uptakes()[name]
                if desired.runs(now):
                    return True
                if now.refused > before.refused:
                    return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        raise Retryable(f"the proxy did not take up {name}.json within {_PATIENCE:.0f} s; it runs what it had")
