"""What the state of a cluster's objects means: is it well, and is its rollout over? Pure."""
