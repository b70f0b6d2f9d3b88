"""What the config says of a cluster, as plans need it."""

from __future__ import annotations

from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.objects.ignore import IgnoreRule
from reconciler.cluster.objects.paths import parse_path
from reconciler.cluster.plan import ClusterPolicy
from reconciler.cluster.rollout.batches import BatchSettings
from reconciler.cluster.rollout.drain import DrainSettings
from reconciler.config.settings import ClusterSettings, IgnoredFields


def policy_of(settings: ClusterSettings) -> ClusterPolicy:
    """What the config says, as the plan needs it. Raises SettingsError."""
    rollout = settings.rollout
    health = HealthLimits(
        scheduling=rollout.schedule_timeout,
        loading=rollout.ready_timeout,
        min_ready=rollout.min_ready,
    )
    drain = DrainSettings(timeout=int(rollout.drain_timeout)) if settings.drain else None
    return ClusterPolicy(
        health=health,
        drain=drain,
        ignore=tuple(_rule(each) for each in settings.ignore),
        batches=BatchSettings(then=rollout.batch),
        take_over=settings.take_over,
        preflight=settings.preflight,
        shares_namespace=settings.namespace == settings.default_namespace,
    )


def _rule(ignored: IgnoredFields) -> IgnoreRule:
    kind, _, group = ignored.kind.partition(".")
    name, namespace = ("" if each == "*" else each for each in (ignored.name, ignored.namespace))
    paths = tuple(parse_path(each) for each in ignored.paths)
    return IgnoreRule(paths, "" if kind == "*" else kind, group, namespace, name)
