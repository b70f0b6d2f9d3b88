"""The daemon, killed with -9 at every boundary that it comes to, at each of them once, and started again at once.

usage: crashing.py run --config FILE. A boundary lies before anything inside an action that changes the world: a file
renamed, deleted or made, a process, a signal, a call to systemd; and before any file that is put in place outside of
actions. `boundaries`, beside the config, names those where it died. What is killed is the real program: it is forked
from an interpreter that knows its modules, and only hooks count.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import git  # noqa: F401 - a forked process need not read them
import uvicorn.lifespan.off  # noqa: F401

import reconciler.host.systemd.supervisor
import reconciler.host.systemd.systemd_api
import reconciler.loop.daemon  # noqa: F401 - a forked process need not read them
from reconciler.cli import main
from reconciler.host import execute
from reconciler.host.systemd.bus import Bus
from reconciler.model import Action, Reject, SetRoutes
from reconciler.report.actions import subject_of

DIED_AT = Path(sys.argv[sys.argv.index("--config") + 1]).with_name("boundaries")
FILES = {"os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.symlink": 1, "os.chown": 0}
# They are asked every few seconds, and change nothing that serves.
ASKING = ("List", "Get", "Subscribe")
_LOCK = threading.Lock()
_PR_SET_PDEATHSIG = 1


class Here(threading.local):
    """What this thread is doing: an action, and how often it did a step in it."""

    def __init__(self) -> None:
        self.action = ""
        self.seen: Counter[str] = Counter()


here = Here()


def boundary(step: str) -> None:
    here.seen[step] += 1
    label = f"{here.action}: {step} #{here.seen[step]}" if here.action else f"beside: {step}"
    if label in _DIED:
        return
    with _LOCK, DIED_AT.open("a") as log:
        log.write(label + "\n")
        log.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def on_event(event: str, args: tuple[Any, ...]) -> None:
    if event in FILES and (here.action or event == "os.rename"):
        path = os.fsdecode(args[FILES[event]]) if not isinstance(args[FILES[event]], int) else "a folder"
        if not path.endswith(".new"):
            # Each preflight has a name of its own, and they are all the same boundary.
            name = re.sub(r"-[0-9a-f]{8}\.service", "-*.service", Path(path).name)
            boundary(f"{event} {Path(path).parent.name}/{name}")
    elif event == "subprocess.Popen" and here.action:
        boundary(f"spawn {Path(os.fsdecode(args[0])).name}")


def watch_calls() -> None:
    run, ask, send = execute._run, Bus.manager, signal.pidfd_send_signal

    def running(action: Action, *rest: Any) -> Any:
        subject = action.reason if isinstance(action, SetRoutes) else subject_of(action)
        here.action, here.seen = f"{type(action).__name__} {subject}", Counter()
        try:
            if not isinstance(action, Reject):
                return run(action, *rest)
            # A database writes without being seen.
            boundary("begin")
            result = run(action, *rest)
            boundary("end")
            return result
        finally:
            here.action = ""

    def asking(bus: Bus, method: str, *rest: Any) -> Any:
        if not method.startswith(ASKING):
            boundary(f"systemd {method}")
        return ask(bus, method, *rest)

    def sending(pidfd: int, number: int, *rest: Any) -> None:
        boundary(f"signal {number}")
        send(pidfd, number, *rest)

    execute._run, Bus.manager, signal.pidfd_send_signal = running, asking, sending  # type: ignore[assignment]


_DIED: set[str] = set()


def live(watch: Callable[[], None], *, files: bool) -> None:
    """One daemon."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _DIED.update(DIED_AT.read_text().splitlines())
    watch()
    if files:
        sys.addaudithook(on_event)
    sys.argv = ["reconciler", *sys.argv[1:]]
    main()


def live_again_and_again(watch: Callable[[], None], *, files: bool = True) -> NoReturn:
    """Until a daemon ends by itself. `watch` has boundaries noticed; with `files` also those on disk."""
    DIED_AT.touch()
    status = -signal.SIGKILL
    while status == -signal.SIGKILL:
        if (pid := os.fork()) == 0:
            live(watch, files=files)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.exit(status)


if __name__ == "__main__":
    live_again_and_again(watch_calls)
