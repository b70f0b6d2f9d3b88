"""The daemon, killed with -9 at one boundary: before or after an action, or between two writes inside one.

usage: crashing.py N run --config FILE. Boundaries are counted from the first action on. What is killed is the real
program: only its functions are wrapped to count.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from reconciler import execute, files
from reconciler.cli import main
from reconciler.targets import host, process

_LOCK = threading.Lock()
_LEFT = [int(sys.argv[1])]
_REACHED = Path(sys.argv[sys.argv.index("--config") + 1]).with_name("boundaries")


def boundary(name: str) -> None:
    with _LOCK, _REACHED.open("a") as log:
        log.write(name + "\n")
        log.flush()
        if _LEFT[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        _LEFT[0] -= 1


def wrapped(module: object, name: str, label: str) -> None:
    real = getattr(module, name)

    def call(*arguments: object, **named: object) -> object:
        boundary(f"before {label}")
        result = real(*arguments, **named)
        boundary(f"after {label}")
        return result

    setattr(module, name, call)


def wrap_actions() -> None:
    real = execute._run

    def run(action: object, *rest: object) -> object:
        boundary(f"before {type(action).__name__}")
        result = real(action, *rest)
        boundary(f"after {type(action).__name__}")
        return result

    execute._run = run


wrap_actions()
for module in {host, process, files}:
    if hasattr(module, "write_atomically"):
        wrapped(module, "write_atomically", "write")
sys.argv = ["reconciler", *sys.argv[2:]]
main()
