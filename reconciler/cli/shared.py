"""What commands share: exit codes, options, and printing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from datetime import time as clock
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reconciler.build import RESTART, is_outdated
from reconciler.errors import Retryable

if TYPE_CHECKING:
    from reconciler.config.settings import Settings
    from reconciler.report.status import Document
    from reconciler.report.text import Block
    from reconciler.web.client import DaemonClient

OK, NO, WRONG, UNAVAILABLE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141

Command = TypeVar("Command", bound=Callable[..., Any])


def options(*, config: bool = True, output: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """--config, -o and --debug, the same everywhere."""

    def add(command: Command) -> Command:
        debug_help = "Show a traceback on errors."
        command = click.option("--debug", is_flag=True, expose_value=False, help=debug_help)(command)
        if output:
            kinds = click.Choice(output)
            command = click.option("-o", "--output", type=kinds, default=output[0], show_default=True)(command)
        if config:
            path = click.Path(dir_okay=False)
            command = click.option("--config", type=path, envvar="RECONCILER_CONFIG", help="Config file.")(command)
        return command

    return add


def settings_of(config: str | None) -> Settings:
    from reconciler.config.settings import Settings, config_path

    return Settings.load(config_path(config))


def act_as_owner(settings: Settings) -> None:
    """As root, write into the folder of another user's daemon as that user."""
    from reconciler.state.folder import become_owner

    if name := become_owner(settings):
        tell(f"acting as {name}, whose state_dir this is")


def client_of(config: str | None) -> DaemonClient:
    from reconciler.web.client import DaemonClient

    return DaemonClient(settings_of(config).socket_path)


@contextmanager
def understood(client: DaemonClient) -> Iterator[None]:
    """A daemon that is older than this command may not have every key in its status. Raises Retryable then."""
    try:
        yield
    except KeyError as missing:
        document = client.status()
        if "daemon" in document and (outdated := outdated_daemon(document)):
            raise Retryable(f"{outdated}, and its status has no {missing}; {RESTART}") from None
        raise


def outdated_daemon(document: Document) -> str:
    """Why the daemon does not run what is installed here; empty when it does."""
    return is_outdated(document["daemon"]["version"], document["daemon"].get("build"))


def log_to_stderr() -> None:
    """What stages log while we work in this process must not mix with what we print."""
    from reconciler.config.settings import Log
    from reconciler.report.log import configure

    configure(Log(format="text", level="warning"), sys.stderr)


def print_json(document: object, *, compact: bool = False) -> None:
    """Indented for people; in one line, which is five times as fast, when asked or when a program reads it."""
    click.echo(json.dumps(document, indent=None if compact or not sys.stdout.isatty() else 2))


def show(blocks: Iterable[Block]) -> None:
    from reconciler.report import screen

    screen.show(blocks, sys.stdout)


def tell(message: str) -> None:
    """What others wrote may be in it."""
    from reconciler.report.redact import one_line, scrub_text

    click.echo(one_line(scrub_text(message)), err=True)


def manual_options(command: Command) -> Command:
    """--reason and --until, for manual requests."""
    command = click.option(
        "--until",
        metavar="TIME|DURATION",
        callback=to_moment,
        help="End it automatically then, for example 2h, 18:00 or 2026-11-30T08:00Z; local time without a zone.",
    )(command)
    return reason_option(command)


def reason_option(command: Command) -> Command:
    """--reason alone."""
    help_text = "Reason, shown in status and history."
    return click.option("--reason", default="", callback=_short, help=help_text)(command)


def _short(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if len(value) > 500:
        raise click.BadParameter("at most 500 characters", ctx, param)
    return value


def checked(
    ctx: click.Context, param: click.Parameter, value: str | None, parse: Callable[[str], object]
) -> str | None:
    """An option's text as it is, once a parser takes it."""
    try:
        _ = value is None or parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    return value


def to_moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """An option's callback: a time in the future, or a duration from now on, in seconds since 1970."""
    if value is None:
        return None
    now = datetime.now().astimezone()
    try:
        at = _moment(value.strip(), now)
    except (ValueError, OverflowError):
        text = f'"{value}" is not a time; write for example 2h, 18:00 or 2026-11-30T08:00Z'
        raise click.BadParameter(text, ctx, param) from None
    if at <= now:
        raise click.BadParameter(f"{at.isoformat(timespec='seconds')} is in the past", ctx, param)
    return at.timestamp()


def _moment(text: str, now: datetime) -> datetime:
    """Raises ValueError or OverflowError."""
    from reconciler.config.values import parse_duration

    with suppress(ValueError):
        return now + timedelta(seconds=parse_duration(text))
    if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
        today = datetime.combine(now.date(), clock.fromisoformat(text)).astimezone()
        return today if today > now else datetime.combine(now.date() + timedelta(days=1), today.time()).astimezone()
    return datetime.fromisoformat(text).astimezone()


def to_seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """An option's callback: `90s` → 90.0."""
    from reconciler.config.values import parse_duration

    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
