"""Values of `engines[].env` that what runs was started with: the config may have others by now.

They are stored nowhere: only the processes know them, and the daemon while it has seen these run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from reconciler.host.inventory import ReplicaRecord
from reconciler.host.translation import ENV, hashed
from reconciler.system import procfs


class KeptValues:
    """By their hashes. `records` are all replicas on record."""

    def __init__(self, records: Callable[[], Iterable[ReplicaRecord]]) -> None:
        self._records = records
        self._known: dict[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """Every value that is known, by its hash."""
        for record in self._records():
            missing = {value for key, value in record.translation if key.startswith(ENV)} - self._known.keys()
            found = _values(record) if missing else ()
            self._known |= {key: value for value in found if (key := hashed(value)) in missing}
        return self._known


def _values(record: ReplicaRecord) -> Iterator[str]:
    if record.process is None or not procfs.is_running(record.process):
        return
    # Of a container, the main process is podman's, and the engine its child.
    for pid in (record.process.pid, *procfs.children(record.process.pid)):
        for entry in procfs.read_environment(pid):
            yield os.fsdecode(entry).partition("=")[2]
