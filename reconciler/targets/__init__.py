"""Places that run services."""
