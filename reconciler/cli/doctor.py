"""doctor: check what the config names, and print what is found."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.shared import NO, OK, log_to_stderr, options, print_json

if TYPE_CHECKING:
    from reconciler.report.findings import CheckResult

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@options(output=("text", "json"))
def doctor(config: str | None, output: str) -> int:
    """Check every target: hosts, and clusters.

    Hosts as `host doctor` does; of a cluster the API server, rights, KServe, webhooks, GPUs, clock,
    inventory and lease. Changes nothing. Run it as the daemon's user. Exit code 1 when there is a
    problem; warnings do not change the exit code.
    """
    from reconciler.config.settings import config_path

    log_to_stderr()
    keys = ("target", "topic", "level", "message", "fix")
    return report(_examine(config_path(config)), output, "reconciler.doctor/v1", keys)


def _examine(path: Path) -> Iterator[CheckResult]:
    from reconciler.cluster.doctor import examine as examine_cluster
    from reconciler.config.settings import Settings
    from reconciler.errors import SettingsError
    from reconciler.host.doctor import examine

    yield from examine(path, needs_host=False)
    try:
        targets = Settings.load(path).clusters
    except SettingsError:
        # That is one of the findings.
        return
    for target in targets:
        yield from examine_cluster(target)


def report(findings: Iterable[CheckResult], output: str, schema: str, keys: tuple[str, ...]) -> int:
    """Print findings as they come, or as a document with these keys of each. Returns the exit code."""
    from reconciler.report.findings import Level

    found: list[CheckResult] = []
    for one in findings:
        found.append(one)
        if output == "text":
            _print_finding(one)
    problems, warnings = (sum(one.level is level for one in found) for level in (Level.PROBLEM, Level.WARNING))
    if output == "json":
        document = [{key: str(getattr(one, key)) for key in keys} for one in found]
        print_json({"schema": schema, "fit": not problems, "findings": document})
    else:
        click.echo(f"{len(found)} checks: {problems} problems, {warnings} warnings")
    return NO if problems else OK


def _print_finding(finding: CheckResult) -> None:
    from reconciler.report.redact import printable, scrub_text

    mark = f"{finding.level:<8}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        mark = click.style(mark, fg=_COLOURS[finding.level])
    topic = f"{finding.target} {finding.topic}".lstrip()
    click.echo(f"{mark} {topic}: {printable(scrub_text(finding.message))}")
    if finding.fix:
        click.echo(f"{'':<8} how to fix: {printable(scrub_text(finding.fix))}")
    sys.stdout.flush()
