"""All checks, one after the other, so that progress is visible."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reconciler.config.settings import HostSettings, Settings, TargetSettings
from reconciler.errors import SettingsError
from reconciler.forge import doctor
from reconciler.host.doctor import engines, folders, git, gpus, machine, network, podman, signatures, systemd, targets
from reconciler.report.findings import Check, CheckResult, made, ok, problem
from reconciler.web import doctor as page


def examine(path: Path, needs_host: bool = True) -> Iterator[CheckResult]:
    """Findings about this host and the config at `path`; without a config that can be used, about the host alone.

    Without `needs_host`, what only replicas need of a host is left out where no target is a host.
    """
    settings, faults = _load(path)
    yield from faults
    needs_host = needs_host or settings is None or bool(settings.hosts)
    if settings is not None:
        yield ok("config", f"{path}: {', '.join(_called(target) for target in settings.targets)}")
    if settings is not None and needs_host:
        # In a pod it is a ConfigMap, which others may read.
        yield from made("config", partial(folders.check_config, path))
    for topic, check in checks(settings, needs_host):
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


def checks(settings: Settings | None, needs_host: bool = True) -> Iterator[tuple[str, Check]]:
    """Every check with its topic, prerequisites first."""
    yield "git", git.check_program
    yield "kustomize", git.check_kustomize
    if settings is not None:
        yield "sops", partial(git.check_sops, settings)
        yield "ssh", partial(git.check_ssh, settings.source)
        yield "signatures", partial(signatures.check_signatures, settings.source.verify)
        yield "source", partial(git.check_source, settings)
        yield "state", partial(folders.check_state, settings)
        yield "targets", partial(targets.check_targets, settings)
        for target in settings.hosts:
            yield from _target_checks(target, settings)
        yield "web", partial(network.check_web, settings)
        yield "tls", partial(page.check_tls, settings)
        yield "login", partial(page.check_login, settings)
        yield "peers", partial(page.check_peers, settings)
        yield "forge", partial(doctor.check_forge, settings)
        yield "webhooks", partial(doctor.check_webhooks, settings)
        yield "notifications", partial(doctor.check_notifications, settings)
    yield "clock", machine.check_clock
    if not needs_host:
        return
    yield "systemd", partial(systemd.check_systemd, settings)
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
