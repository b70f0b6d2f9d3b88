"""What all tests share."""

import signal

pytest_plugins = ["tests.engine.fixtures", "tests.nvml.driver", "tests.storage.fixtures", "tests.strict"]

# A shell's background job has SIGINT ignored, and what it starts inherits that: here it is to end what is interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
