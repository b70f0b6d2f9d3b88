"""The command line: arguments → call → print → exit code. It decides nothing.

Everything heavy is imported inside the commands: `--help` must answer at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reconciler.errors import ReconcileError, Retryable, Terminal

if TYPE_CHECKING:
    from reconciler.config import Settings
    from reconciler.report.status import Document
    from reconciler.report.text import Block
    from reconciler.web.client import DaemonClient

OK, NO, WRONG, NOBODY, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141

_EPILOG = """\b
Exit codes:
  0  the answer is yes: done, valid, as git says
  1  the answer is no: not converged, differs, invalid, blocked or failed
  2  wrong usage, wrong config or input that cannot be used
  3  nobody to ask: no daemon runs, or the source or a target cannot be reached

SERVICE is a name where it is unique, or namespace/name always.
The config file is --config PATH, else $RECONCILER_CONFIG, else /etc/reconciler/config.yaml."""

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """The entry point of `reconciler`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. A user's mistake is one message, never a traceback."""
    try:
        code = cli.main(arguments, prog_name="reconciler", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ReconcileError as error:
        return _explain(error)
    except BrokenPipeError:
        return _reader_went_away()
    except Exception as error:
        return _admit_bug(error, debug="--debug" in arguments)


def _explain(error: ReconcileError) -> int:
    from reconciler.report.scrub import printable, scrub_text

    click.echo(f"reconciler: {printable(scrub_text(str(error)))}", err=True)
    return NOBODY if isinstance(error, Retryable) else WRONG if isinstance(error, Terminal) else NO


def _reader_went_away() -> int:
    # Python would flush once more at exit, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


def _admit_bug(error: Exception, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    click.echo(f"reconciler: {what}; this is a bug, please report it with what --debug prints", err=True)
    return NO


# ---------------------------------------------------------------- what commands share


def _options(*, config: bool = True, output: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """--config, -o and --debug, the same everywhere."""

    def add(command: Command) -> Command:
        command = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback if we fail.")(
            command
        )
        if output:
            kinds = click.Choice(output)
            command = click.option("-o", "--output", type=kinds, default=output[0], show_default=True)(command)
        if config:
            path = click.Path(dir_okay=False)
            command = click.option("--config", type=path, envvar="RECONCILER_CONFIG", help="Config file.")(command)
        return command

    return add


def _settings(config: str | None) -> Settings:
    from reconciler.config import Settings, config_path

    return Settings.load(config_path(config))


def _client(config: str | None) -> DaemonClient:
    from reconciler.web.client import DaemonClient

    return DaemonClient(_settings(config).socket_path)


def _log_to_stderr() -> None:
    """What stages log while we work in this process must not mix with what we print."""
    from reconciler.config import Log
    from reconciler.report.log import configure

    configure(Log(format="text", level="warning"), sys.stderr)


def _print_json(document: object, *, compact: bool = False) -> None:
    click.echo(json.dumps(document, indent=None if compact else 2))


def _show(blocks: Iterator[Block] | list[Block]) -> None:
    from reconciler.report.screen import show

    show(blocks, sys.stdout)


def _progress(message: str) -> None:
    click.echo(message, err=True)


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from reconciler.config import parse_duration

        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


# ---------------------------------------------------------------- commands


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """GitOps for vLLM: KServe manifests in git become served models."""


@cli.command("run")
@_options()
def run_command(config: str | None) -> int:
    """Run the daemon: keep every target as git says.

    SIGHUP reads the config again. SIGTERM ends the daemon and leaves what serves serving.
    """
    from reconciler.config import config_path
    from reconciler.loop import run_daemon

    settings = _settings(config)
    return run_daemon(settings, config_path(config))


@cli.command()
@click.option("--target", help="Only this target.")
@click.option("--revision", help="Another revision than the configured one: branch, tag or commit.")
@_options(output=("text", "json"))
def plan(config: str | None, target: str | None, revision: str | None, output: str) -> int:
    """Show what would be done next, and why. Nothing is changed.

    A plan holds the next steps only: later ones follow from what these bring about.
    """
    from reconciler.loop import preview
    from reconciler.report.planned import plan_document
    from reconciler.report.text import plan_blocks

    _log_to_stderr()
    found = preview(_settings(config), target, revision, _progress)
    document = plan_document(found.status, found.plans)
    if output == "json":
        _print_json(document)
    else:
        _show(plan_blocks(document))
    reached = [one["reachable"] for one in document["targets"]]
    return NOBODY if reached and not any(reached) else OK


@cli.command()
@click.option("--timeout", type=_Duration(), default="15m", show_default=True, help="Longest wait, for example 90s.")
@_options(output=("text", "json"))
def sync(config: str | None, timeout: float, output: str) -> int:
    """Bring every target to what git says, and wait for it.

    Ends when all is as git says, when something failed, or when the time is over.

    A running daemon is asked to do it; without one it is done here.
    """
    from reconciler.report.judgement import judge
    from reconciler.report.scrub import printable

    status = _synced(_settings(config), timeout)
    judgement = judge(status)
    if output == "json":
        _print_json(status)
    elif judgement.converged:
        click.echo(f"converged at {status['revision']['wanted'][:8]}")
    for fault in judgement.faults:
        click.echo(printable(fault), err=True)
    if not judgement.settled:
        click.echo(f"not converged after {timeout:g} s; `reconciler status --watch` shows how it goes on", err=True)
    if status["revision"]["error"]:
        return NOBODY
    return OK if judgement.converged else NO


def _synced(settings: Settings, timeout: float) -> Document:
    from reconciler.report.text import Changes
    from reconciler.web.client import DaemonClient
    from reconciler.web.follow import follow_sync
    from reconciler.web.unix import answers

    changes = Changes()

    def progress(status: Document) -> None:
        for line in changes.since_last(status):
            click.echo(line, err=True)

    if answers(settings.socket_path):
        return follow_sync(DaemonClient(settings.socket_path), timeout, progress)
    from reconciler.loop import sync as sync_here

    _log_to_stderr()
    return sync_here(settings, timeout, progress)


@cli.command()
@click.option("--watch", is_flag=True, help="Go on: redraw on a terminal, print what changes elsewhere.")
@_options(output=("text", "json"))
def status(config: str | None, watch: bool, output: str) -> int:
    """Say what runs, how it serves and what git wants. Exit code 0 only when all is as git says."""
    from reconciler.report.judgement import judge
    from reconciler.report.text import status_blocks

    client = _client(config)
    if watch:
        return _watch(client, output)
    document = client.status()
    if output == "json":
        _print_json(document)
    else:
        _show(status_blocks(document))
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
            _print_json(document, compact=True)
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
    from reconciler.report.text import status_blocks

    with Live(auto_refresh=False, screen=True) as live:
        while True:
            live.update(renderable(status_blocks(client.status())), refresh=True)
            time.sleep(1)


@cli.command()
@click.argument("service", required=False)
@click.option("--target", help="Only this target.")
@click.option("--revision", help="Another revision than the configured one: branch, tag or commit.")
@_options(output=("text", "json"))
def diff(config: str | None, service: str | None, target: str | None, revision: str | None, output: str) -> int:
    """Show how what git says differs from what runs. Exit code 1 when anything differs."""
    from reconciler.loop import preview
    from reconciler.report.diff import SCHEMA, state_diff
    from reconciler.web.names import resolve_service

    _log_to_stderr()
    found = preview(_settings(config), target, revision, _progress)
    name = resolve_service(found.status, service) if service else None
    diffs = [one for desired, observed, _ in found.plans for one in state_diff(desired, observed)]
    diffs = [one for one in diffs if name in (None, str(one.service))]
    if output == "json":
        _print_json({"schema": SCHEMA, "services": [one.document() for one in diffs]})
    else:
        _show_diffs(diffs)
    return NO if diffs else OK


def _show_diffs(diffs: list[Any]) -> None:
    from reconciler.report.screen import show_diff

    for one in diffs:
        click.echo(f"{one.service} ({one.origin}){': ' + one.note if one.note else ''}")
        show_diff(one.text, sys.stdout)
    if not diffs:
        click.echo("no difference")


_PATHS = click.Path(exists=True, path_type=Path)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=_PATHS)
@_options(config=False, output=("yaml", "json"))
def render(paths: tuple[Path, ...], output: str) -> int:
    """Show what would run, for manifests in files.

    Effective runtime, container, arguments and storage of each service. Needs no daemon and no config.
    """
    from reconciler.review import render_paths

    document, code = render_paths(paths)
    if output == "json":
        _print_json(document)
    else:
        import yaml

        # By way of JSON, so that nothing is written as an alias of something else.
        click.echo(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False), nl=False)
    return code


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=_PATHS)
@_options(config=False, output=("text", "json"))
def validate(paths: tuple[Path, ...], output: str) -> int:
    """Check manifests as KServe would, for pre-commit and CI.

    Needs no daemon and no config. Warnings are ours and never turn the answer.
    """
    from reconciler.report.text import review_blocks
    from reconciler.review import validate_paths

    document, code = validate_paths(paths)
    if output == "json":
        _print_json(document)
    else:
        _show(review_blocks(document))
    return code


@cli.command()
@click.argument("service", required=False)
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most entries.")
@_options(output=("text", "json"))
def history(config: str | None, service: str | None, limit: int, output: str) -> int:
    """Say what happened, oldest first."""
    from reconciler.report.text import history_table

    entries = _client(config).history(service, limit)
    if output == "json":
        _print_json({"schema": "reconciler.history/v1", "entries": entries})
    else:
        _show([history_table(entries)] if entries else ["nothing happened yet"])
    return OK


@cli.command()
@click.argument("service", required=False)
@_options()
def suspend(config: str | None, service: str | None) -> int:
    """Leave SERVICE, or everything, as it runs now.

    Plans go on and are shown; nothing is performed.
    """
    return _print_suspended(_client(config).suspend(service))


@cli.command()
@click.argument("service", required=False)
@_options()
def resume(config: str | None, service: str | None) -> int:
    """Let SERVICE, or everything, follow git again.

    What was rejected is tried once more.
    """
    return _print_suspended(_client(config).resume(service))


def _print_suspended(names: list[str]) -> int:
    click.echo("suspended: " + (", ".join("everything" if name == "*" else name for name in names) or "nothing"))
    return OK


@cli.command()
@click.argument("service")
@click.option(
    "-n", "--lines", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Last lines to show."
)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
@_options()
def logs(config: str | None, service: str, lines: int, follow: bool) -> int:
    """Print what the replicas of SERVICE wrote."""
    from reconciler.report.scrub import printable
    from reconciler.web.follow import follow_logs

    client = _client(config)
    source = follow_logs(client, service, lines) if follow else iter(client.logs(service, lines))
    for line in source:
        click.echo(printable(line))
        sys.stdout.flush()
    return OK


@cli.command()
@click.option("--once", is_flag=True, help="Clean up at the end; exit code 0 only if all went as promised.")
@click.option("--stop", is_flag=True, help="End the demo that runs.")
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), help="Where it keeps its files.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the proxy, else the first free one from 8080.")
@click.option("--python", type=click.Path(dir_okay=False, path_type=Path), help="Interpreter that has vLLM.")
@_options(config=False, output=("text", "json"))
def demo(once: bool, stop: bool, folder: Path | None, port: int | None, python: Path | None, output: str) -> int:
    """See it work: push, change under load, refuse a bad commit."""
    from reconciler.demo import run as run_demo

    return run_demo(once=once, stop=stop, folder=folder, port=port, python=python, output=output)


@cli.command()
def version() -> int:
    """Print the version."""
    from reconciler import __version__

    click.echo(__version__)
    return OK
