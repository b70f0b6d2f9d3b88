"""Manifests and Secrets → the desired state of one target. Unchanged files and services are not evaluated again."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from reconciler.config.settings import HostSettings, TargetSettings
from reconciler.desired import ClusterCache, DesiredCache, build_cluster_desired, build_desired
from reconciler.manifests import ManifestCache, Manifests, narrow, read_manifests
from reconciler.model import DesiredState, Snapshot
from reconciler.secrets import SecretSources, SecretStore
from reconciler.secrets.folder import Stamp


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The desired state of one target. `stamps` are those of the places outside git that hold its Secrets."""

    desired: DesiredState
    secrets: SecretStore
    stamps: tuple[Stamp, ...] = ()


class Evaluation(Protocol):
    """Where passes over one target get the desired state, and the Secrets that belong to it."""

    @property
    def store(self) -> SecretStore:
        """The Secrets of what was evaluated last."""
        ...

    def evaluate(self, snapshot: Snapshot) -> DesiredState:
        """The very same object while nothing changed.

        Raises ReconcileError if the desired state cannot be determined.
        """
        ...


class Evaluator:
    """An `Evaluation` in this process, without limits. What it remembers is only a cache."""

    def __init__(self, settings: TargetSettings, *, is_sealed: bool = False) -> None:
        """With `is_sealed` no Secret is opened: see SecretSources."""
        self._settings = settings
        self._secrets = SecretSources(settings, is_sealed=is_sealed)
        self._files = ManifestCache(every_kind=not isinstance(settings, HostSettings))
        self._services = DesiredCache()
        self._objects = ClusterCache()
        self._read: tuple[Snapshot, Snapshot, Manifests] | None = None
        self._known: tuple[Snapshot, Evaluated] | None = None

    @property
    def store(self) -> SecretStore:
        return self._secrets.store

    def evaluate(self, snapshot: Snapshot) -> DesiredState:
        return self.look(snapshot).desired

    def look(self, snapshot: Snapshot) -> Evaluated:
        """Worked out once per revision, and again when a Secret changes."""
        if self._read is None or self._read[0] is not snapshot:
            own = narrow(snapshot, self._settings.paths)
            self._read = (snapshot, own, read_manifests(own, self._files, self._settings.paths))
        _, own, manifests = self._read
        secrets = self._secrets.load(manifests)
        known = self._known
        if known is None or known[0] is not snapshot or known[1].secrets is not secrets:
            wanted = self._build(manifests, own, secrets)
            self._log_bugs()
            self._known = known = (snapshot, Evaluated(wanted, secrets, self._secrets.seen_stamps))
        return known[1]

    def _build(self, manifests: Manifests, snapshot: Snapshot, secrets: SecretStore) -> DesiredState:
        if isinstance(self._settings, HostSettings):
            return build_desired(manifests, self._settings, snapshot, self._services, secrets)
        return build_cluster_desired(manifests, self._settings, snapshot, self._objects, secrets)

    def unread(self) -> set[tuple[str, str]]:
        """Path and object id of the files read last of which nothing is cached: another revision may read them.

        What a kustomization does not list is such a file, until that is deleted.
        """
        return self._files.unread(self._read[1]) if self._read else set()

    def _log_bugs(self) -> None:
        """Each document, Secret or service once per change of it. In a worker, the daemon's log is written to this."""
        read = (f"{bug.subject}: {bug.traceback}" for bug in (*self._files.bugs, *self._secrets.bugs))
        with suppress(OSError):
            # Where the log's disk is full, what was read counts all the same.
            for text in (*read, *self._services.tracebacks, *self._objects.tracebacks):
                sys.stderr.write(f"bug: {self._settings.name}: {text}\n")
        self._files.bugs.clear()
        self._secrets.bugs.clear()
        self._services.tracebacks.clear()
        self._objects.tracebacks.clear()
