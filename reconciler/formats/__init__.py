"""Text that others wrote, read within limits: YAML, JSON, names."""
