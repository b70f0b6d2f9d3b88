"""Short programs of the host, podman above all: constant arguments, a time limit, no terminal."""

from __future__ import annotations

import subprocess

from reconciler.engines.environment import SYSTEM_PATH
from reconciler.errors import Retryable
from reconciler.host.systemd.container import REMOVE
from reconciler.system.programs import run_program

_SECONDS = 30.0


def said(*words: str) -> str:
    """What a program prints. Raises Retryable when it fails."""
    done = run(*words)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Retryable(f"{words[0]} {words[1]} ended with {done.returncode}" + "".join(f": {line}" for line in last))
    return done.stdout.decode(errors="replace")


def run(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Raises Retryable when it does not answer, or is not there."""
    return run_program(words, _SECONDS, SYSTEM_PATH)


def remove_container(name: str) -> None:
    """Take away what a killed container left in podman's storage; it need not be there. Raises Retryable."""
    said(*REMOVE, name)
