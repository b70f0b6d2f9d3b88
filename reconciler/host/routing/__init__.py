"""The proxy in front of a host's replicas."""
