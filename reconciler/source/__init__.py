"""Git: resolve the configured reference, fetch what changed, read it as one Snapshot.

Nothing is ever checked out: blobs come straight from the object store, so that no hook, filter, symlink or submodule of
the repository has any effect here.
"""

from reconciler.formats.git_address import shown_address
from reconciler.source.poll import Check, GitSource
from reconciler.source.watch import LocalWatch

__all__ = ["Check", "GitSource", "LocalWatch", "shown_address"]
