"""Commands that compare git with the world: run, plan, sync, diff."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.shared import (
    NO,
    NOBODY,
    OK,
    act_as_owner,
    log_to_stderr,
    options,
    print_json,
    settings_of,
    show,
    tell,
    to_seconds,
    understood,
)

if TYPE_CHECKING:
    from reconciler.config.settings import Settings
    from reconciler.report.status import Document


@click.command("run")
@options()
def run_command(config: str | None) -> int:
    """Run the daemon: keep every target as git says.

    SIGHUP reads the config again. SIGTERM ends the daemon and leaves what serves serving.
    """
    from reconciler.config.settings import config_path
    from reconciler.loop import run_daemon

    settings = settings_of(config)
    act_as_owner(settings)
    return run_daemon(settings, config_path(config))


@click.command()
@click.option("--target", help="Only this target.")
@click.option("--revision", help="Another revision than the configured one: branch, tag or commit.")
@options(output=("text", "json"))
def plan(config: str | None, target: str | None, revision: str | None, output: str) -> int:
    """Show what would be done next, and why. Nothing is changed.

    A plan holds the next steps only: later ones follow from what these bring about. Exit code 1 when something that git
    asks for is refused, rejected, Blocked or unusable; steps alone are no reason.
    """
    from reconciler.loop import preview
    from reconciler.report.planned import has_faults, plan_document
    from reconciler.report.text import plan_blocks

    log_to_stderr()
    settings = settings_of(config)
    act_as_owner(settings)
    found = preview(settings, target, revision, tell)
    document = plan_document(found.status, found.plans)
    if output == "json":
        print_json(document)
    else:
        show(plan_blocks(document))
    if document["targets"] and not any(one["reachable"] for one in document["targets"]):
        return NOBODY
    return NO if has_faults(document) else OK


@click.command()
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=to_seconds,
    default="15m",
    show_default=True,
    help="Longest wait, for example 90s.",
)
@options(output=("text", "json"))
def sync(config: str | None, timeout: float, output: str) -> int:
    """Bring every target to what git says, and wait for it.

    Ends when all is as git says, when something failed, or when the time is over.

    A running daemon is asked to do it; without one it is done here.
    """
    from reconciler.report.convergence import judge
    from reconciler.report.redact import one_line

    status = _synced(settings_of(config), timeout)
    judgement = judge(status)
    if output == "json":
        print_json(status)
    elif judgement.converged:
        click.echo(f"converged at {status['revision']['wanted'][:8]}")
    for fault in judgement.faults:
        click.echo(one_line(fault), err=True)
    if not judgement.settled:
        click.echo(f"not converged after {timeout:g} s; `reconciler status --watch` shows how it goes on", err=True)
    if status["revision"]["error"]:
        return NOBODY
    return OK if judgement.converged else NO


def _synced(settings: Settings, timeout: float) -> Document:
    from reconciler.report.text import Changes
    from reconciler.system.unix_sockets import answers
    from reconciler.web.client import DaemonClient
    from reconciler.web.follow import follow_sync

    changes = Changes()

    def progress(status: Document) -> None:
        for line in changes.since_last(status):
            click.echo(line, err=True)

    if answers(settings.socket_path):
        client = DaemonClient(settings.socket_path)
        with understood(client):
            return follow_sync(client, timeout, progress)
    from reconciler.loop import sync as sync_here

    log_to_stderr()
    act_as_owner(settings)
    return sync_here(settings, timeout, progress)


@click.command()
@click.argument("service", required=False)
@click.option("--target", help="Only this target.")
@click.option("--revision", help="Another revision than the configured one: branch, tag or commit.")
@options(output=("text", "json"))
def diff(config: str | None, service: str | None, target: str | None, revision: str | None, output: str) -> int:
    """Show how what git says differs from what runs. Exit code 1 when anything differs, or cannot be compared."""
    from reconciler.loop import preview
    from reconciler.model import Unreachable
    from reconciler.report.diff import SCHEMA, state_diff
    from reconciler.web.names import resolve_service

    log_to_stderr()
    settings = settings_of(config)
    act_as_owner(settings)
    found = preview(settings, target, revision, tell)
    name = resolve_service(found.status, service) if service else None
    diffs = [one for desired, observed, plan in found.plans for one in state_diff(desired, observed, plan.verdicts)]
    diffs = [one for one in diffs if name in (None, str(one.service))]
    if output == "json":
        print_json({"schema": SCHEMA, "services": [one.document() for one in diffs]})
    else:
        _show_diffs(diffs)
    if found.plans and all(isinstance(observed, Unreachable) for _, observed, _ in found.plans):
        return NOBODY
    return NO if diffs else OK


def _show_diffs(diffs: list[Any]) -> None:
    from reconciler.report.redact import one_line
    from reconciler.report.screen import show_diff

    for one in diffs:
        click.echo(one_line(f"{one.service} ({one.origin}){': ' + one.note if one.note else ''}"))
        show_diff(one.text, sys.stdout)
    if not diffs:
        click.echo("no difference")
