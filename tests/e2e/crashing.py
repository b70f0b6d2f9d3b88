"""The daemon, killed with -9 at one boundary: before an action, or before a write inside one.

usage: crashing.py N run --config FILE. Boundaries are counted from the first action on. What is killed is the real
program: only its functions are wrapped to count.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reconciler import execute
from reconciler.cli import main
from reconciler.targets.systemd.bus import Bus

ASKS = ("systemd List", "systemd Get", "systemd Subscribe")
_LOCK = threading.Lock()
_LEFT = [int(sys.argv[1])]
_REACHED = Path(sys.argv[sys.argv.index("--config") + 1]).with_name("boundaries")


def boundary(name: str) -> None:
    if name in ("spawn git", "spawn env", "spawn journalctl") or name.startswith(ASKS):
        return  # they are asked every few seconds; it changes nothing that serves
    with _LOCK, _REACHED.open("a") as log:
        log.write(name + "\n")
        log.flush()
        if _LEFT[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        _LEFT[0] -= 1


def wrap(module: object, name: str, label: Callable[..., str]) -> None:
    real = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        boundary(label(*arguments))
        return real(*arguments, **named)

    setattr(module, name, call)


wrap(Bus, "manager", lambda _, method, *rest: f"systemd {method}")
wrap(execute, "_run", lambda action, *_: type(action).__name__)
wrap(os, "replace", lambda path, *_: f"write {Path(path).name}")
wrap(Path, "rename", lambda path, *_: f"rename {path.name}")
wrap(subprocess, "Popen", lambda argv, *_: f"spawn {Path(argv[0]).name}")
sys.argv = ["reconciler", *sys.argv[2:]]
main()
