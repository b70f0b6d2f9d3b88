"""Commands that need no daemon: render, validate, init, demo, version."""

from __future__ import annotations

import gc
import json
import resource
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.shared import (
    NO,
    OK,
    WRONG,
    log_to_stderr,
    options,
    print_json,
    settings_of,
    show,
    tell,
)
from reconciler.errors import Retryable, Terminal
from reconciler.system import process_limits

if TYPE_CHECKING:
    from reconciler.config.settings import Settings
    from reconciler.manifests import Manifests
    from reconciler.preview.on_cluster import Document

_NEXT_STEPS = """\
{folder} has an example of everything; its README.md explains each folder. Next steps:
  1. Rename hosts/gpu-1 to your host's name, put into it what to serve, and delete the folders that you do not need.
  2. reconciler validate {folder}
  3. Commit and push it.
  4. On the host: reconciler host install, then write into /etc/reconciler/config.yaml where the repository is
     (source.url) and which folders this host reads (paths: [runtimes, hosts/NAME]).
"""
_SPLIT = ": the daemon would refuse them; split large files, or remove what was added last"
_PATHS = click.Path(exists=True, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@contextmanager
def _all_at_once() -> Iterator[None]:
    """Within the limits that a daemon sets. Raises Terminal beyond them.

    The process ends right after printing: garbage collection in a big tree costs more than it frees.
    """
    known = [(kind, resource.getrlimit(kind)) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CPU)]
    handler = signal.signal(signal.SIGXCPU, _give_up)
    process_limits.limit_memory(process_limits.MEMORY_BYTES)
    process_limits.limit_cpu(process_limits.CPU_SECONDS)
    gc.disable()
    try:
        yield
    except MemoryError:
        raise Terminal(f"reading these files takes more than {process_limits.MEMORY_BYTES >> 20} MiB{_SPLIT}") from None
    except _TooSlow:
        text = f"reading these files takes more than {process_limits.CPU_SECONDS:g} s of computing{_SPLIT}"
        raise Terminal(text) from None
    finally:
        gc.enable()
        for kind, limits in known:
            resource.setrlimit(kind, limits)
        signal.signal(signal.SIGXCPU, handler)


class _TooSlow(BaseException):
    """Never handled as the error of one document."""


def _give_up(*_: object) -> None:
    raise _TooSlow


@click.command()
@click.argument("paths", nargs=-1, required=True, type=_PATHS)
@click.option("--target", help="Also show what this target of the config would start.")
@options(output=("yaml", "json"))
def render(paths: tuple[Path, ...], target: str | None, config: str | None, output: str) -> int:
    """Show what would run, for manifests in files.

    Effective runtime, container, arguments and storage of each service. Needs no daemon;
    only --target needs the config.
    """
    from reconciler.manifests import read_paths

    with _all_at_once():
        document = _render(read_paths(paths), target, config)
    if output == "json":
        print_json(document)
    else:
        _print_yaml(document)
    return NO if document["errors"] or any(_is_refused(service) for service in document["services"]) else OK


def _print_yaml(document: Document) -> None:
    """Text of several lines, such as a unit, as a literal block."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """A separate dumper class, so that its representers do not change other dumpers."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    # Where all characters can be printed they need no escapes, which a literal block does not have.
    plain = "utf" in (sys.stdout.encoding or "").lower()
    # By way of JSON, so that nothing is written as an alias of something else.
    whole = json.loads(json.dumps(document))
    click.echo(yaml.dump(whole, Dumper=Dumper, sort_keys=False, allow_unicode=plain, width=120), nl=False)


def _render(manifests: Manifests, target: str | None, config: str | None) -> Document:
    if target is None:
        from reconciler.preview.on_cluster import disclosed, render

        for reason in disclosed(manifests):
            tell(f"warning: {reason}")
        return render(manifests)
    settings = settings_of(config)
    wanted = settings.target(target)
    log_to_stderr()
    if wanted.kind == "kubernetes":
        from reconciler.preview.on_cluster_target import render_on_cluster

        return render_on_cluster(manifests, wanted)
    from reconciler.preview.on_host import render_on

    return render_on(manifests, wanted, _state_of(settings, target))


def _state_of(settings: Settings, target: str) -> Path:
    """Where a daemon keeps the target's state; under the target's own name where that may not be read."""
    from reconciler.state.target_registry import TargetRegistry

    try:
        return TargetRegistry(settings.state_dir).folder_of(target)
    except Retryable:
        return settings.state_dir / target


def _is_refused(service: Document) -> bool:
    return bool(service["errors"] or (service.get("host") or {}).get("blocked"))


@click.command()
@click.argument("paths", nargs=-1, required=True, type=_PATHS)
@click.option("--target", help="Also check what this target of the config does not support.")
@options(output=("text", "json"))
def validate(paths: tuple[Path, ...], target: str | None, config: str | None, output: str) -> int:
    """Check manifests as KServe would, for pre-commit and CI.

    Needs no daemon; only --target needs the config. Neither warnings nor what cannot be checked (kinds of KServe that
    are not supported here) change the exit code; with the latter the result is "not checked" instead of "valid".
    """
    from reconciler.manifests import read_paths
    from reconciler.report.text import review_blocks

    with _all_at_once():
        manifests = read_paths(paths)
        document = _validate(manifests, target, config)
    if output == "json":
        print_json(document)
        return NO if document["errors"] else OK
    show(review_blocks(document))
    return WRONG if manifests.illegible else NO if document["errors"] else OK


def _validate(manifests: Manifests, target: str | None, config: str | None) -> Document:
    if target is None:
        from reconciler.desired.origins import locator
        from reconciler.preview.on_cluster import validate

        return validate(manifests, locate=locator(manifests))
    settings = settings_of(config)
    wanted = settings.target(target)
    log_to_stderr()
    if wanted.kind == "kubernetes":
        from reconciler.preview.on_cluster_target import validate_on_cluster

        return validate_on_cluster(manifests, wanted)
    from reconciler.preview.on_host import validate_on

    return validate_on(manifests, wanted, settings.closed, _state_of(settings, target))


@click.command()
@click.option("--once", is_flag=True, help="Clean up at the end; exit code 0 only if everything went as expected.")
@click.option("--stop", is_flag=True, help="Stop the running demo.")
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder for its files.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the proxy; default: the first free one from 8080.")
@click.option(
    "--python", type=click.Path(dir_okay=False, path_type=Path), help="Python interpreter with vLLM installed."
)
@click.option(
    "--forge", "url", metavar="URL", help="https URL of an empty repository to use; its commits are answered."
)
@click.option(
    "--token-file", type=_FILE, help="With --forge: file with a token that may push and write commit statuses."
)
@click.option("--ca-file", type=_FILE, help="With --forge: CA certificates instead of the system's.")
@click.option("--forge-kind", default="auto", help="With --forge: as forge.kind in the config.")
@options(config=False)
def demo(
    once: bool,
    stop: bool,
    folder: Path | None,
    port: int | None,
    python: Path | None,
    url: str | None,
    token_file: Path | None,
    ca_file: Path | None,
    forge_kind: str,
) -> int:
    """Run a demo: push, change a model under load, reject a bad commit."""
    from reconciler.demo import run as run_demo
    from reconciler.demo.place import demo_forge

    forge = demo_forge(url, token_file, ca_file, forge_kind)
    return run_demo(once=once, stop=stop, folder=folder, port=port, python=python, forge=forge)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--git", "with_git", is_flag=True, help="Also make it a git repository.")
@options(config=False)
def init(folder: Path, with_git: bool) -> int:
    """Create a repository of models in FOLDER, which must be new or empty: runtimes, a host, a cluster and a README.

    Nothing is installed or started; the next steps are printed.
    """
    from reconciler.demo.layout import begin_repository
    from reconciler.demo.repository import git

    begin_repository(folder)
    if with_git and not (folder / ".git").exists():
        git("init", "--quiet", "--initial-branch=main", str(folder))
    click.echo(_NEXT_STEPS.format(folder=shlex.quote(str(folder))), nl=False)
    return OK


@click.command()
def version() -> int:
    """Print the version."""
    from reconciler import __version__

    click.echo(__version__)
    return OK
