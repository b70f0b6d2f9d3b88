"""What all tests share."""

pytest_plugins = ["tests.engine.fixtures", "tests.nvml.driver", "tests.storage.fixtures", "tests.strict"]
