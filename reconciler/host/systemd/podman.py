"""Programs of the host that answer in a moment, podman above all: fixed words, a limit, no terminal."""

from __future__ import annotations

import subprocess

from reconciler.engines.environment import SYSTEM_PATH
from reconciler.errors import Retryable
from reconciler.host.systemd.container import REMOVE

_ENV = {"PATH": SYSTEM_PATH}
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
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False, env=_ENV
        )
    except subprocess.TimeoutExpired:
        raise Retryable(f"{words[0]} {words[1]} did not answer within {_SECONDS:g} s") from None
    except OSError as error:
        raise Retryable(f"{words[0]} cannot be run: {error.strerror}; install it on this host") from None


def remove_container(name: str) -> None:
    """Take away what a killed container left in podman's storage; it need not be there. Raises Retryable."""
    said(*REMOVE, name)
