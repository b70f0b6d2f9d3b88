"""The health of a host's replicas: probed in the background, derived from their responses."""
