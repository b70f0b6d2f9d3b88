"""Real vLLM for tests; see fixtures.py."""
