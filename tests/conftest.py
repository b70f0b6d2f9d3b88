"""What all tests share."""

import signal

pytest_plugins = [
    "tests.support.engine.fixtures",
    "tests.support.nvml.driver",
    "tests.controlplane.fixtures",
    "tests.host.staging.fixtures",
    "tests.support.strict",
]

# A shell's background job has SIGINT ignored, and what it starts inherits that: here it is to end what is interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
