"""Commands about targets as a whole: target rename."""

from __future__ import annotations

import click

from reconciler.cli.shared import OK, act_as_owner, log_to_stderr, options, settings_of


@click.group()
def target() -> None:
    """Rename a target."""


@target.command()
@click.argument("old")
@click.argument("new")
@options()
def rename(config: str | None, old: str, new: str) -> int:
    """Rename the target OLD of this host to NEW.

    Nothing is restarted: replicas, proxy, ports, GPUs, history and quarantine continue under the new
    name. Run it while the daemon is stopped; then write NEW into the config and start the daemon.
    """
    from reconciler.loop import rename_target

    log_to_stderr()
    settings = settings_of(config)
    act_as_owner(settings)
    done = rename_target(settings, old, new)
    click.echo(
        f"target {old} renamed to {new}; nothing was restarted"
        if done
        else f"target {old} was already renamed to {new}"
    )
    if new not in [each.name for each in settings.targets]:
        click.echo(f"next: write `name: {new}` into the config in place of {old}, then start the daemon")
    return OK
