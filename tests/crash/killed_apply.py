"""Applies a table of routes and dies by SIGKILL just before its Nth step that touches the disk.

`python -m tests.crash.killed_apply FOLDER LISTEN TABLE STEP`; it prints `done` if it lived through it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reconciler.config.settings import Routing
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.routing.files import load_routes


def main(folder: str, listen: str, table: str, step: str) -> None:
    left = int(step)

    def fatal(function: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            count()
            result = function(*args, **kwargs)
            if after:
                count()
            return result

        return counted

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fatal(os.fsync)
    os.replace = fatal(os.replace, after=True)
    EnvoyProxy(Path(folder), Routing(listen=listen)).apply(load_routes(Path(table).read_text()))
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
