"""Commands that ask a running daemon: status, history, suspend, resume, logs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reconciler.cli.shared import (
    NO,
    OK,
    client_of,
    options,
    print_json,
    show,
)

if TYPE_CHECKING:
    from reconciler.web.client import DaemonClient


@click.command()
@click.option("--watch", is_flag=True, help="Go on: redraw on a terminal, print what changes elsewhere.")
@options(output=("text", "json"))
def status(config: str | None, watch: bool, output: str) -> int:
    """Say what runs, how it serves and what git wants. Exit code 0 only when all is as git says."""
    import time

    from reconciler.report.judgement import judge
    from reconciler.report.text import stale_blocks, status_blocks

    client = client_of(config)
    if watch:
        return _watch(client, output)
    document = client.status()
    if output == "json":
        print_json(document)
    else:
        show((*status_blocks(document), *stale_blocks(document, time.time())))
    return OK if judge(document).converged else NO


def _watch(client: DaemonClient, output: str) -> int:
    import time

    from reconciler.report.text import Changes

    document = client.status()
    if output == "text" and sys.stdout.isatty():
        return _redraw(client)
    changes, last = Changes(), None
    while True:
        if output == "json" and document != last:
            print_json(document, compact=True)
        elif output == "text":
            for line in changes.since_last(document):
                click.echo(line)
        sys.stdout.flush()
        last = document
        time.sleep(1)
        document = client.status()


def _redraw(client: DaemonClient) -> int:
    import time

    from rich.live import Live

    from reconciler.report.screen import renderable
    from reconciler.report.text import stale_blocks, status_blocks

    with Live(auto_refresh=False, screen=True) as live:
        while True:
            document = client.status()
            blocks = (*status_blocks(document), *stale_blocks(document, time.time()))
            live.update(renderable(blocks), refresh=True)
            time.sleep(1)


@click.command()
@click.argument("service", required=False)
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most entries.")
@options(output=("text", "json"))
def history(config: str | None, service: str | None, limit: int, output: str) -> int:
    """Say what happened, oldest first."""
    from reconciler.report.text import history_table

    entries = client_of(config).history(service, limit)
    if output == "json":
        print_json({"schema": "reconciler.history/v1", "entries": entries})
    else:
        show([history_table(entries)] if entries else ["nothing happened yet"])
    return OK


@click.command()
@click.argument("service", required=False)
@options()
def suspend(config: str | None, service: str | None) -> int:
    """Leave SERVICE, or everything, as it runs now.

    Plans go on and are shown; nothing is performed.
    """
    return _print_suspended(client_of(config).suspend(service))


@click.command()
@click.argument("service", required=False)
@options()
def resume(config: str | None, service: str | None) -> int:
    """Let SERVICE, or everything, follow git again.

    What was rejected is tried once more.
    """
    return _print_suspended(client_of(config).resume(service))


def _print_suspended(names: list[str]) -> int:
    click.echo("suspended: " + (", ".join("everything" if name == "*" else name for name in names) or "nothing"))
    return OK


@click.command()
@click.argument("service")
@click.option(
    "-n", "--lines", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Last lines to show."
)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
@options()
def logs(config: str | None, service: str, lines: int, follow: bool) -> int:
    """Print what the replicas of SERVICE wrote."""
    from reconciler.report.scrub import printable
    from reconciler.web.follow import follow_logs

    client = client_of(config)
    source = follow_logs(client, service, lines) if follow else iter(client.logs(service, lines))
    for line in source:
        click.echo(printable(line))
        sys.stdout.flush()
    return OK
