"""Commands for this host: host doctor, drain, undrain, install, uninstall."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.doctor import report
from reconciler.cli.shared import (
    NO,
    OK,
    act_as_owner,
    log_to_stderr,
    manual_options,
    options,
    settings_of,
    tell,
)

if TYPE_CHECKING:
    from reconciler.host.install import Step, System
    from reconciler.web.client import DaemonClient

_ROOT = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def host() -> None:
    """Prepare this host, and check that it is ready."""


@host.command()
@options(output=("text", "json"))
def doctor(config: str | None, output: str) -> int:
    """Check this host: git, forge, engines, GPUs, disks, ports, systemd, clock.

    Changes nothing. Run it as the daemon's user. Exit code 1 when there is a problem; warnings do
    not change the exit code.
    """
    from reconciler.config.settings import config_path
    from reconciler.host.doctor import examine

    log_to_stderr()
    keys = ("topic", "level", "message", "fix")
    return report(examine(config_path(config)), output, "reconciler.host.doctor/v2", keys)


@host.command()
@manual_options
@options()
def drain(config: str | None, reason: str, until: float | None) -> int:
    """Drain and stop every model on this host now, regardless of git, until `host undrain`.

    New requests get 503 with Retry-After, and nothing starts, also after restarts and reboots. If the
    daemon is not running, the request is stored and takes effect once it starts.
    """
    from reconciler.model import ByHand
    from reconciler.system.unix_sockets import answers, person
    from reconciler.web.client import DaemonClient

    settings = settings_of(config)
    if answers(settings.socket_path):
        client = DaemonClient(settings.socket_path)
        client.drain(reason, until)
        click.echo("draining; `reconciler status --watch` shows the progress, `reconciler host undrain` ends it")
        _warn_suspended(client)
        return OK
    from reconciler.loop import drain_later
    from reconciler.report.redact import printable

    log_to_stderr()
    asked = ByHand(person(os.getpid(), os.getuid()), time.time(), printable(reason), until)
    act_as_owner(settings)
    drain_later(settings, asked)
    click.echo("the daemon is not running: the host is drained once it starts; models keep serving until then")
    return OK


def _warn_suspended(client: DaemonClient) -> None:
    from reconciler.report.convergence import full_name, services

    for _, service in services(client.status()):
        if service["suspended"] and service["replicas"]:
            tell(f"{full_name(service)} is suspended and keeps running; run `reconciler resume` to let it be drained")


@host.command()
@options()
def undrain(config: str | None) -> int:
    """End a manual drain: run on this host what git asks for again."""
    from reconciler.system.unix_sockets import answers, person
    from reconciler.web.client import DaemonClient

    settings = settings_of(config)
    if answers(settings.socket_path):
        lifted = DaemonClient(settings.socket_path).undrain()
    else:
        from reconciler.loop import undrain_later

        log_to_stderr()
        me = person(os.getpid(), os.getuid())
        act_as_owner(settings)
        lifted = undrain_later(settings, me)
    click.echo(
        "no longer drained: this host runs what git asks for again" if lifted else "this host was not drained manually"
    )
    return OK


@host.command()
@click.option("--no-start", is_flag=True, help="Enable the daemon, but do not start it now.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--root", type=_ROOT, default="/", help="Root folder of another system, such as a disk image.")
@options(config=False)
def install(no_start: bool, dry_run: bool, root: Path) -> int:
    """Install the daemon as a systemd service: its user, folders, config and unit.

    Can be run again, for example after an upgrade. An existing config is never changed.
    Models keep serving.
    """
    from reconciler.host.install import CONFIG, System, is_configured
    from reconciler.host.install import install as steps

    system = System(root.absolute())
    _carry_out(steps(system, start=not no_start), system, dry_run)
    if not dry_run and not is_configured(system):
        click.echo(f"next: set the git repository and the vLLM interpreter in {system.at(CONFIG)}, then run")
        click.echo("      reconciler host doctor && reconciler host install")
    return OK


@host.command()
@click.option("--workloads", is_flag=True, help="Stop replicas and the proxy too; running requests are lost.")
@click.option("--purge", is_flag=True, help="Delete config, state and caches as well; implies --workloads.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--root", type=_ROOT, default="/", help="Root folder of another system, such as a disk image.")
@options(config=False)
def uninstall(workloads: bool, purge: bool, dry_run: bool, root: Path) -> int:
    """Remove the daemon from this host. Models keep serving unless --workloads is given.

    Exit code 1 if something could not be deleted, such as a mount point; it is emptied then, and the
    rest is deleted.
    """
    from reconciler.host.install import System, what_is_left
    from reconciler.host.install import uninstall as steps

    log_to_stderr()
    system = System(root.absolute())
    all_gone = _carry_out(steps(system, workloads=workloads or purge, purge=purge), system, dry_run)
    for left in [] if dry_run else what_is_left(system, purge):
        click.echo(f"left: {left}")
    return OK if all_gone else NO


def _carry_out(steps: Iterable[Step], system: System, dry_run: bool) -> bool:
    """Perform the steps and print the result of each. False: some could only be done in part."""
    from reconciler.host.install import StepResult, carry_out

    if not dry_run:
        system.require()
    complete = True
    for done in carry_out(steps, dry_run):
        complete &= done.result is not StepResult.LEFT
        click.echo(f"{done.result:<9} {done.what}")
        sys.stdout.flush()
    return complete
