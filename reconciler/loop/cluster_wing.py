"""The stages of passes over a Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from reconciler.cluster.execute import execute, make_pool
from reconciler.cluster.observed import ClusterObserved
from reconciler.cluster.plan import make_plan
from reconciler.cluster.policy import policy_of
from reconciler.cluster.target import ClusterTarget
from reconciler.config.settings import ClusterSettings
from reconciler.model import Action, DesiredState, FailedAction, Holds, Plan, Result, Unreachable
from reconciler.model.target import Perform, Seen, Target
from reconciler.secrets import SecretStore
from reconciler.state.folder import APPLIED


class ClusterWing:
    """Passes over one cluster."""

    def __init__(
        self,
        settings: ClusterSettings,
        folder: Path,
        wake: Callable[[], None],
        secrets: Callable[[], SecretStore],
    ) -> None:
        """Raises SettingsError."""
        self._policy = policy_of(settings)
        self._cluster = ClusterTarget(
            settings, folder / APPLIED, wake, secrets, self._policy.health, self._policy.ignore
        )
        self.target: Target = self._cluster
        self._pool = make_pool()

    def observe(self, desired: DesiredState) -> ClusterObserved | Unreachable:
        return self._cluster.observe(desired)

    def plan(
        self, desired: DesiredState, observed: Seen | Unreachable, holds: Holds, failures: Collection[FailedAction]
    ) -> Plan:
        if not isinstance(observed, ClusterObserved | Unreachable):
            raise TypeError(f"{desired.target} is a cluster, and a host answered")
        return make_plan(desired, observed, holds, self._policy, failures)

    def execute(self, plan: Plan, perform: Perform, waiting: Collection[Action]) -> tuple[Result, ...]:
        results = execute(plan, perform, self._pool, waiting) if plan.actions else ()
        self._cluster.save()
        return results

    def rehearse(self, plan: Plan) -> bool:
        return self._cluster.rehearse(plan, self._pool)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cluster.close()
