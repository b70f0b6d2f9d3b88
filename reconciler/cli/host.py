"""Commands for the machine itself: host doctor, host install, host uninstall."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from reconciler.cli.shared import NO, OK, log_to_stderr, options, print_json

if TYPE_CHECKING:
    from reconciler.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.group()
def host() -> None:
    """Prepare this machine, and see whether it is fit."""


@host.command()
@options(output=("text", "json"))
def doctor(config: str | None, output: str) -> int:
    """Check this host: git, engines, GPUs, disks, ports, systemd, clock.

    Changes nothing. Run it as the daemon's user. Exit code 1 when there is a problem; warnings
    never turn the answer.
    """
    from reconciler.config import config_path
    from reconciler.doctor import Level, examine

    log_to_stderr()
    found: list[Finding] = []
    for one in examine(config_path(config)):
        found.append(one)
        if output == "text":
            _print_finding(one)
    problems, warnings = (sum(one.level is level for one in found) for level in (Level.PROBLEM, Level.WARNING))
    if output == "json":
        keys = ("topic", "level", "says", "fix")
        document = [{key: str(getattr(one, key)) for key in keys} for one in found]
        print_json({"schema": "reconciler.doctor/v1", "fit": not problems, "findings": document})
    else:
        click.echo(f"{len(found)} checks: {problems} problems, {warnings} warnings")
    return NO if problems else OK


def _print_finding(finding: Finding) -> None:
    from reconciler.report.scrub import printable, scrub_text

    mark = f"{finding.level:<8}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        mark = click.style(mark, fg=_COLOURS[finding.level])
    click.echo(f"{mark} {finding.topic}: {printable(scrub_text(finding.says))}")
    if finding.fix:
        click.echo(f"{'':<8} how to fix: {printable(scrub_text(finding.fix))}")
    sys.stdout.flush()
