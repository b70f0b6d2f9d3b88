"""A preflight as a unit that ends with its result: as the replicas' user, in the same sandbox.

Looking at a model may run code that comes with it (`--trust-remote-code`), and we ourselves are root.
"""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reconciler.engines.environment import SYSTEM_PATH
from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.preflight import SCRIPTS, PreflightProcess
from reconciler.errors import Retryable
from reconciler.host.gpus.devices import Gpus
from reconciler.host.systemd.concealed import NOTHING_CONCEALED, Concealed, conceal, concealing_lines
from reconciler.host.systemd.podman import REMOVE, RUN, Container, cache_arguments, run_arguments
from reconciler.host.systemd.unit import BEHIND, CACHES, CREDENTIAL, HARDENING, device_lines
from reconciler.host.systemd.unit_files import environment_script, given_line, quote_given
from reconciler.secrets.store import is_secret_name
from reconciler.system.files import cannot, replace_file
from reconciler.system.programs import NoAnswer, run_program

_CREDENTIALS = "/run/credentials"
_SCRIPTS = "/run/reconciler-preflight"
# `env` says what is wrong with a program as the kernel does.
_TAKE_OVER = ("/bin/sh", "-c", '. "$0" && exec /usr/bin/env -- "$@"')
_STOP_SECONDS = 10.0
# When we are killed ourselves, systemd ends what we had asked.
_MARGIN = 10


@dataclass(frozen=True, slots=True)
class PreflightSandbox:
    """Where the preflights of one target run. `user` runs its replicas. Nothing of `closed` is visible there."""

    target: str
    user: str
    gpus: Gpus
    closed: tuple[Path, ...] = ()

    def begin(self, asked: PreflightQuestion, seconds: float) -> PreflightProcess:
        """Raises Retryable."""
        name = f"reconciler-preflight-{self.target}-{uuid.uuid4().hex[:8]}.service"
        gpus = tuple(gpu.uuid for gpu in self.gpus.list())
        limit, told = math.ceil(seconds) + _MARGIN, variables_of(name)
        try:
            if asked.image:
                argv = contained(asked, name, self.user, _owner(self.user), gpus, limit)
            else:
                concealed = conceal(str(asked.python), bound(asked), self.closed)
                argv = command(asked, name, self.user, self.gpus.nodes(gpus), limit, concealed)
            tell(asked, told, self.user)
        except ValueError as error:
            raise Retryable(f"preflight with {asked.engine} is not possible: {error}") from None
        except OSError as error:
            raise Retryable(cannot(error, told, "written", "run the reconciler as root")) from None
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env={"PATH": SYSTEM_PATH}, cwd="/")
        except OSError as error:
            told.unlink(missing_ok=True)
            raise Retryable(f"preflight cannot run {argv[0]}: {error.strerror}; is this host run by systemd?") from None
        return PreflightProcess(process, partial(_end, process, name, told), f"see journalctl -u {name}")


def variables_of(name: str) -> Path:
    """The file from which this unit takes its variables: any user that can query systemd sees its command."""
    return Path("/run") / f"{name}.environment"


def bound(asked: PreflightQuestion) -> Mapping[str, str]:
    """The folders that the unit sees, by their path there; none of a proposed revision: see `engines.proposed`."""
    return {inside: folder for inside, folder in asked.paths.items() if os.path.isabs(folder)}


def tell(asked: PreflightQuestion, path: Path, user: str) -> None:
    """Write that file. Raises ValueError, OSError."""
    # A token is of no use without a network.
    env = {variable: value for variable, value in asked.env.items() if not is_secret_name(variable)}
    # The shell's own.
    script = f"unset PWD OLDPWD SHLVL\n{environment_script(env)}"
    replace_file(path, script.encode("utf-8", "surrogateescape"))
    if asked.image:
        # Only as its reader can one be in a container.
        os.chown(path, pwd.getpwnam(user).pw_uid, -1)


def command(
    asked: PreflightQuestion,
    name: str,
    user: str,
    devices: tuple[str, ...],
    seconds: int,
    concealed: Concealed = NOTHING_CONCEALED,
) -> list[str]:
    """What starts the unit, passes the streams on, and ends as it ends. Pure."""
    # `env` clears what systemd adds.
    given = f"{_CREDENTIALS}/{name}"
    arguments = ["/usr/bin/env", "-i", "--", *_TAKE_OVER, f"{given}/{CREDENTIAL}", str(asked.python)]
    lines = (*_common(name, seconds), *_lines(asked, name, user, devices, concealed))
    return _run(asked, name, lines, [*arguments, f"{given}/{SCRIPTS[0].name}"])


def contained(
    asked: PreflightQuestion, name: str, user: str, owner: str, gpus: tuple[str, ...], seconds: int
) -> list[str]:
    """The same in a container of the image that is asked about. Raises ValueError for a folder of a strange name. Pure.

    `owner` is the user as `UID:GID`.
    """
    # One by one: our own folder may hold anything.
    scripts = {f"{_SCRIPTS}/{script.name}": str(script) for script in SCRIPTS}
    scripts[f"{_SCRIPTS}/{CREDENTIAL}"] = str(variables_of(name))
    container = Container(asked.image, owner, asked.env["HOME"], {}, {**asked.paths, **scripts}, gpus)
    argv = (*_TAKE_OVER, f"{_SCRIPTS}/{CREDENTIAL}", str(asked.python), f"{_SCRIPTS}/{SCRIPTS[0].name}")
    own = name.removesuffix(".service")
    arguments = [
        *RUN,
        f"--name={own}",
        *run_arguments(container, argv, "--interactive", "--log-driver=none", "--network=host"),
    ]
    prepare, tidy = given_line(*cache_arguments(asked.env["HOME"], user)), given_line(*REMOVE, own)
    lines = (*_common(name, seconds), "Delegate=yes", f"ExecStartPre={prepare}", f"ExecStopPost=-{tidy}")
    return _run(asked, name, lines, arguments)


def _run(asked: PreflightQuestion, name: str, lines: Iterable[str], arguments: Iterable[str]) -> list[str]:
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={name}"]
    run.append(f"--description=Preflight with {asked.engine}")
    run += [f"--property={line}" for line in lines]
    # systemd expands variables in arguments.
    return [*run, "--", *(argument.replace("$", "$$") for argument in arguments)]


def _common(name: str, seconds: int) -> Iterator[str]:
    yield f"ExecStopPost=+-{given_line('/bin/rm', '-f', '--', str(variables_of(name)))}"
    yield "PrivateNetwork=yes"
    yield f"RuntimeMaxSec={seconds}"
    yield "KillSignal=SIGKILL"
    yield from BEHIND


def _lines(
    asked: PreflightQuestion, name: str, user: str, devices: tuple[str, ...], concealed: Concealed
) -> Iterator[str]:
    yield f"User={user}"
    yield f"CacheDirectory={asked.env['HOME'].removeprefix(f'{CACHES}/')}"
    yield "CacheDirectoryMode=0700"
    # That user may not be able to enter the folder in which we are installed, nor the one of the models.
    yield from (f"LoadCredential={script.name}:{script}" for script in SCRIPTS)
    yield f"LoadCredential={CREDENTIAL}:{variables_of(name)}"
    for inside, folder in bound(asked).items():
        yield f"BindReadOnlyPaths={quote_given(f'-{folder}')}:{quote_given(inside)}"
    yield from concealing_lines(concealed, asked.env["HOME"], quote_given)
    yield from device_lines(devices)
    yield from HARDENING.splitlines()


def _owner(user: str) -> str:
    """Raises Retryable."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise Retryable(f"no user {user}; create it (useradd --system {user}), or set targets[].user") from None
    return f"{found.pw_uid}:{found.pw_gid}"


def _end(process: subprocess.Popen[bytes], name: str, told: Path) -> None:
    """The unit outlives who waits for it."""
    told.unlink(missing_ok=True)
    if process.poll() == 0:
        return
    process.kill()
    process.wait()
    with contextlib.suppress(NoAnswer):
        run_program(["systemctl", "--quiet", "--no-block", "stop", name], _STOP_SECONDS, SYSTEM_PATH)
