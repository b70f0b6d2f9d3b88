"""KServe's semantics, off-cluster: pure functions on plain data."""
