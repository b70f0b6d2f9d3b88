"""Commands that make passes, or show what one would do: run, plan, sync, diff."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.shared import (
    NO,
    OK,
    UNAVAILABLE,
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
    """Run the daemon: keep every target in sync with git.

    SIGHUP reloads the config. SIGTERM stops the daemon; models keep serving.
    """
    from reconciler.config.settings import config_path
    from reconciler.loop import run_daemon

    settings = settings_of(config)
    act_as_owner(settings)
    return run_daemon(settings, config_path(config))


@click.command()
@click.option("--target", help="Only this target.")
@click.option("--revision", help="Use this branch, tag or commit instead of the configured one.")
@click.option("--comment", is_flag=True, help="Tell the pull request: a commit status and one comment.")
@click.option("--pull-request", type=click.IntRange(1), help="Its number, where the CI's variables do not tell it.")
@options(output=("text", "json"))
def plan(
    config: str | None, target: str | None, revision: str | None, comment: bool, pull_request: int | None, output: str
) -> int:
    """Show what would be done next, and why. Nothing is changed.

    A plan holds only the next steps: later ones depend on their results. Exit code 1 when something that git
    asks for is refused, rejected, Blocked or unusable; planned steps alone do not change it.

    With --comment nothing of the revision is trusted: no Secret is opened, and engines only parse its arguments.
    """
    from reconciler.loop import preview
    from reconciler.report.plan_text import plan_blocks
    from reconciler.report.planned import has_faults, plan_document

    log_to_stderr()
    settings = settings_of(config)
    act_as_owner(settings)
    if comment:
        document = _plan_and_comment(settings, target, revision, pull_request)
    else:
        found = preview(settings, target, revision, tell)
        document = plan_document(found.status, found.plans)
    if output == "json":
        print_json(document)
    else:
        show(plan_blocks(document))
    if document["targets"] and not any(one["reachable"] for one in document["targets"]):
        return UNAVAILABLE
    return NO if has_faults(document) else OK


def _plan_and_comment(
    settings: Settings, target: str | None, revision: str | None, pull_request: int | None
) -> Document:
    from reconciler.loop.pull_request_plan import plan_and_comment

    if revision is None:
        raise click.UsageError("--comment needs --revision: the newest commit of the pull request")
    return plan_and_comment(settings, target, revision, pull_request, tell)


@click.command()
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=to_seconds,
    default="15m",
    show_default=True,
    help="Give up waiting after this long, for example 90s.",
)
@options(output=("text", "json"))
def sync(config: str | None, timeout: float, output: str) -> int:
    """Bring every target in sync with git, and wait for it.

    Ends when everything is in sync, when something failed, or at the timeout.

    A running daemon does it; without one, this command does.
    """
    from reconciler.report.convergence import convergence_of
    from reconciler.report.redact import one_line

    status = _synced(settings_of(config), timeout)
    convergence = convergence_of(status)
    if output == "json":
        print_json(status)
    elif convergence.converged:
        click.echo(f"converged at {status['revision']['desired'][:8]}")
    for fault in convergence.faults:
        click.echo(one_line(fault), err=True)
    if not convergence.settled:
        click.echo(f"not converged after {timeout:g} s; `reconciler status --watch` shows the progress", err=True)
    if status["revision"]["error"]:
        return UNAVAILABLE
    return OK if convergence.converged else NO


def _synced(settings: Settings, timeout: float) -> Document:
    from reconciler.report.text import Changes
    from reconciler.system.unix_sockets import answers
    from reconciler.web.client import DaemonClient, follow_sync

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
@click.option("--revision", help="Use this branch, tag or commit instead of the configured one.")
@options(output=("text", "json"))
def diff(config: str | None, service: str | None, target: str | None, revision: str | None, output: str) -> int:
    """Show how the live state differs from git. Exit code 1 on drift, or when something cannot be compared."""
    from reconciler.loop import preview
    from reconciler.model import ClusterView, Unreachable
    from reconciler.report.cluster_status import changed_objects
    from reconciler.report.diff import SCHEMA, state_diff
    from reconciler.web.client import resolve_service

    log_to_stderr()
    settings = settings_of(config)
    act_as_owner(settings)
    found = preview(settings, target, revision, tell)
    name = resolve_service(found.status, service) if service else None
    diffs = [
        one
        for desired, observed, plan in found.plans
        if not isinstance(observed, ClusterView)
        for one in state_diff(desired, observed, plan.verdicts)
    ]
    diffs = [one for one in diffs if name in (None, str(one.service))]
    objects = [one for _, _, plan in found.plans for one in changed_objects(plan, name)]
    if output == "json":
        print_json({"schema": SCHEMA, "services": [one.document() for one in diffs], "objects": objects})
    else:
        _show_diffs(diffs, objects)
    if found.plans and all(isinstance(observed, Unreachable) for _, observed, _ in found.plans):
        return UNAVAILABLE
    return NO if diffs or objects else OK


def _show_diffs(diffs: list[Any], objects: list[Document]) -> None:
    from reconciler.report.plan_text import object_lines
    from reconciler.report.redact import one_line
    from reconciler.report.screen import show_diff

    for one in diffs:
        click.echo(one_line(f"{one.service} ({one.origin}){': ' + one.note if one.note else ''}"))
        show_diff(one.text, sys.stdout)
    for one in objects:
        click.echo("\n".join(line[2:] for line in object_lines(one)))
    if not diffs and not objects:
        click.echo("no difference")
