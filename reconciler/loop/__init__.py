"""Where stages are chained. `turn` is one pass over one target; `daemon` and `once` run passes."""

from reconciler.loop.daemon import run_daemon
from reconciler.loop.once import Preview, preview, sync

__all__ = ["Preview", "preview", "run_daemon", "sync"]
