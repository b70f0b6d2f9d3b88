"""What all tests share."""

import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from tests.support.examples import examples

pytest_plugins = [
    "tests.support.engine.fixtures",
    "tests.support.nvml.driver",
    "tests.controlplane.fixtures",
    "tests.forge.gitea.fixtures",
    "tests.host.staging.fixtures",
    "tests.support.strict",
]

# A shell's background job has SIGINT ignored, and what it starts inherits that: here it is to end what is interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)

# For properties that say nothing else. How long one example takes tells nothing on a busy machine.
settings.register_profile("ours", settings(), max_examples=examples(100), deadline=None)
settings.load_profile("ours")


@pytest.fixture(autouse=True)
def unconfigured_log() -> Iterator[None]:
    """A test that configures the log, as each command does, hides nothing from later tests."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
