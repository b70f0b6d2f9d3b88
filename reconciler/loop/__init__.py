"""Where stages are chained. `reconcile` is one pass over one target; `daemon` and `once` run passes."""

from reconciler.loop.once import Preview, drain_later, preview, sync, undrain_later
from reconciler.loop.run import run_daemon
from reconciler.loop.wiring import rename_target

__all__ = ["Preview", "drain_later", "preview", "rename_target", "run_daemon", "sync", "undrain_later"]
