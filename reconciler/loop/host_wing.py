"""The stages of passes over a host."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from reconciler.config.settings import HostSettings
from reconciler.host.execute import execute, make_pool
from reconciler.host.health import Patience
from reconciler.host.plan import make_plan
from reconciler.model import Action, Desired, DesiredState, FailedAction, Holds, Observed, Plan, Result, Unreachable
from reconciler.model.target import Perform, Seen, Target


class Host(Target, Protocol):
    """What a host answers in addition."""

    def observe(self, wanted: tuple[Desired, ...], /) -> Observed | Unreachable:
        """What is there now, and what of it concerns what is wanted. Writes nothing."""

    def preflight(self, wanted: tuple[Desired, ...], observed: Observed, /) -> Observed | Unreachable:
        """The same, with what is known of the wanted specs before anything of them starts. Asks nothing by itself."""


class HostWing:
    """Passes over one host."""

    def __init__(self, settings: HostSettings, host: Host) -> None:
        self._settings = settings
        self._host = host
        self.target: Target = host
        self._pool = make_pool()

    def observe(self, desired: DesiredState) -> Observed | Unreachable:
        versions = desired.versions
        observed = self._host.observe(versions)
        return self._host.preflight(versions, observed) if isinstance(observed, Observed) else observed

    def plan(
        self, desired: DesiredState, observed: Seen | Unreachable, holds: Holds, failures: Collection[FailedAction]
    ) -> Plan:
        if not isinstance(observed, Observed | Unreachable):
            raise TypeError(f"{desired.target} is a host, and a cluster answered")
        return make_plan(desired, observed, holds, patience(self._settings), failures)

    def execute(self, plan: Plan, perform: Perform, waiting: Collection[Action]) -> tuple[Result, ...]:
        return execute(plan, perform, self._pool, waiting)

    def rehearse(self, plan: Plan) -> bool:
        return False

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.target.close()


def patience(settings: HostSettings) -> Patience:
    """How long is long enough, from the config."""
    given = settings.rollout
    return Patience(given.min_ready, given.ready_timeout, given.drain_timeout, given.stop_grace)
