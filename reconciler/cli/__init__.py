"""The command line: arguments → call → print → exit code. It decides nothing.

Everything heavy is imported inside the commands: `--help` must be fast.

passes   run, plan, sync, diff: make passes, or show what one would do
daemon   status, open, history, logs, suspend, resume, restart: ask the daemon that runs
local    render, validate, init, demo, version: need no daemon
doctor   doctor: check the targets of the config
host     host doctor, drain, undrain, install, uninstall
target   target rename
shared   exit codes, options and printing
"""

from __future__ import annotations

import sys

import click

from reconciler import __version__
from reconciler.cli import daemon, doctor, host, local, passes, target
from reconciler.cli.shared import BROKEN_PIPE, INTERRUPTED, NO, OK, UNAVAILABLE, WRONG
from reconciler.cli.streams import OutputLost, end_output, guard_streams
from reconciler.errors import ReconcileError, Retryable, Terminal

_EPILOG = """\b
Exit codes:
  0  success: done, valid, in sync with git
  1  not converged, out of sync, invalid, blocked or failed
  2  wrong usage, invalid config, or unusable input or output
  3  unavailable: the daemon is not running, or the source or a target cannot be reached

SERVICE is a name, where it is unique, or namespace/name.
The config file is --config PATH, else $RECONCILER_CONFIG, else /etc/reconciler/config.yaml."""


def main() -> None:
    """The entry point of `reconciler`."""
    guard_streams()
    code = run(sys.argv[1:])
    end_output()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. A user error is one message, never a traceback."""
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
        return _report_error(error)
    except OutputLost as gone:
        return _report_lost_output(gone)
    except Exception as error:
        return _report_bug(error, debug="--debug" in arguments)


def _report_error(error: ReconcileError) -> int:
    from reconciler.report.redact import printable, scrub_text

    click.echo(f"reconciler: {printable(scrub_text(str(error)))}", err=True)
    return UNAVAILABLE if isinstance(error, Retryable) else WRONG if isinstance(error, Terminal) else NO


def _report_lost_output(gone: OutputLost) -> int:
    if not gone.reason:
        return BROKEN_PIPE
    click.echo(f"reconciler: cannot write the output: {gone.reason}", err=True)
    return WRONG


def _report_bug(error: Exception, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    click.echo(f"reconciler: {what}; this is a bug, please report it with what --debug prints", err=True)
    return NO


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """GitOps for vLLM: KServe manifests in git become served models."""


for _command in (
    passes.run_command,
    passes.plan,
    passes.sync,
    passes.diff,
    daemon.status,
    daemon.open_page,
    daemon.history,
    daemon.suspend,
    daemon.resume,
    daemon.restart,
    daemon.approve,
    daemon.logs,
    local.render,
    local.validate,
    local.init,
    local.demo,
    doctor.doctor,
    host.host,
    target.target,
    local.version,
):
    cli.add_command(_command)
