"""The engine is asked as a unit that ends with its answer: as the replicas' user, in a sandbox like theirs.

Looking at a model may run code that comes with it (`--trust-remote-code`), and we ourselves are root.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from reconciler.engines.launch import Question
from reconciler.engines.preflight import SCRIPTS, Inquiry
from reconciler.errors import Retryable
from reconciler.secrets.names import is_secret_name
from reconciler.targets.gpus import Gpus
from reconciler.targets.systemd.replica import CACHES
from reconciler.targets.systemd.unit import HARDENING, device_lines
from reconciler.targets.systemd.words import quote_given

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CREDENTIALS = "/run/credentials"
_STOP_SECONDS = 10.0
# When we are killed ourselves, systemd ends what we had asked.
_MARGIN = 10


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where the engines of one target are asked. `user` runs its replicas."""

    target: str
    user: str
    gpus: Gpus

    def begin(self, asked: Question, seconds: float) -> Inquiry:
        """Raises Retryable."""
        name = f"reconciler-preflight-{self.target}-{uuid.uuid4().hex[:8]}.service"
        devices = self.gpus.nodes(gpu.uuid for gpu in self.gpus.list())
        argv = command(asked, name, self.user, devices, math.ceil(seconds) + _MARGIN)
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env={"PATH": _PATH}, cwd="/")
        except OSError as error:
            raise Retryable(f"preflight cannot run {argv[0]}: {error.strerror}; is this host run by systemd?") from None
        return Inquiry(process, partial(_end, process, name), f"see journalctl -u {name}")


def command(asked: Question, name: str, user: str, devices: tuple[str, ...], seconds: int) -> list[str]:
    """What starts the unit, passes the streams on, and ends as it ends. Pure."""
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={name}"]
    run.append(f"--description=Preflight with {asked.python}")
    run += [f"--property={line}" for line in _lines(asked, user, devices, seconds)]
    # `env` takes every name and value, and clears what systemd adds. A token is of no use without a network, and
    # whoever may ask systemd sees the command.
    given = [f"{variable}={value}" for variable, value in asked.env.items() if not is_secret_name(variable)]
    words = ["/usr/bin/env", "-i", "--", *given, str(asked.python), f"{_CREDENTIALS}/{name}/{SCRIPTS[0].name}"]
    # systemd looks for variables in the words.
    return [*run, "--", *(word.replace("$", "$$") for word in words)]


def _lines(asked: Question, user: str, devices: tuple[str, ...], seconds: int) -> Iterator[str]:
    yield f"User={user}"
    yield f"CacheDirectory={asked.env['HOME'].removeprefix(f'{CACHES}/')}"
    yield "CacheDirectoryMode=0700"
    # That user may not be able to enter the folder in which we are installed, nor the one of the models.
    yield from (f"LoadCredential={script.name}:{script}" for script in SCRIPTS)
    for inside, folder in asked.paths.items():
        yield f"BindReadOnlyPaths={quote_given(f'-{folder}')}:{quote_given(inside)}"
    yield "PrivateNetwork=yes"
    yield f"RuntimeMaxSec={seconds}"
    yield "KillSignal=SIGKILL"
    # What serves comes first: when memory or time gets short, this is what has to wait or go.
    yield "OOMScoreAdjust=1000"
    yield "Nice=10"
    yield from device_lines(devices)
    yield from HARDENING.splitlines()


def _end(process: subprocess.Popen[bytes], name: str) -> None:
    """The unit outlives who waits for it."""
    if process.poll() == 0:
        return
    process.kill()
    process.wait()
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["systemctl", "--quiet", "--no-block", "stop", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_STOP_SECONDS,
            check=False,
        )
