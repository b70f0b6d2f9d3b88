"""With `CI=true` a test that could not run is a failure, because a part is missing; elsewhere its reason is printed."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest


def _refuse_skip(report: Any, name: str) -> None:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{name}: a part is missing, and CI=true makes that a failure\n{reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """Tests that were skipped."""
    report = yield
    _refuse_skip(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Whole files that were skipped."""
    report = yield
    _refuse_skip(report, collector.nodeid)
    return report
