"""All checks, one after the other, so that progress is visible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from reconciler.config.settings import HostSettings, Settings, TargetSettings
from reconciler.errors import ReconcileError, SettingsError
from reconciler.host.doctor import engines, folders, git, gpus, machine, network, podman, systemd, targets
from reconciler.host.doctor.finding import CheckResult, ok, problem, raised

Check = Callable[[], Iterable[CheckResult]]


def examine(path: Path) -> Iterator[CheckResult]:
    """Findings about this host and the config at `path`; without a config that can be used, about the host alone."""
    settings, faults = _load(path)
    yield from faults
    if settings is not None:
        yield ok("config", f"{path}: {', '.join(_called(target) for target in settings.targets)}")
        yield from made("config", partial(folders.check_config, path))
    for topic, check in checks(settings):
        yield from made(topic, check)


def _load(path: Path) -> tuple[Settings | None, list[CheckResult]]:
    if not path.exists() and not path.is_symlink():
        fix = "reconciler host install writes one to fill in; or name yours with --config"
        return None, [problem("config", f"{path}: no such file", fix)]
    try:
        return Settings.load(path), []
    except SettingsError as error:
        fix = "correct the file; deploy/CONFIGURATION.md explains every key"
        return None, [problem("config", line, fix) for line in str(error).splitlines()]


def _called(target: TargetSettings) -> str:
    return f"target {target.name} (kind {target.kind})"


def checks(settings: Settings | None) -> Iterator[tuple[str, Check]]:
    """Every check with its topic, prerequisites first."""
    yield "git", git.check_program
    yield "kustomize", git.check_kustomize
    if settings is not None:
        yield "sops", partial(git.check_sops, settings)
        yield "ssh", partial(git.check_ssh, settings.source)
        yield "source", partial(git.check_source, settings)
        yield "state", partial(folders.check_state, settings)
        yield "targets", partial(targets.check_targets, settings)
        for target in settings.hosts:
            yield from _target_checks(target, settings)
        yield "web", partial(network.check_web, settings)
    yield "systemd", partial(systemd.check_systemd, settings)
    yield "clock", machine.check_clock
    yield "memory", machine.check_shared_memory
    yield "limits", partial(machine.check_files, settings)
    yield "limits", machine.check_inotify


def _target_checks(target: HostSettings, settings: Settings) -> Iterator[tuple[str, Check]]:
    yield "user", partial(systemd.check_user, target, settings)
    yield "gpus", partial(gpus.check_gpus, target)
    yield "engines", partial(engines.check_engines, target)
    yield "podman", partial(podman.check_podman, target)
    yield "storage", partial(engines.check_fetching, target)
    yield "capacity", partial(machine.check_capacity, target)
    yield "folders", partial(folders.check_folders, target, settings)
    yield "ports", partial(network.check_ports, target, settings)
    yield "proxy", network.check_envoy
    yield "proxy", partial(network.check_proxy, target, settings)


def made(topic: str, check: Check) -> Iterator[CheckResult]:
    """What a check finds, or why it could not be performed: the others continue."""
    try:
        yield from check()
    except ReconcileError as error:
        yield raised(topic, error)
    except OSError as error:
        yield problem(topic, f"cannot be checked: {error}", "run this as the daemon's user")
    except Exception as error:
        message = f"cannot be checked: {type(error).__name__}: {error}"
        yield problem(topic, message, "this is a bug of the reconciler, please report it")
