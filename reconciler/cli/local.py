"""Commands that need neither daemon nor config: render, validate, demo, version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.shared import (
    OK,
    options,
    print_json,
    show,
)

if TYPE_CHECKING:
    pass


_PATHS = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=_PATHS)
@options(config=False, output=("yaml", "json"))
def render(paths: tuple[Path, ...], output: str) -> int:
    """Show what would run, for manifests in files.

    Effective runtime, container, arguments and storage of each service. Needs no daemon and no config.
    """
    from reconciler.review import render_paths

    document, code = render_paths(paths)
    if output == "json":
        print_json(document)
    else:
        import yaml

        # By way of JSON, so that nothing is written as an alias of something else.
        click.echo(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False), nl=False)
    return code


@click.command()
@click.argument("paths", nargs=-1, required=True, type=_PATHS)
@options(config=False, output=("text", "json"))
def validate(paths: tuple[Path, ...], output: str) -> int:
    """Check manifests as KServe would, for pre-commit and CI.

    Needs no daemon and no config. Warnings are ours and never turn the answer.
    """
    from reconciler.report.text import review_blocks
    from reconciler.review import validate_paths

    document, code = validate_paths(paths)
    if output == "json":
        print_json(document)
    else:
        show(review_blocks(document))
    return code


@click.command()
@click.option("--once", is_flag=True, help="Clean up at the end; exit code 0 only if all went as promised.")
@click.option("--stop", is_flag=True, help="End the demo that runs.")
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), help="Where it keeps its files.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the proxy, else the first free one from 8080.")
@click.option("--python", type=click.Path(dir_okay=False, path_type=Path), help="Interpreter that has vLLM.")
@options(config=False, output=("text", "json"))
def demo(once: bool, stop: bool, folder: Path | None, port: int | None, python: Path | None, output: str) -> int:
    """See it work: push, change under load, refuse a bad commit."""
    from reconciler.demo import run as run_demo

    return run_demo(once=once, stop=stop, folder=folder, port=port, python=python, output=output)


@click.command()
def version() -> int:
    """Print the version."""
    from reconciler import __version__

    click.echo(__version__)
    return OK
