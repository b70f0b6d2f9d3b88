"""The engine is asked as a unit that ends with its answer: as the replicas' user, in a sandbox like theirs.

Looking at a model may run code that comes with it (`--trust-remote-code`), and we ourselves are root.
"""

from __future__ import annotations

import contextlib
import math
import pwd
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from reconciler.engines.environment import SYSTEM_PATH
from reconciler.engines.launch import Question
from reconciler.engines.preflight import SCRIPTS, Inquiry
from reconciler.errors import Retryable
from reconciler.secrets.names import is_secret_name
from reconciler.targets.gpus import Gpus
from reconciler.targets.systemd.container import REMOVE, RUN, Container, cache_words, run_words
from reconciler.targets.systemd.unit import BEHIND, CACHES, HARDENING, device_lines
from reconciler.targets.systemd.words import given_line, quote_given

_CREDENTIALS = "/run/credentials"
_SCRIPTS = "/run/reconciler-preflight"
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
        gpus = tuple(gpu.uuid for gpu in self.gpus.list())
        limit = math.ceil(seconds) + _MARGIN
        try:
            if asked.image:
                argv = contained(asked, name, self.user, _owner(self.user), gpus, limit)
            else:
                argv = command(asked, name, self.user, self.gpus.nodes(gpus), limit)
        except ValueError as error:
            raise Retryable(f"preflight with {asked.engine} is not possible: {error}") from None
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env={"PATH": SYSTEM_PATH}, cwd="/")
        except OSError as error:
            raise Retryable(f"preflight cannot run {argv[0]}: {error.strerror}; is this host run by systemd?") from None
        return Inquiry(process, partial(_end, process, name), f"see journalctl -u {name}")


def command(asked: Question, name: str, user: str, devices: tuple[str, ...], seconds: int) -> list[str]:
    """What starts the unit, passes the streams on, and ends as it ends. Pure."""
    # `env` takes every name and value, and clears what systemd adds. A token is of no use without a network, and
    # whoever may ask systemd sees the command.
    given = [f"{variable}={value}" for variable, value in asked.env.items() if not is_secret_name(variable)]
    words = ["/usr/bin/env", "-i", "--", *given, str(asked.python), f"{_CREDENTIALS}/{name}/{SCRIPTS[0].name}"]
    return _run(asked, name, (*_common(seconds), *_lines(asked, user, devices)), words)


def contained(asked: Question, name: str, user: str, owner: str, gpus: tuple[str, ...], seconds: int) -> list[str]:
    """The same in a container of the image that is asked about. Raises ValueError for a folder of a strange name. Pure.

    `owner` is the user as `UID:GID`.
    """
    env = {variable: value for variable, value in asked.env.items() if not is_secret_name(variable)}
    # One by one: our own folder may hold anything.
    scripts = {f"{_SCRIPTS}/{script.name}": str(script) for script in SCRIPTS}
    container = Container(asked.image, owner, asked.env["HOME"], env, {**asked.paths, **scripts}, gpus)
    argv = (str(asked.python), f"{_SCRIPTS}/{SCRIPTS[0].name}")
    own = name.removesuffix(".service")
    words = [*RUN, f"--name={own}", *run_words(container, argv, "--interactive", "--log-driver=none", "--network=host")]
    prepare, tidy = given_line(*cache_words(asked.env["HOME"], user)), given_line(*REMOVE, own)
    lines = (*_common(seconds), "Delegate=yes", f"ExecStartPre={prepare}", f"ExecStopPost=-{tidy}")
    return _run(asked, name, lines, words)


def _run(asked: Question, name: str, lines: Iterable[str], words: Iterable[str]) -> list[str]:
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={name}"]
    run.append(f"--description=Preflight with {asked.engine}")
    run += [f"--property={line}" for line in lines]
    # systemd looks for variables in the words.
    return [*run, "--", *(word.replace("$", "$$") for word in words)]


def _common(seconds: int) -> Iterator[str]:
    yield "PrivateNetwork=yes"
    yield f"RuntimeMaxSec={seconds}"
    yield "KillSignal=SIGKILL"
    yield from BEHIND


def _lines(asked: Question, user: str, devices: tuple[str, ...]) -> Iterator[str]:
    yield f"User={user}"
    yield f"CacheDirectory={asked.env['HOME'].removeprefix(f'{CACHES}/')}"
    yield "CacheDirectoryMode=0700"
    # That user may not be able to enter the folder in which we are installed, nor the one of the models.
    yield from (f"LoadCredential={script.name}:{script}" for script in SCRIPTS)
    for inside, folder in asked.paths.items():
        yield f"BindReadOnlyPaths={quote_given(f'-{folder}')}:{quote_given(inside)}"
    yield from device_lines(devices)
    yield from HARDENING.splitlines()


def _owner(user: str) -> str:
    """Raises Retryable."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise Retryable(f"there is no user {user}; make it (useradd --system {user}), or set targets[].user") from None
    return f"{found.pw_uid}:{found.pw_gid}"


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
