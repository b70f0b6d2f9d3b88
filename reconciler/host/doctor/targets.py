"""Targets: is what is on record here driven by the config?"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.config.settings import Settings
from reconciler.errors import SettingsError
from reconciler.report.findings import CheckResult, ok, problem, warning
from reconciler.state.target_registry import TargetRegistry


def check_targets(settings: Settings) -> Iterator[CheckResult]:
    """Renamed, removed or otherwise changed targets of which something is on record."""
    try:
        leftovers = TargetRegistry(settings.state_dir).check(settings)
    except SettingsError as error:
        yield problem("targets", str(error), "the daemon refuses this config until then, and keeps the one before")
        return
    for left in leftovers:
        yield warning("targets", str(left), left.fix)
    if not leftovers:
        yield ok("targets", "every replica on record belongs to a target of the config")
