"""What all tests share."""

pytest_plugins = ["tests.engine.fixtures", "tests.storage.fixtures"]
