"""Commands that need a running daemon: status, open, history, suspend, resume, restart, logs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

import click

from reconciler.build import RESTART
from reconciler.cli.shared import (
    NO,
    OK,
    checked,
    client_of,
    manual_options,
    options,
    outdated_daemon,
    print_json,
    reason_option,
    settings_of,
    show,
    tell,
    to_seconds,
    understood,
)

if TYPE_CHECKING:
    from reconciler.report.status import Document
    from reconciler.report.text import Block
    from reconciler.web.client import DaemonClient

_WIDE = 140
"""Columns of a terminal from which the table of services has room for their GPUs."""


@click.command()
@click.argument("service", required=False)
@click.option("--watch", is_flag=True, help="Keep watching: redraw in a terminal, otherwise print changes.")
@options(output=("text", "json"))
def status(config: str | None, service: str | None, watch: bool, output: str) -> int:
    """Show what runs, how it serves and what git asks for. Exit code 0 only when everything is in sync and healthy.

    With SERVICE, also its replicas: the GPUs that each holds, and its share of the requests.
    """
    from reconciler.report.convergence import convergence_of, only
    from reconciler.web.client import resolve_service

    client = client_of(config)
    if watch:
        with understood(client):
            return _watch(client, service, output)
    with understood(client):
        document = client.status()
        if service:
            document = only(document, resolve_service(document, service))
        if output == "json":
            print_json(document)
        else:
            show(_status_text(document, detail=bool(service)))
        return OK if convergence_of(document).converged else NO


def _status_text(document: Document, *, detail: bool) -> Iterable[Block]:
    import time

    from reconciler.report.text import stale_blocks, status_blocks

    wide = sys.stdout.isatty() and shutil.get_terminal_size().columns >= _WIDE
    outdated = outdated_daemon(document)
    hint = ("", f"{outdated}: `{RESTART}` (models keep serving)") if outdated else ()
    return (*status_blocks(document, wide=wide, detail=detail), *stale_blocks(document, time.time()), *hint)


def _watch(client: DaemonClient, service: str | None, output: str) -> int:
    from reconciler.report.convergence import only
    from reconciler.web.client import follow_status, resolve_service

    first = client.status()
    name = resolve_service(first, service) if service else None
    found = chain([first], follow_status(client))
    states = (only(one, name) if name and not isinstance(one, str) else one for one in found)
    if output == "json":
        return _print_documents(states)
    return _redraw(states, detail=bool(name)) if sys.stdout.isatty() else _print_changes(states)


def _print_documents(states: Iterable[Document | str]) -> int:
    last: Document | None = None
    away = False
    for state in states:
        if isinstance(state, str):
            if not away:
                tell(f"{state}; waiting for it")
            away = True
            continue
        away = False
        if state != last:
            print_json(state, compact=True)
            sys.stdout.flush()
        last = state
    return OK


def _print_changes(states: Iterable[Document | str]) -> int:
    from reconciler.report.redact import printable
    from reconciler.report.text import Changes

    changes, away = Changes(), False
    for state in states:
        if isinstance(state, str):
            lines = [] if away else [f"{printable(state)}; waiting for it"]
        else:
            lines = ["the daemon is reachable again"] if away else []
            lines += changes.since_last(state)
        away = isinstance(state, str)
        for line in lines:
            click.echo(line)
        sys.stdout.flush()
    return OK


def _redraw(states: Iterable[Document | str], *, detail: bool) -> int:
    """While the daemon is away, the last status stays on the screen below the reason."""
    from rich.live import Live

    from reconciler.report.redact import printable
    from reconciler.report.screen import renderable

    shown: tuple[Block, ...] = ()
    with Live(auto_refresh=False, screen=True) as live:
        for state in states:
            away: tuple[Block, ...] = ()
            if isinstance(state, str):
                away = (f"{printable(state)}; waiting for it. Last known status:", "")
            else:
                shown = tuple(_status_text(state, detail=detail))
            live.update(renderable((*away, *shown)), refresh=True)
    return OK


@click.command("open")
@click.argument("service", required=False)
@click.option("--target", help="The one that runs it, where several do.")
@options(output=("text", "json"))
def open_page(config: str | None, service: str | None, target: str | None, output: str) -> int:
    """Print the address of the page of SERVICE, or of the Overview.

    It begins with `web.url` of the config, or else with the address that the daemon listens on.
    """
    from reconciler.report.addresses import public_url

    address = _page_of(client_of(config), service, target) if service else "/"
    url = public_url(settings_of(config).web.address, address)
    if output == "json":
        print_json({"schema": "reconciler.open/v1", "url": url})
    else:
        click.echo(url)
    return OK


def _page_of(client: DaemonClient, service: str, target: str | None) -> str:
    """Raises UnknownService, and UsageError where several targets have it."""
    from reconciler.report.addresses import service_address
    from reconciler.report.convergence import only
    from reconciler.web.client import resolve_service

    document = client.status()
    name = resolve_service(document, service)
    found = [one["name"] for one in only(document, name)["targets"]]
    chosen = [one for one in found if target in (None, one)]
    if not chosen:
        raise click.UsageError(f"{name} is not on {target}, but on {', '.join(found)}")
    if len(chosen) > 1:
        raise click.UsageError(f"{name} is on several targets; add one of: --target {', --target '.join(chosen)}")
    return service_address(chosen[0], *name.split("/", 1))


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from reconciler.report.history import parse_since

    return checked(ctx, param, value, lambda text: parse_since(text, 0.0))


def _revision(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from reconciler.report.history import parse_revision

    return checked(ctx, param, value, parse_revision)


@click.command()
@click.argument("service", required=False)
@click.option("--service", "named", metavar="SERVICE", help="Only this service; the same as the argument.")
@click.option(
    "--since",
    metavar="TIME|DURATION",
    callback=_since,
    help="Only entries since then, for example 2h, 2026-11-29 or 2026-11-29T08:00Z; local time without a zone.",
)
@click.option("--revision", callback=_revision, help="Only this commit, given by its first 4 to 40 digits.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="Show at most this many entries.",
)
@options(output=("text", "json"))
def history(
    config: str | None, service: str | None, named: str | None, limit: int, output: str, **when: str | None
) -> int:
    """Show what happened, oldest first. No matching entry is not an error."""
    from reconciler.report.text import history_table

    if service and named and service != named:
        raise click.UsageError(f"SERVICE is {service} and --service is {named}; name one of them")
    entries = client_of(config).history(service or named, limit, **when)
    if output == "json":
        print_json({"schema": "reconciler.history/v1", "entries": entries})
    elif entries:
        show([history_table(entries)])
    else:
        show(["no matching entry" if service or named or any(when.values()) else "no entries yet"])
    return OK


@click.command()
@click.argument("service", required=False)
@manual_options
@options()
def suspend(config: str | None, service: str | None, reason: str, until: float | None) -> int:
    """Pause reconciliation of SERVICE, or of everything.

    What runs keeps running. Plans are still made and shown, but no action is performed. Status and
    history show who did it, why and until when.
    """
    return _print_suspended(client_of(config).suspend(service, reason, until))


@click.command()
@click.argument("service", required=False)
@options()
def resume(config: str | None, service: str | None) -> int:
    """Resume reconciliation of SERVICE, or of everything.

    Rejected revisions of a service are tried once more.
    """
    return _print_suspended(client_of(config).resume(service))


def _print_suspended(names: list[str]) -> int:
    click.echo("suspended: " + (", ".join("everything" if name == "*" else name for name in names) or "nothing"))
    return OK


@click.command()
@click.argument("hash", metavar="HASH", required=False)
@click.option("--target", help="Only on this target.")
@reason_option
@click.option("--withdraw", is_flag=True, help="Withdraw the approval of HASH: hold what is left of it again.")
@click.option("--list", "listed", is_flag=True, help="Show what is held, approved and withdrawn.")
@options(output=("text", "json"))
def approve(
    config: str | None, hash: str | None, target: str | None, reason: str, withdraw: bool, listed: bool, output: str
) -> int:
    """Approve the deletions with this HASH, which are held because so much would go at once.

    Status and plan show the hash. It stands for exactly these services: what else is deleted later needs another
    approval. A commit with the trailer `Reconciler-Approve: HASH` approves as well.
    """
    client = client_of(config)
    if listed == (hash is not None):
        raise click.UsageError("give a HASH to approve, or --list")
    if hash is None:
        return _print_approvals(client, target, output)
    targets = (client.withdraw if withdraw else client.approve)(hash, target, reason)
    if output == "json":
        print_json({"schema": "reconciler.approve/v1", "hash": hash, "approved": not withdraw, "targets": targets})
    else:
        click.echo(f"{'withdrawn' if withdraw else 'approved'} on {', '.join(targets)}: {hash}")
    return OK


def _print_approvals(client: DaemonClient, target: str | None, output: str) -> int:
    from reconciler.report.text import approvals_table

    with understood(client):
        found = {one["name"]: one["deletions"] for one in client.status()["targets"] if target in (None, one["name"])}
        if output == "json":
            print_json({"schema": "reconciler.approvals/v1", "targets": found})
        elif any(one["held"] or one["approvals"] for one in found.values()):
            show([approvals_table(found)])
        else:
            show(["no deletions are held or approved"])
    return OK


@click.command()
@click.argument("service")
@click.option("--target", help="Only on this target.")
@click.option("--wait", is_flag=True, help="Wait until the new replicas serve; exit code 1 if they do not.")
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=to_seconds,
    default="15m",
    show_default=True,
    help="Give up waiting after this long.",
)
@options(output=("text", "json"))
def restart(config: str | None, service: str, target: str | None, wait: bool, timeout: float, output: str) -> int:
    """Restart SERVICE: replace its replicas by a normal rollout.

    With enough GPUs and memory for both, no replica stops before its successor serves. `reconciler
    status` and `reconciler history` show the progress.
    """
    from reconciler.report.convergence import fault, is_fine
    from reconciler.report.redact import printable
    from reconciler.report.text import Changes
    from reconciler.web.client import follow_restart

    client, changes = client_of(config), Changes()
    asked = client.restart(service, target)

    def progress(status: dict[str, object]) -> None:
        for line in changes.since_last(status):
            click.echo(line, err=True)

    found = follow_restart(client, asked, timeout, progress) if wait else []
    done = all(is_fine(one) for one in found)
    if output == "json":
        print_json({"schema": "reconciler.restart/v1", **asked, "services": found, "done": wait and done})
    else:
        verb = "restarted" if wait and done else "restarting"
        click.echo(f"{verb} {asked['service']} on {', '.join(asked['targets'])}")
    for one in found:
        if not is_fine(one):
            click.echo(printable(fault(one)), err=True)
    return OK if done else NO


@click.command()
@click.argument("service")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Number of last lines to show.",
)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines as they are written.")
@options()
def logs(config: str | None, service: str, lines: int, follow: bool) -> int:
    """Print what the replicas of SERVICE wrote."""
    from reconciler.report.redact import printable
    from reconciler.web.client import follow_logs

    client = client_of(config)
    source = follow_logs(client, service, lines) if follow else iter(client.logs(service, lines))
    for line in source:
        click.echo(printable(line))
        sys.stdout.flush()
    return OK
